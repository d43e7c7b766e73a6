"""The rules of a site over the API: state, standing alarms, versions."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from api.application import make_app
from api.rule_versions import PAGE
from telemetry.site import RuleSpec, SiteConfig
from tests.faults.web_world import World, config_record, fill, make_world, site


async def test_rules_with_state_standing_alarms_and_versions(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    fill(world)
    config = site("north")
    hotter = config.rules[0].model_copy(update={"version": 2, "when": "air_temp_c > 40"})
    trial = RuleSpec(id="TRIAL", profile="house", when="air_temp_c > 30", shadow=True)
    world.write(records=[config_record(config.model_copy(update={"rules": [hotter, trial]}))])
    transport = httpx.ASGITransport(make_app(world.parts), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', ['north'])}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as http:
        listed = (await http.get("/api/v1/sites/north/rules")).json()["items"]
        assert [(r["rule"], r["version"], r["state"], r["standing"]) for r in listed] == [
            ("HOT", 2, "enabled", 1), ("TRIAL", 1, "shadow", 0),
        ]  # fmt: skip
        assert listed[0]["alarm_changed_ms"] is not None
        hot = (await http.get("/api/v1/sites/north/rules/HOT")).json()
        assert hot["specification"]["when"] == "air_temp_c > 40"
        newest, first = (await http.get("/api/v1/sites/north/rules/HOT/versions")).json()["items"]
        assert (newest["what"], newest["version"], newest["sender"], newest["fields"]) == (
            "changed",
            2,
            "test",
            [
                {"field": "version", "before": 1, "after": 2},
                {"field": "when", "before": "air_temp_c > 38", "after": "air_temp_c > 40"},
            ],
        )
        assert (first["what"], first["version"], first["fields"]) == ("added", 1, [])
        path = "/api/v1/sites/north/rules/TRIAL/versions"
        assert [v["what"] for v in (await http.get(path, params={"shadow": True})).json()["items"]] == ["added"]
        assert (await http.get(path)).status_code == 404
        assert (await http.get("/api/v1/sites/north/rules/NONE")).status_code == 404
        assert (await http.get("/api/v1/sites/south/rules")).status_code == 404
    world.close()


def history_of(world: World, *versions: dict[str, Any] | None) -> None:
    """Configurations of `north`, one after the other, whose rule HOT is that; None: without it."""
    config = site("north")
    for spec in versions:
        rules = [] if spec is None else [config.rules[0].model_copy(update=spec)]
        world.write(records=[config_record(config.model_copy(update={"rules": rules}))])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(world.parts), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {world.token('wang', 'engineer', ['north'])}"}
    base = "http://testserver/api/v1/sites/north/"
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as made:
        yield made


async def test_versions_over_time_and_a_diff_of_any_two(world: World, http: httpx.AsyncClient) -> None:
    two = {"version": 2, "when": "air_temp_c > 40", "author": "li", "changed": "2026-01-02", "comment": "new screen"}
    history_of(world, two, two, None, {**two, "version": 3, "comment": "back again"}, {**two, "version": 4, "priority": "P1"})
    items = (await http.get("rules/HOT/versions")).json()["items"]
    assert [(v["what"], v["version"], v["author"], v["comment"]) for v in items] == [
        ("changed", 4, "li", "new screen"), ("added", 3, "li", "back again"), ("removed", None, "test", ""),
        ("changed", 2, "li", "new screen"), ("added", 1, "", ""),
    ]  # fmt: skip
    assert items[0]["time_ms"] > items[-1]["time_ms"]
    assert len((await http.get("rules/HOT/versions", params={"limit": 2})).json()["items"]) == 2
    newest = (await http.get("rules/HOT/diff")).json()
    assert (newest["before"]["version"], newest["after"]["version"]) == (3, 4)
    assert [f["field"] for f in newest["fields"]] == ["version", "comment", "priority"]
    any_two = (await http.get("rules/HOT/diff", params={"from_version": 1, "to_version": 3})).json()
    assert {f["field"]: (f["before"], f["after"]) for f in any_two["fields"]}["when"] == ("air_temp_c > 38", "air_temp_c > 40")
    for absent in ({"from_version": 9}, {"to_version": 9}):
        assert (await http.get("rules/HOT/diff", params=absent)).status_code == 404
    assert (await http.get("rules/HOT/diff", params={"to_version": 1})).json()["before"] is None


async def test_versions_of_a_rule_in_more_configurations_than_a_page(world: World, http: httpx.AsyncClient) -> None:
    history_of(world, *({"version": n // 5 + 2, "when": f"air_temp_c > {n // 5}"} for n in range(5 * PAGE)))
    items = (await http.get("rules/HOT/versions")).json()["items"]
    assert [v["version"] for v in items] == [*range(PAGE + 1, 0, -1)]


async def test_a_rule_is_put_with_its_version_written_for_it(world: World, http: httpx.AsyncClient) -> None:
    sha256 = (await http.get("config")).json()["sha256"]
    rule = {"id": "HOT", "version": 9, "author": "boss", "profile": "house", "when": "air_temp_c > 41", "priority": "P2"}
    answer = await http.put("rules/HOT", json={"rule": rule, "comment": "new screen", "sha256": sha256, "id": "put-hot-1"})
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert (told["version"], [(c["rule"], c["what"]) for c in told["changes"]]) == (2, [("HOT", "changed")])
    assert {"field": "when", "before": "air_temp_c > 38", "after": "air_temp_c > 41"} in told["changes"][0]["fields"]
    request = world.inbox.requests[told["request"]]
    assert (request.kind, request.author, request.body["base"]) == ("config", "wang", sha256)
    config = SiteConfig.model_validate_json(request.body["text"])
    assert config.sha256() == told["sha256"]
    (hot,) = config.rules
    assert (hot.version, hot.author, hot.comment, hot.changed) == (2, "wang", "new screen", "2026-01-01T08:00+08:00")
    world.write(records=[config_record(config)])
    again = await http.put("rules/HOT", json={"rule": rule, "sha256": sha256})
    assert (again.status_code, again.json()["type"]) == (409, "/problems/conflict")  # another comment: not the same
    for key in ("put-hot-1", None):
        again = await http.put("rules/HOT", json={"rule": rule, "comment": "new screen", "sha256": sha256, "id": key})
        assert again.status_code == 202, again.text
        assert again.json() == told | {"is_new": False, "changes": [], "request": told["request"] if key else ""}
    assert len(world.inbox.requests) == 1


@pytest.mark.parametrize(
    ("spec", "path", "says"),
    [
        ({"when": "air_tmp_c > 38"}, "body.rule.when", "line 1, column 1: no point 'air_tmp_c'; did you mean air_temp_c?"),
        ({"when": "air_temp_c > 1 and weather.wind > 3"}, "body.rule.when", "column 20: no link 'weather'"),
        ({"when": "air_temp_c > air_rh_pct"}, "body.rule.when", "mixes units"),
        ({"area": "nowhere"}, "body.rule.area", "area 'nowhere' does not exist"),
        (
            {"demand": {"actuator": "rof_vent", "value": 1, "level": "economy"}},
            "body.rule.demand.actuator",
            "did you mean roof_vent?",
        ),
        (
            {"demand": {"actuator": "roof_vent", "value": "1 > 0", "level": "economy"}},
            "body.rule.demand.value",
            "a number is expected",
        ),
        ({"suppress_when": "air_temp_c +"}, "body.rule.suppress_when", "column 13"),
        ({"id": "OTHER"}, "body.rule.id", "must be 'HOT'"),
        ({"when": "x" * 3000}, "body.rule.when", "at most 2000 characters"),
    ],
)
async def test_a_rule_that_cannot_be_bound_is_refused(
    world: World, http: httpx.AsyncClient, spec: dict[str, Any], path: str, says: str
) -> None:
    rule = {"id": "HOT", "profile": "house", "when": "air_temp_c > 1"} | spec
    answer = await http.put("rules/HOT", json={"rule": rule, "sha256": site("north").sha256()})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["path"], says in error["message"]) == (path, True), error
    assert not world.inbox.requests


async def test_a_configuration_whose_rules_cannot_be_bound_is_refused(world: World, http: httpx.AsyncClient) -> None:
    """As `apply` does; the rule, the field, line and column, and the fix are named."""
    config = site("north").model_dump(mode="json")
    config["rules"] += [
        {"id": "WIND", "profile": "house", "when": "air_temp_c > 1\n and weather.wind > 3"},
        {"id": "TRIAL", "profile": "house", "shadow": True, "when": "air_tmp_c > 3"},
        {"id": "OFF", "enabled": False, "profile": "house", "when": "air_temp_c >"},
    ]
    config["profiles"]["house"]["rules"] = [{"id": "WET", "when": "air_rh_pc > 95"}, {"id": "GALE", "when": "mast.wind > 17"}]
    answer = await http.post("config", json=config)
    assert answer.status_code == 422
    assert [(e["path"], e["message"]) for e in answer.json()["errors"]] == [
        ("body.profiles.house.rules.0.when", "rule WET: line 1, column 1: no point 'air_rh_pc'; did you mean air_rh_pct?"),
        ("body.rules.1.when", "rule WIND: line 2, column 6: no link 'weather' in the rule's area"),
        ("body.rules.2.when", "rule TRIAL: line 1, column 1: no point 'air_tmp_c'; did you mean air_temp_c?"),
        ("body.rules.3.when", "rule OFF: line 1, column 13: the expression ends where a number, a point or a function is expected"),
    ]
    assert not world.inbox.requests


async def test_a_rule_is_switched_and_removed(world: World, http: httpx.AsyncClient) -> None:
    async def put(state: str, **more: Any) -> tuple[int, Any]:
        answer = await http.put("rules/HOT/state", json={"state": state, **more})
        if answer.status_code == 202:
            text = world.inbox.requests[answer.json()["request"]].body["text"]
            world.write(records=[config_record(SiteConfig.model_validate_json(text))])
        return answer.status_code, answer.json()

    assert (await put("shadow", comment="too many"))[0] == 202
    (listed,) = (await http.get("rules")).json()["items"]
    assert (listed["state"], listed["version"], listed["author"]) == ("shadow", 2, "wang")
    status, told = await put("shadow")
    assert (status, told["detail"]) == (409, "Rule 'HOT' is a shadow already.")
    assert (await put("enabled"))[1]["version"] == 3
    assert (await put("disabled", sha256="0" * 64))[0] == 409
    assert (await put("disabled"))[0] == 202
    assert [rule["state"] for rule in (await http.get("rules")).json()["items"]] == ["disabled"]
    assert (await http.put("rules/NONE/state", json={"state": "disabled"})).status_code == 404
    sha256 = (await http.get("config")).json()["sha256"]
    assert (await http.delete("rules/HOT", params={"sha256": sha256, "shadow": True})).status_code == 409
    answer = await http.delete("rules/HOT", params={"sha256": sha256, "comment": "never useful"})
    assert (answer.status_code, answer.json()["version"], answer.json()["changes"][0]["what"]) == (202, None, "removed")
    body = world.inbox.requests[answer.json()["request"]].body
    assert body["comment"] == "never useful"
    gone = config_record(SiteConfig.model_validate_json(body["text"]))
    world.write(records=[msgspec.structs.replace(gone, author="wang", comment="never useful")])
    newest = (await http.get("rules/HOT/versions")).json()["items"][0]
    assert (newest["what"], newest["author"], newest["comment"]) == ("removed", "wang", "never useful")
    assert newest["time_ms"] > 0
    assert (await http.delete("rules/NONE", params={"sha256": sha256})).status_code == 404


@pytest.mark.alone
async def test_checking_a_large_configuration_leaves_the_event_loop_alone(world: World, http: httpx.AsyncClient) -> None:
    config = site("north", devices=2_000).model_dump(mode="json")
    config["rules"] = [{"id": f"R{n}", "profile": "house", "when": f"mean(air_temp_c, 10 min) > {n}"} for n in range(300)]
    config["rules"].append({"id": "WRONG", "profile": "house", "when": "air_tmp_c > 1"})
    latest, running = 0.0, True

    async def probe() -> None:
        nonlocal latest
        while running:
            due = time.perf_counter() + 0.005
            await asyncio.sleep(0.005)
            latest = max(latest, time.perf_counter() - due)

    content = json.dumps(config)
    gc.collect()
    gc.freeze()  # what other tests left in this process is not the service's
    probing = asyncio.create_task(probe())
    began = time.perf_counter()
    answer = await http.post("config", content=content)
    took, running = time.perf_counter() - began, False
    await probing
    gc.unfreeze()
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 1
    assert latest < max(0.05, took / 4), f"{latest:.3f} s of {took:.3f} s"

import contextlib
import json
import math
import sqlite3
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.application import make_app
from telemetry.frame import Verdict
from telemetry.quality import BAD, OUT_OF_RANGE
from telemetry.record import Config, Event
from telemetry.site import SiteConfig
from tests.faults.web_world import SECOND_NS, START_NS, World, fill, make_world, site

PROBLEM = "application/problem+json"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    fill(made)
    yield made
    made.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(world.parts), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {world.token('ann', 'admin', None)}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as made:
        yield made


async def test_latest_values_carry_unit_age_and_quality(world: World, client: httpx.AsyncClient) -> None:
    world.write(frames=[("north/house-0", {"air_temp_c": 99.0}, 0.0)], quality=BAD | OUT_OF_RANGE)
    world.clock.advance(3 * SECOND_NS)
    point = (await client.get("/api/v1/sites/north/devices/house-0/points/air_temp_c")).json()
    assert point["unit"] == "°C"
    assert point["latest"] == {
        "value": 99.0,
        "ts_ms": world.writer.now_ns // 1_000_000,
        "age_ms": 3000,
        "quality": "BAD",
        "reasons": ["out_of_range"],
        "members": None,
    }


async def test_nan_is_null_and_the_json_is_strict(world: World, client: httpx.AsyncClient) -> None:
    world.write(
        frames=[("north/house-0", {"air_temp_c": math.nan, "air_rh_pct": math.inf}, 0.0)],
        decisions=[("condition", "HOT@north/house-0", {"on": False, "value": math.nan})],
    )
    for path in ("sites/north/points", "sites/north/decisions", "sites/north/devices/house-0/points/air_temp_c/history", "sites"):
        answer = await client.get(f"/api/v1/{path}")
        assert answer.status_code == 200, answer.text
        json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} in {answer.text}"))  # noqa: B023


async def test_point_list_pages_through_everything_once(client: httpx.AsyncClient) -> None:
    seen, after = [], -1
    while after is not None:
        page = (await client.get("/api/v1/sites/north/points", params={"limit": 3, "after": after})).json()
        seen += [(p["device"], p["point"]) for p in page["items"]]
        after = page["next"]
    assert len(seen) == len(set(seen)) == 8


@pytest.mark.alone
async def test_alarms_say_who_was_told_and_what_comes_next(world: World, client: httpx.AsyncClient) -> None:
    assert world.parts.notify is not None
    [hot] = (await client.get("/api/v1/alarms", params={"site": "north"})).json()["items"]
    next_ms = hot["escalation"].pop("next_ms")
    assert hot["escalation"] == {"told": ["wang"], "steps": 1, "next_to": ["duty"]}
    assert next_ms > hot["raised_ms"]
    other = sqlite3.connect(world.parts.notify, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")  # notify writes: readers are not kept waiting
    try:
        began = time.perf_counter()
        assert (await client.get("/api/v1/alarms", params={"site": "north"})).json()["items"][0]["escalation"] is not None
        assert time.perf_counter() - began < 1
    finally:
        other.close()


@pytest.mark.parametrize("damage", ["gone", "no database", "another build"])
async def test_alarms_are_shown_also_when_nobody_knows_who_was_told(world: World, client: httpx.AsyncClient, damage: str) -> None:
    assert world.parts.notify is not None
    if damage == "another build":
        with contextlib.closing(sqlite3.connect(world.parts.notify)) as other:
            other.execute("UPDATE escalation SET body = ?", (b'{"told": 3}',))
            other.commit()
    else:
        for file in world.parts.notify.parent.glob("notify.sqlite*"):
            file.unlink()
    if damage == "no database":
        world.parts.notify.write_text("words " * 1000)
    [hot] = (await client.get("/api/v1/alarms", params={"site": "north"})).json()["items"]
    assert (hot["subject"], hot["escalation"]) == ("HOT@north/house-0", None)


async def test_history_keeps_extremes_and_gaps_when_downsampled(world: World, client: httpx.AsyncClient) -> None:
    for i in range(300):
        spike = 55.5 if i == 137 else 20.0 + i % 3
        world.write(frames=[("north/house-1", {"air_temp_c": spike}, 0.0)], after_s=120.0 if i == 200 else 1.0)
    path = "/api/v1/sites/north/devices/house-1/points/air_temp_c/history"
    answer = (await client.get(path, params={"points": 20, "start_ms": START_NS // 1_000_000})).json()
    assert answer["samples"] is None
    assert len(answer["buckets"]) <= 20
    assert max(b["max"] for b in answer["buckets"]) == 55.5
    assert sum(b["count"] for b in answer["buckets"]) == 301
    assert any(to - since >= 90_000 for since, to in answer["gaps"])


async def test_history_of_a_short_range_is_raw_with_quality(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/v1/sites/north/devices/house-0/points/air_temp_c/history")).json()
    assert answer["buckets"] is None
    assert [(s["value"], s["quality"]) for s in answer["samples"]] == [(39.5, "GOOD")]


@pytest.mark.parametrize(
    "query",
    [{"points": 0}, {"points": 10**6}, {"start_ms": 5, "end_ms": 5}, {"start_ms": -1}, {"end_ms": 10**30}, {"points": "1e9"}],
)
async def test_impossible_history_range_is_422(client: httpx.AsyncClient, query: dict[str, int]) -> None:
    answer = await client.get("/api/v1/sites/north/devices/house-0/points/air_temp_c/history", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["errors"]


async def test_member_arrays_show_as_mean_with_extremes(world: World, client: httpx.AsyncClient) -> None:
    world.write(frames=[("north/house-0", {"air_temp_c": 20.0}, 0.0)], members={"north/house-0/ends": [1.0, 2.0, 9.0]})
    point = (await client.get("/api/v1/sites/north/devices/house-0/points/ends")).json()
    assert point["latest"]["value"] == 4.0
    assert point["latest"]["members"] == {"count": 3.0, "min": 1.0, "max": 9.0}
    history = (await client.get("/api/v1/sites/north/devices/house-0/points/ends/history")).json()
    assert [s["value"] for s in history["samples"]] == [4.0]
    history = (await client.get("/api/v1/sites/north/devices/house-0/points/ends.max/history")).json()
    assert [s["value"] for s in history["samples"]] == [9.0]


async def test_alarms_are_worst_first(world: World, client: httpx.AsyncClient) -> None:
    world.write(decisions=[("alarm", "FIRE@south/house-1", {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P1"})])
    world.write(
        decisions=[("alarm", "HOT@north/house-0", {"from": "UNACK", "to": "ACKED", "event": "acknowledge", "priority": "P2"})]
    )
    items = (await client.get("/api/v1/alarms")).json()["items"]
    assert [a["subject"] for a in items] == ["FIRE@south/house-1", "HOT@south/house-0", "HOT@north/house-0"]
    assert items[2]["message"]["en"] == "Too hot at north"
    assert items[2]["raised_ms"] < items[2]["changed_ms"]


async def test_alarm_that_returned_to_normal_leaves_the_list_and_stays_in_history(world: World, client: httpx.AsyncClient) -> None:
    world.write(decisions=[("alarm", "HOT@north/house-0", {"from": "ACKED", "to": "NORM", "event": "clear", "priority": "P2"})])
    assert [a["site"] for a in (await client.get("/api/v1/alarms")).json()["items"]] == ["south"]
    events = (await client.get("/api/v1/sites/north/alarms/history")).json()["items"]
    assert [e["evidence"]["event"] for e in events] == ["clear", "assign", "raise"]


async def test_alarm_keeps_the_value_it_was_raised_with(world: World, client: httpx.AsyncClient) -> None:
    change = {"from": "UNACK", "to": "RTNUN", "event": "clear", "priority": "P2", "value": 20.0}
    world.write(decisions=[("alarm", "HOT@north/house-0", change)])
    [alarm] = (await client.get("/api/v1/alarms", params={"site": "north"})).json()["items"]
    assert (alarm["evidence"]["value_at_raise"], alarm["evidence"]["value"]) == (39.5, 20.0)
    world.write(decisions=[("alarm", "HOT@north/house-0", {**change, "to": "UNACK", "event": "raise", "value": 44.0})])
    [alarm] = (await client.get("/api/v1/alarms", params={"site": "north"})).json()["items"]
    assert (alarm["evidence"]["value_at_raise"], alarm["evidence"]["value"]) == (44.0, 44.0)


async def test_acknowledge_becomes_a_request_of_the_session_s_person(world: World, client: httpx.AsyncClient) -> None:
    path = "/api/v1/sites/north/alarms/house-0/HOT/acknowledge"
    first = await client.post(path, json={"id": "abcdefgh"})
    again = await client.post(path, json={"id": "abcdefgh"})
    assert (first.status_code, first.json()["is_new"], again.json()["is_new"]) == (202, True, False)
    request = world.inbox.requests["ann.abcdefgh"]
    assert (request.kind, request.author, request.body) == ("acknowledge", "ann", {"alarm": "HOT@north/house-0"})


async def test_shelving_needs_seconds_and_nothing_else_takes_them(client: httpx.AsyncClient) -> None:
    for action, body in (
        ("shelve", {}),
        ("acknowledge", {"seconds": 60}),
        ("shelve", {"seconds": 10**9}),
        ("shelve", {"seconds": -1}),
    ):
        answer = await client.post(f"/api/v1/sites/north/alarms/house-0/HOT/{action}", json=body)
        assert answer.status_code == 422, (action, body)


@pytest.mark.parametrize("path", ["house-0/NOPE/acknowledge", "house-9/HOT/acknowledge"])
async def test_unknown_alarm_is_404(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(f"/api/v1/sites/north/alarms/{path}")).status_code == 404


async def test_override_is_limited_and_always_ends(world: World, client: httpx.AsyncClient) -> None:
    path = "/api/v1/sites/north/devices/house-0/actuators/roof_vent/override"
    good = {"value": 50, "seconds": 600, "reason": "inspection", "id": "override-1"}
    assert (await client.post(path, json=good)).status_code == 202
    assert world.inbox.requests["ann.override-1"].body == {
        "actuator": "north/house-0/roof_vent",
        "value": 50.0,
        "seconds": 600.0,
        "reason": "inspection",
    }
    for wrong in ({"value": 101}, {"seconds": 0}, {"seconds": 10**6}, {"reason": ""}, {"author": "boss"}, {"value": "NaN"}):
        assert (await client.post(path, json=good | wrong)).status_code == 422, wrong
    assert len(world.inbox.requests) == 1


async def test_request_is_answered_when_the_core_has_decided(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/v1/sites/north/requests/north-person.request1")).json()
    assert answer["accepted"] is True
    assert (await client.get("/api/v1/sites/south/requests/north-person.request1")).status_code == 404


async def test_commands_show_every_step_with_its_reason(world: World, client: httpx.AsyncClient) -> None:
    world.write(
        decisions=[("command", "north/house-0/roof_vent", {"id": "north/house-0/roof_vent:1", "state": "lost", "reason": "no ack"})]
    )
    [command] = (await client.get("/api/v1/sites/north/commands")).json()["items"]
    assert (command["state"], command["reason"], command["value"]) == ("lost", "no ack", 80.0)
    assert [step[0] for step in command["steps"]] == ["sent", "lost"]
    late = {"id": "north/house-0/roof_vent:1", "state": "lost", "late_answer": "accepted", "answer": ""}
    world.write(decisions=[("command", "north/house-0/roof_vent", late)])
    [command] = (await client.get("/api/v1/sites/north/commands")).json()["items"]
    assert [step[0] for step in command["steps"]] == ["sent", "lost"]
    assert command["evidence"]["late_answer"] == "accepted"
    one = await client.get("/api/v1/sites/north/commands/north/house-0/roof_vent:1")
    assert one.json() == command
    device = (await client.get("/api/v1/sites/north/devices/house-0")).json()
    assert device["actuators"][0]["commanded"] == 80.0
    assert device["actuators"][0]["measured"]["value"] == 12.5


async def test_rejects_show_reason_and_inert_payload(world: World, client: httpx.AsyncClient) -> None:
    hostile = "<img onerror=x>\x1b[2J\u202e"
    world.write(
        records=[
            Event(
                "reject",
                "north/house-0",
                {"reason": "bad_json", "topic": "fl/north/house-0/telemetry", "payload": b64encode(hostile.encode()).decode()},
            )
        ]
    )
    newest = (await client.get("/api/v1/rejects", params={"site": "north"})).json()["items"][0]
    assert newest["payload_text"] == "<img onerror=x>\\x1b[2J\\u202e"
    assert newest["reason"] == "bad_json"


async def test_config_with_mistakes_names_every_one(client: httpx.AsyncClient) -> None:
    config = site("north").model_dump(mode="json")
    config["areas"][0]["name"] = "NOT A NAME"
    config["latitude"] = 1000
    config["wrong"] = 1
    answer = await client.post("/api/v1/sites/north/config", json=config)
    assert answer.status_code == 422
    assert {e["path"] for e in answer.json()["errors"]} >= {"body.areas.0.name", "body.latitude", "body.wrong"}


async def test_exported_config_can_be_posted_again(world: World, client: httpx.AsyncClient) -> None:
    exported = (await client.get("/api/v1/sites/north/config")).json()
    answer = await client.post("/api/v1/sites/north/config", json=exported["config"])
    assert (answer.status_code, answer.json()["sha256"]) == (202, exported["sha256"])
    [request] = world.inbox.requests.values()
    assert request.body["text"] == site("north").canonical()


async def test_points_that_are_computed_of_themselves_are_refused(client: httpx.AsyncClient) -> None:
    config = site("north").model_dump(mode="json")
    (name,) = [p for p, profile in config["profiles"].items() if any(x["name"] == "air_temp_c" for x in profile["points"])]
    place = len(config["profiles"][name]["points"])
    config["profiles"][name]["points"] += [
        {"name": "x_c", "unit": "°C", "low": 0, "high": 9, "expression": "max(x_c, air_temp_c)"},
        {"name": "y_c", "unit": "°C", "low": 0, "high": 9, "expression": "air_temp_c + 1"},
    ]
    answer = await client.post("/api/v1/sites/north/config", json=config)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == f"body.profiles.{name}.points.{place}"
    assert f"north/{name}/x_c -> north/{name}/x_c" in error["message"]


async def test_points_tell_what_computes_and_calibrates_them(world: World, client: httpx.AsyncClient) -> None:
    config = site("north").model_dump(mode="json")
    (name,) = [p for p, profile in config["profiles"].items() if any(x["name"] == "air_temp_c" for x in profile["points"])]
    config["profiles"][name]["points"] += [
        {"name": "y_c", "unit": "°C", "low": 0, "high": 9, "expression": "air_temp_c + 1"},
        {"name": "z_c", "unit": "°C", "low": 0, "high": 9, "redundant": ["air_temp_c", "y_c"], "tolerance": 2},
    ]
    config["calibrations"] = [
        {"device": "house-0", "point": "air_temp_c", "offset": 2, "date": "2025-01-01", "expires": "2099-12-31", "by": "li"}
    ]
    changed = SiteConfig.model_validate(config)
    world.write(records=[Config("north", changed.sha256(), changed.canonical(), "li")])
    world.write(frames=[("north/house-0", {"air_temp_c": 20.0}, 0.0)])
    found = {p["point"]: p for p in (await client.get("/api/v1/sites/north/points", params={"device": "house-0"})).json()["items"]}
    told = {point: (found[point]["virtual"], found[point]["redundant"]) for point in ("air_temp_c", "y_c", "z_c")}
    assert told == {
        "air_temp_c": (None, None),
        "y_c": ("air_temp_c + 1", None),
        "z_c": ("vote(2, air_temp_c, y_c)", ["air_temp_c", "y_c"]),
    }
    midnight_ms = changed.end_of_day_ns("2099-12-31") // 1_000_000
    assert {point: p["calibrated_until_ms"] for point, p in found.items() if p["calibrated_until_ms"]} == {
        "air_temp_c": midnight_ms
    }
    assert found["air_temp_c"]["latest"]["value"] == 22.0
    raw = (await client.get("/api/v1/sites/north/devices/house-0/points/air_temp_c.raw/history")).json()
    assert [row["value"] for row in raw["samples"]] == [20.0]


async def test_config_of_another_site_than_the_address_is_422(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/v1/sites/south/config", json=site("north").model_dump(mode="json"))).status_code == 422


async def test_every_error_has_the_one_shape(client: httpx.AsyncClient) -> None:
    answers = [
        (404, await client.get("/nowhere")),
        (404, await client.get("/api/v1/sites/east")),
        (405, await client.put("/api/v1/sites")),
        (422, await client.get("/api/v1/sites/north/points", params={"limit": "x"})),
        (413, await client.post("/api/v1/sites/north/alarms/house-0/HOT/shelve", content=b"x" * 100_000)),
        (401, await client.get("/api/v1/sites", headers={"Authorization": "Bearer nonsense"})),
        (421, await client.get("/api/v1/health", headers={"Host": "evil.example"})),
    ]
    for status, answer in answers:
        assert answer.status_code == status
        assert answer.headers["content-type"] == PROBLEM
        assert {"type", "title", "status", "detail"} <= set(answer.json())
        assert answer.json()["status"] == status


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 60_000, b"{", b'{"a"' + b":1" * 9, b"\x00"])
async def test_body_that_is_no_json_is_422(client: httpx.AsyncClient, content: bytes) -> None:
    path = "/api/v1/sites/north/alarms/house-0/HOT/acknowledge"
    answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)


@pytest.mark.parametrize(
    ("path", "methods"), [("tokens", "GET, POST"), ("sites/north/config", "GET, POST"), ("session", "GET, POST, DELETE")]
)
async def test_refused_method_names_every_method_of_the_address(client: httpx.AsyncClient, path: str, methods: str) -> None:
    answer = await client.put(f"/api/v1/{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)


async def test_failure_inside_is_a_problem_without_details(world: World, client: httpx.AsyncClient) -> None:
    world.parts.state.plan.sites["north"] = None  # type: ignore[assignment]
    world.parts.state.commands["x"] = "not a command"  # type: ignore[assignment]
    answer = await client.get("/api/v1/sites/south/commands")
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert "not a command" not in answer.text


async def test_body_without_length_is_refused_while_it_arrives(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    answer = await client.post("/api/v1/sites/north/alarms/house-0/HOT/shelve", content=endless())
    assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)


async def test_readiness_says_what_is_missing(world: World, client: httpx.AsyncClient) -> None:
    assert (await client.get("/ready")).status_code == 200
    world.clock.advance(30 * SECOND_NS)
    answer = await client.get("/api/v1/ready")
    assert (answer.status_code, "30 s" in answer.json()["detail"]) == (503, True)
    assert (await client.get("/health")).status_code == 200


async def test_metrics_balance(world: World, client: httpx.AsyncClient) -> None:
    hostile = 'a"b\\c\nd'
    world.writer.accounting.rejected_by_reason[hostile] = 2
    world.write()
    text = (await client.get("/metrics")).text
    fates = {
        line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("fieldloom_messages{")
    }
    assert fates.pop("received") == sum(fates.values()) == 4
    assert 'fieldloom_alarms{priority="P2",state="UNACK"} 2' in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE")
    for family in families.values():
        assert family.documentation
        assert family.samples, family.name
        assert (family.type == "counter") == any(sample.name.endswith("_total") for sample in family.samples), family.name
    assert [(s.labels, s.value) for s in families["fieldloom_rejects"].samples] == [({"reason": hostile}, 2.0)]
    token = world.token("bob", "viewer", ["north"])
    assert (await client.get("/metrics", headers={"Authorization": f"Bearer {token}"})).status_code == 403


async def test_future_and_older_samples_never_become_the_latest(world: World, client: httpx.AsyncClient) -> None:
    world.write(frames=[("north/house-0", {"air_temp_c": 70.0}, 3600.0)], verdict=Verdict.FUTURE)
    world.write(frames=[("north/house-0", {"air_temp_c": 71.0}, -3600.0)], verdict=Verdict.LATE)
    world.write(frames=[("north/house-0", {"air_temp_c": 72.0}, 0.0)], verdict=Verdict.DUPLICATE)
    point = (await client.get("/api/v1/sites/north/devices/house-0/points/air_temp_c")).json()
    assert point["latest"]["value"] == 39.5


async def test_pages_have_a_strict_content_policy(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "<script>" not in answer.text
    assert " style=" not in answer.text

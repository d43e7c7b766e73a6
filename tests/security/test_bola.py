"""T38: every route of the API, as every role, against a site that is not theirs; the matrix is made from the OpenAPI schema.

A new route is in the matrix by itself; a route whose path parameters are not known here fails until they are named.
The saboteur FIELDLOOM_SABOTAGE=skip_scope (api/auth.py) gives everybody every site and must turn this red.
"""

import importlib
import itertools
import json
import pkgutil
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.routing import WebSocketRoute

import api.routes
from api.application import make_app
from api.auth import RANKS, Role
from tests.faults.web_feed import collect_feed
from tests.faults.web_world import World, fill, make_world, site

pytestmark = pytest.mark.security

ROLES: tuple[Role, ...] = ("viewer", "operator", "engineer", "admin")
HOME, FOREIGN = "north", "south"
PATH_VALUES = {
    "device": "house-0",
    "area": "ms",
    "point": "air_temp_c",
    "rule": "HOT",
    "action": "acknowledge",
    "actuator": "roof_vent",
    "command": "{site}/house-0/roof_vent:1",
    "request": "{site}-person.request1",
    "backtest": "{site}-b1",
    "warming": "{site}-w1",
}
BODIES: dict[str, Any] = {
    "override": {"value": 50, "seconds": 60, "reason": "test"},
    "release": {},
    "confirm": {"request": "{site}-person.request1"},
    "{action}": {},
    "mode": {"mode": "OCCUPIED"},
    "batch": {"day": 3, "name": "of {site}"},
    "config": None,  # a SiteConfig of the site in the path
    "backtests": {"start_ms": 0, "end_ms": 60_000},
    "tokens": {"person": "mallory", "role": "viewer", "sites": ["{site}"]},
    "session": {"token": "x" * 43},
    "tests": {},
    "{rule}": {"rule": {"id": "HOT", "profile": "house", "when": "air_temp_c > 39"}, "sha256": site(HOME).sha256()},
    "state": {"state": "disabled"},
}
QUERIES = {"why": f"?subject=HOT@{HOME}/house-0", "{rule}": f"?sha256={site(HOME).sha256()}"}
PRIVILEGED = {"tenant": FOREIGN, "site": FOREIGN, "sites": [FOREIGN], "author": "boss", "person": "boss", "role": "admin",
              "epoch": 9, "origin": "LIVE", "priority": "P1", "state": "NORM"}  # fmt: skip
NEEDS: dict[tuple[str, str], Role] = {
    ("POST", "{action}"): "operator",
    ("POST", "override"): "operator",
    ("POST", "release"): "operator",
    ("POST", "confirm"): "operator",
    ("POST", "mode"): "operator",
    ("POST", "batch"): "operator",
    ("POST", "config"): "engineer",
    ("PUT", "{rule}"): "engineer",
    ("DELETE", "{rule}"): "engineer",
    ("PUT", "state"): "engineer",
    ("POST", "tests"): "operator",
    ("POST", "backtests"): "engineer",
    ("DELETE", "{backtest}"): "engineer",
    ("POST", "warmings"): "engineer",
    ("DELETE", "{warming}"): "engineer",
    ("POST", "tokens"): "admin",
    ("GET", "tokens"): "admin",
    ("DELETE", "{session}"): "admin",
    ("GET", "audit"): "admin",
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    fill(made)
    yield made
    made.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app(world.parts)), base_url="http://testserver") as made:
        yield made


async def document(client: httpx.AsyncClient) -> Any:
    return (await client.get("/api/v1/openapi.json")).json()


def query_names(operation: dict[str, Any]) -> list[str]:
    return [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]


async def operations(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """(method, path template) of every operation of the schema."""
    paths = (await document(client))["paths"]
    found = [(method.upper(), path) for path, item in paths.items() for method in item]
    assert len(found) >= 25, "the schema has lost its routes"
    return found


def address(template: str, name: str, **values: str) -> str:
    """The template with everything filled in for a site."""
    known = {"site": name, **{k: v.format(site=name) for k, v in PATH_VALUES.items()}, **values}
    missing = set(re.findall(r"{(\w+)}", template)) - set(known)
    assert not missing, f"{template}: name a value for {missing}"
    return template.format(**known)


def body(template: str, name: str) -> Any:
    """A good body for an operation on a site; None when it takes none."""
    last = template.rsplit("/", 1)[1]
    if last in {"config", "warmings"}:
        return site(name).model_dump(mode="json")
    return json.loads(json.dumps(BODIES.get(last)).replace("{site}", name))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def call(client: httpx.AsyncClient, method: str, path: str, token: str, content: Any) -> httpx.Response:
    return await client.request(method, path, headers=bearer(token), json=content if method in ("POST", "PUT", "PATCH") else None)


async def test_every_route_with_a_site_is_404_for_everybody_else(world: World, client: httpx.AsyncClient) -> None:
    tried = 0
    for (method, template), role in itertools.product(await operations(client), ROLES):
        if "{site}" not in template:
            continue
        answer = await call(client, method, address(template, FOREIGN), world.token("eve", role, [HOME]), body(template, FOREIGN))
        assert answer.status_code == 404, f"{method} {template} as {role}: {answer.status_code} {answer.text[:200]}"
        assert FOREIGN not in answer.text
        absent = await call(
            client, method, address(template, "nowhere"), world.token("eve", role, [HOME]), body(template, "nowhere")
        )
        assert (absent.status_code, absent.content) == (answer.status_code, answer.content), "absent and foreign must look the same"
        tried += 1
    assert tried >= 4 * 15
    assert not world.inbox.requests


async def test_no_answer_to_a_stranger_names_the_foreign_site(world: World, client: httpx.AsyncClient) -> None:
    for (method, template), role in itertools.product(await operations(client), ROLES):
        if method != "GET" or "openapi" in template:
            continue
        token = world.token("eve", role, [HOME])
        for query in ("", f"?site={HOME}", f"?site={FOREIGN}", "?limit=200"):
            answer = await client.get(address(template, HOME) + query, headers=bearer(token))
            assert FOREIGN not in answer.text, f"{method} {template}{query} as {role}"
            assert answer.status_code < 500


async def test_filter_by_a_foreign_site_is_404(world: World, client: httpx.AsyncClient) -> None:
    paths = [path for path, item in (await document(client))["paths"].items() if "site" in query_names(item.get("get", {}))]
    assert paths
    for path in paths:
        for name in (FOREIGN, "nowhere"):
            answer = await client.get(path, params={"site": name}, headers=bearer(world.token("eve", "admin", [HOME])))
            assert answer.status_code == 404, (path, name)


async def test_foreign_names_find_nothing_in_any_parameter_of_ones_own_site(world: World, client: httpx.AsyncClient) -> None:
    names = (FOREIGN, f"{FOREIGN}/house-0", f"HOT@{FOREIGN}/house-0", f"../{FOREIGN}", f"{FOREIGN}-person.request1",
             f"{FOREIGN}/house-0/roof_vent:1", f"{HOME}/../{FOREIGN}")  # fmt: skip
    token, tried = world.token("eve", "admin", [HOME]), 0
    for path, item in (await document(client))["paths"].items():
        for method, operation in item.items():
            here = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path" and p["name"] != "site"]
            for name, value in itertools.product(here if "{site}" in path else [], names):
                asked = address(path, HOME, **{name: quote(value, safe="")})
                answer = await call(client, method.upper(), asked, token, body(path, HOME))
                assert answer.status_code in (404, 422), (method, asked, answer.text)
                tried += 1
            for name, value in itertools.product(query_names(operation) if method == "get" else [], names):
                answer = await client.get(address(path, HOME, session="0" * 64), params={name: value}, headers=bearer(token))
                assert answer.status_code in (200, 403, 404, 422), (path, name, value)
                assert FOREIGN not in answer.text, (path, name, value)
                tried += 1
    assert tried > 150
    assert not world.inbox.requests


async def test_every_role_gets_exactly_its_functions(world: World, client: httpx.AsyncClient) -> None:
    for (method, template), role in itertools.product(await operations(client), ROLES):
        last = template.rsplit("/", 1)[1]
        if (method, last) in (("POST", "session"), ("DELETE", "session")):
            continue
        token = world.token("ann", role, None)
        victim = world.parts.gate.sessions.create("bearer", "old", "viewer", frozenset({HOME}), life_s=60)[1].session
        asked = address(template, HOME, session=victim) + QUERIES.get(last, "")
        answer = await call(client, method, asked, token, body(template, HOME))
        needs = NEEDS.get((method, last), "viewer")
        is_allowed = RANKS[role] >= RANKS[needs]
        expected = (200, 201, 202, 204) if is_allowed else (403,)
        assert answer.status_code in expected, f"{method} {template} as {role}: {answer.status_code} {answer.text[:200]}"


async def test_nobody_gets_in_without_a_session(world: World, client: httpx.AsyncClient) -> None:
    open_paths = ("/health", "/ready")
    for method, template in await operations(client):
        if template.endswith(open_paths) or (method, template.rsplit("/", 1)[1]) == ("POST", "session"):
            continue
        path = address(template, HOME, session="0" * 64)
        content = body(template, HOME)
        for headers in ({}, bearer("x" * 43), {"Authorization": "Basic YTpi"}, {"Cookie": f"fieldloom_session={'x' * 43}"}):
            answer = await client.request(method, path, headers=headers, json=content)
            assert answer.status_code == 401, f"{method} {template} {headers}"
    assert not world.inbox.requests


async def test_who_asks_is_settled_before_his_body_is_read(world: World, client: httpx.AsyncClient) -> None:
    """A stranger who sends what is no JSON hears 401, not what is wrong with it; likewise without the role, or for a foreign site."""
    paths, tried = (await document(client))["paths"], 0
    for method, template in await operations(client):
        last = template.rsplit("/", 1)[1]
        if "requestBody" not in paths[template][method.lower()] or (method, last) == ("POST", "session"):
            continue
        asked = {"content": b'{"value": ', "headers": {"Content-Type": "application/json"}}
        statuses = []
        for token, name in (
            (None, HOME), (world.token("eve", "viewer", None), HOME), (world.token("eve", "admin", [HOME]), FOREIGN),
            (world.token("ann", "admin", None), HOME),
        ):  # fmt: skip
            headers = {**asked["headers"], **({} if token is None else bearer(token))}
            answer = await client.request(method, address(template, name), content=asked["content"], headers=headers)
            statuses.append(answer.status_code)
        expected = [401, 403 if (method, last) in NEEDS else 422, 404 if "{site}" in template else 422, 422]
        if last == "tests":
            expected[2] = 422  # of all sites: it is the route itself that refuses
        assert statuses == expected, f"{method} {template}"
        tried += 1
    assert tried >= 9
    assert not world.inbox.requests


async def test_privileged_fields_are_refused_or_ignored(world: World, client: httpx.AsyncClient) -> None:
    token, tried = world.token("ann", "admin", [HOME]), 0
    for method, template in await operations(client):
        content = body(template, HOME)
        if method != "POST":
            continue
        for name, value in PRIVILEGED.items():
            if name in content:
                continue  # a field that is asked for, in the caller's own scope
            answer = await call(client, method, address(template, HOME), token, {**content, name: value})
            assert answer.status_code == 422, f"{template} took {name}"
            tried += 1
        if "{site}" in template:
            by_query = await client.post(
                address(template, HOME), params={"site": FOREIGN, "author": "boss"}, headers=bearer(token), json=content
            )
            assert by_query.status_code == 202
    assert tried > 40
    assert {r.author for r in world.inbox.requests.values()} == {"ann"}
    assert all(FOREIGN not in json.dumps(r.body) for r in world.inbox.requests.values())
    assert {row.person for row in world.parts.gate.sessions.rows()} == {"ann"}


async def test_config_of_a_foreign_site_cannot_come_in_through_ones_own(world: World, client: httpx.AsyncClient) -> None:
    token = world.token("ann", "engineer", [HOME])
    answer = await client.post(f"/api/v1/sites/{HOME}/config", headers=bearer(token), json=site(FOREIGN).model_dump(mode="json"))
    assert answer.status_code == 422
    assert not world.inbox.requests


async def test_administrator_of_a_site_cannot_reach_beyond_it(world: World, client: httpx.AsyncClient) -> None:
    sessions = world.parts.gate.sessions
    token = world.token("ann", "admin", [HOME])
    foreign = sessions.create("bearer", "far", "viewer", frozenset({FOREIGN}), life_s=60)[1]
    everywhere = sessions.create("bearer", "chief", "viewer", None, life_s=60)[1]
    for sites in (None, [FOREIGN], [HOME, FOREIGN]):
        asked = {"person": "mallory", "role": "viewer", "sites": sites}
        assert (await client.post("/api/v1/tokens", headers=bearer(token), json=asked)).status_code == 404
    for session in (foreign.session, everywhere.session):
        assert (await client.delete(f"/api/v1/tokens/{session}", headers=bearer(token))).status_code == 404
        assert sessions.stands(session)
    listed = (await client.get("/api/v1/tokens", headers=bearer(token))).json()["items"]
    assert {tuple(row["sites"]) for row in listed} == {(HOME,)}


async def test_notifications_of_some_sites_name_no_other_and_no_address(world: World, client: httpx.AsyncClient) -> None:
    mine = (await client.get("/api/v1/notifications", headers=bearer(world.token("ann", "viewer", [HOME])))).json()
    assert ([item["message"] for item in mine["items"]], mine["channels"]) == ([f"wang/{HOME}"], None)
    everything = await client.get("/api/v1/notifications", headers=bearer(world.token("ann", "viewer", None)))
    assert len(everything.json()["items"]) == 3
    assert "@north.example" not in everything.text
    token = world.token("ann", "admin", [HOME])
    assert (await client.get("/api/v1/notifications/tests", headers=bearer(token))).json() == {"items": []}
    assert (await client.post("/api/v1/notifications/tests", headers=bearer(token))).status_code == 404
    assert not world.inbox.requests


async def test_live_feed_leaks_nothing_of_a_foreign_site(world: World) -> None:
    foreign_points = {n for n, (owner, _) in enumerate(world.parts.state.plan.point_owner)
                      if world.parts.state.plan.devices[owner].site == FOREIGN}  # fmt: skip
    for role in ROLES:
        messages = await collect_feed(world, world.token("eve", role, [HOME]), change=lambda: fill(world))
        text = json.dumps(messages)
        assert HOME in text
        assert FOREIGN not in text, f"feed as {role}"
        sent = {row[0] for message in messages if message["type"] == "points" for row in message["rows"]}
        assert sent
        assert not sent & foreign_points


async def test_live_feed_refuses_a_foreign_site_and_a_stranger(world: World) -> None:
    token = world.token("eve", "admin", [HOME])
    [foreign] = await collect_feed(world, token, query=f"?site={FOREIGN}")
    [absent] = await collect_feed(world, token, query="?site=nowhere")
    [mixed] = await collect_feed(world, token, query=f"?site={HOME}&site={FOREIGN}")
    assert foreign == absent == mixed
    assert (foreign["type"], foreign["status"]) == ("/problems/not-found", 404)
    [stranger] = await collect_feed(world, "x" * 43)
    assert (stranger["type"], stranger["status"]) == ("/problems/unauthenticated", 401)


def test_the_feed_is_the_only_websocket() -> None:
    """The schema names no WebSocket: a second one would escape the matrix."""
    modules = [importlib.import_module(f"api.routes.{module.name}") for module in pkgutil.iter_modules(api.routes.__path__)]
    found = [route.path for module in modules for route in module.router.routes if isinstance(route, WebSocketRoute)]
    assert found == ["/feed"]


async def test_request_id_of_somebody_else_is_not_taken(world: World, client: httpx.AsyncClient) -> None:
    path = f"/api/v1/sites/{HOME}/alarms/house-0/HOT/acknowledge"
    for person in ("ann", "bob"):
        answer = await client.post(path, headers=bearer(world.token(person, "operator", [HOME])), json={"id": "same-identity"})
        assert answer.json()["is_new"] is True
    assert len(world.inbox.requests) == 2

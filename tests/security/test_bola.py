"""T38: every route of the API, as every role, against a site that is not theirs; the matrix is made from the OpenAPI schema.

A new route is in the matrix by itself; a route whose path parameters are not known here fails until they are named.
The saboteur FIELDLOOM_SABOTAGE=skip_scope (api/auth.py) gives everybody every site and must turn this red.
"""

import itertools
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.application import make_app
from api.auth import RANKS, Role
from tests.faults.web_feed import collect_feed
from tests.faults.web_world import World, fill, make_world, site

pytestmark = pytest.mark.security

ROLES: tuple[Role, ...] = ("viewer", "operator", "engineer", "admin")
HOME, FOREIGN = "north", "south"
PATH_VALUES = {
    "device": "house-0",
    "point": "air_temp_c",
    "rule": "HOT",
    "action": "acknowledge",
    "actuator": "roof_vent",
    "command": "{site}/house-0/roof_vent:1",
    "request": "{site}-person.request1",
}
BODIES: dict[str, Any] = {
    "override": {"value": 50, "seconds": 60, "reason": "test"},
    "release": {},
    "{action}": {},
    "config": None,  # a SiteConfig of the site in the path
    "tokens": {"person": "mallory", "role": "viewer", "sites": ["{site}"]},
    "session": {"token": "x" * 43},
}
PRIVILEGED = {"tenant": FOREIGN, "site": FOREIGN, "sites": [FOREIGN], "author": "boss", "person": "boss", "role": "admin",
              "epoch": 9, "origin": "LIVE", "priority": "P1", "state": "NORM"}  # fmt: skip
NEEDS: dict[tuple[str, str], Role] = {
    ("POST", "{action}"): "operator",
    ("POST", "override"): "operator",
    ("POST", "release"): "operator",
    ("POST", "config"): "engineer",
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


async def operations(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """(method, path template) of every operation of the schema."""
    paths = (await client.get("/api/v1/openapi.json")).json()["paths"]
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
    if last == "config":
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
    for path in ("/api/v1/alarms", "/api/v1/rejects"):
        answer = await client.get(path, params={"site": FOREIGN}, headers=bearer(world.token("eve", "admin", [HOME])))
        assert answer.status_code == 404


async def test_every_role_gets_exactly_its_functions(world: World, client: httpx.AsyncClient) -> None:
    for (method, template), role in itertools.product(await operations(client), ROLES):
        last = template.rsplit("/", 1)[1]
        if (method, last) in (("POST", "session"), ("DELETE", "session")):
            continue
        token = world.token("ann", role, None)
        victim = world.parts.gate.sessions.create("bearer", "old", "viewer", frozenset({HOME}), life_s=60)[1].session
        answer = await call(client, method, address(template, HOME, session=victim), token, body(template, HOME))
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


async def test_privileged_fields_are_refused_or_ignored(world: World, client: httpx.AsyncClient) -> None:
    token = world.token("ann", "operator", [HOME])
    for method, template in await operations(client):
        last = template.rsplit("/", 1)[1]
        if method != "POST" or "{site}" not in template or last == "config":
            continue
        for name, value in PRIVILEGED.items():
            answer = await call(client, method, address(template, HOME), token, {**body(template, HOME), name: value})
            assert answer.status_code == 422, f"{template} took {name}"
        by_query = await client.post(address(template, HOME), params={"site": FOREIGN, "author": "boss"}, headers=bearer(token),
                                     json=body(template, HOME))  # fmt: skip
        assert by_query.status_code == 202
    assert {r.author for r in world.inbox.requests.values()} == {"ann"}
    assert all(FOREIGN not in json.dumps(r.body) for r in world.inbox.requests.values())


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
    assert await collect_feed(world, token, query=f"?site={FOREIGN}") == [{"type": "close", "code": 4404}]
    assert await collect_feed(world, token, query="?site=nowhere") == [{"type": "close", "code": 4404}]
    assert await collect_feed(world, "x" * 43) == [{"type": "close", "code": 4401}]


async def test_request_id_of_somebody_else_is_not_taken(world: World, client: httpx.AsyncClient) -> None:
    path = f"/api/v1/sites/{HOME}/alarms/house-0/HOT/acknowledge"
    for person in ("ann", "bob"):
        answer = await client.post(path, headers=bearer(world.token(person, "operator", [HOME])), json={"id": "same-identity"})
        assert answer.json()["is_new"] is True
    assert len(world.inbox.requests) == 2

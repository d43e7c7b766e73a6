"""Ways in, and what ends them: links, cookies, tokens, forgery, limits, audit."""

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.application import make_app
from api.auth import COOKIE, LINK_LIFE_S, Sessions, first_login_link, token_hash
from telemetry.clock import ManualClock
from tests.faults.web_feed import collect_feed
from tests.faults.web_world import SECOND_NS, START_NS, World, fill, make_world

OURS = {"X-Fieldloom": "1"}
ACKNOWLEDGE = "/api/v1/sites/north/alarms/house-0/HOT/acknowledge"


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


def link(world: World) -> str:
    return world.parts.gate.sessions.create("link", "ann", "operator", frozenset({"north"}), life_s=LINK_LIFE_S)[0]


async def test_login_link_works_once(world: World, client: httpx.AsyncClient) -> None:
    token = link(world)
    answer = await client.post("/api/v1/session", json={"token": token})
    assert answer.json() == {"person": "ann", "role": "operator", "sites": ["north"], "expires_ms": answer.json()["expires_ms"]}
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert (await client.get("/api/v1/session")).json()["person"] == "ann"
    assert (await client.post("/api/v1/session", json={"token": token})).status_code == 401


async def test_login_link_expires(world: World, client: httpx.AsyncClient) -> None:
    token = link(world)
    world.clock.advance((LINK_LIFE_S + 1) * SECOND_NS)
    assert (await client.post("/api/v1/session", json={"token": token})).status_code == 401


async def test_login_link_is_no_token_and_a_token_is_no_cookie(world: World, client: httpx.AsyncClient) -> None:
    bearer = world.token("bot", "viewer", None)
    for headers in (
        {"Authorization": f"Bearer {link(world)}"},
        {"Cookie": f"{COOKIE}={bearer}"},
        {"Cookie": f"{COOKIE}={link(world)}"},
    ):
        assert (await client.get("/api/v1/sites", headers=headers)).status_code == 401


async def test_first_login_link_keeps_its_token_out_of_requests(tmp_path: Path, world: World, client: httpx.AsyncClient) -> None:
    made = first_login_link(tmp_path / "web.sqlite", clock=world.clock, base_url="http://127.0.0.1:8080/")
    address, _, token = made.partition("#")
    assert address == "http://127.0.0.1:8080/login"
    assert (await client.post("/api/v1/session", json={"token": token})).json()["role"] == "admin"


async def test_cookie_alone_changes_nothing(world: World, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/session", json={"token": link(world)})
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site", **OURS},
        {"Origin": "http://evil.example", **OURS},
        {"Origin": "null", **OURS},
    ):
        answer = await client.post(ACKNOWLEDGE, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forgery"), headers
    assert not world.inbox.requests
    assert (await client.post(ACKNOWLEDGE, headers={"Origin": "http://testserver", **OURS})).status_code == 202


async def test_foreign_page_cannot_log_somebody_in(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/session", json={"token": link(world)}, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403


async def test_foreign_page_cannot_open_the_feed_with_our_cookie(world: World, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/session", json={"token": link(world)})
    cookie = (b"cookie", f"{COOKIE}={client.cookies[COOKIE]}".encode())
    host = (b"host", b"testserver")
    messages = await collect_feed(world, "", headers=[host, cookie, (b"origin", b"http://evil.example")])
    assert [(message["type"], message["status"]) for message in messages] == [("/problems/forgery", 403)]
    messages = await collect_feed(world, "", headers=[host, cookie, (b"origin", b"http://testserver")])
    assert messages[0]["type"] == "alarms"


async def test_logout_and_revocation_end_a_session_at_once(world: World, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/session", json={"token": link(world)})
    assert (await client.delete("/api/v1/session", headers=OURS)).status_code == 204
    assert (await client.get("/api/v1/session")).status_code == 401
    token = world.token("bot", "viewer", None)
    admin = {"Authorization": f"Bearer {world.token('ann', 'admin', None)}"}
    assert (await client.delete(f"/api/v1/tokens/{token_hash(token)}", headers=admin)).status_code == 204
    assert (await client.get("/api/v1/sites", headers={"Authorization": f"Bearer {token}"})).status_code == 401


async def test_session_made_from_a_token_ends_with_it(world: World, client: httpx.AsyncClient) -> None:
    token = world.token("bot", "viewer", None)
    await client.post("/api/v1/session", json={"token": token})
    assert (await client.get("/api/v1/session")).status_code == 200
    world.parts.gate.sessions.revoke(token_hash(token))
    assert (await client.get("/api/v1/session")).status_code == 401


async def test_revoked_session_loses_its_live_feed(world: World) -> None:
    token = world.token("bot", "viewer", None)
    messages = await collect_feed(world, token, change=lambda: (world.parts.gate.sessions.revoke(token_hash(token)), fill(world)))
    assert messages[-1] == {"type": "close", "code": 4401}


async def test_one_flipped_character_anywhere_is_refused(world: World, client: httpx.AsyncClient) -> None:
    token = world.token("bot", "viewer", None)
    for at in range(len(token)):
        wrong = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert (await client.get("/api/v1/sites", headers={"Authorization": f"Bearer {wrong}"})).status_code == 401


async def test_too_many_logins_are_429_with_the_wait(world: World, client: httpx.AsyncClient) -> None:
    answers = [await client.post("/api/v1/session", json={"token": "x" * 43}) for _ in range(11)]
    assert [a.status_code for a in answers] == [401] * 10 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    world.clock.advance(61 * SECOND_NS)
    assert (await client.post("/api/v1/session", json={"token": link(world)})).status_code == 200


def test_tokens_are_stored_only_as_hashes(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "web.sqlite", clock=ManualClock(0))
    token, _ = sessions.create("bearer", "bot", "viewer", None, life_s=60)
    sessions.close()
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_sessions_that_ended_long_ago_are_forgotten_at_the_next_start(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    sessions = Sessions(tmp_path / "web.sqlite", clock=clock)
    short, _ = sessions.create("bearer", "old", "viewer", None, life_s=60)
    long, _ = sessions.create("bearer", "scada", "viewer", None, life_s=60 * 86400)
    sessions.close()
    for days, kept in ((29, {"old", "scada"}), (2, {"scada"})):
        clock.advance(days * 86400 * SECOND_NS)
        sessions = Sessions(tmp_path / "web.sqlite", clock=clock)
        assert {row.person for row in sessions.rows()} == kept
        assert sessions.resolve(short, ("bearer",)) is None
        assert sessions.resolve(long, ("bearer",)) is not None
        sessions.close()


async def test_every_change_is_audited_with_its_result(world: World, client: httpx.AsyncClient) -> None:
    admin = {"Authorization": f"Bearer {world.token('ann', 'admin', None)}"}
    viewer = {"Authorization": f"Bearer {world.token('vic', 'viewer', None)}"}
    await client.post(ACKNOWLEDGE, headers=admin, json={"reason": "seen"})
    await client.post(ACKNOWLEDGE, headers=viewer)
    await client.post("/api/v1/session", json={"token": "secret" * 8})
    await client.get("/api/v1/sites", headers=admin)
    rows = (await client.get("/api/v1/audit", headers=admin)).json()["items"]
    assert [(r["person"], r["site"], r["status"], r["result"]) for r in rows] == [
        ("", "", 401, "refused"),
        ("vic", "north", 403, "refused"),
        ("ann", "north", 202, "done"),
    ]
    assert json.loads(rows[2]["body"]) == {"reason": "seen"}
    assert "secret" not in json.dumps(rows)


async def test_audit_is_written_before_the_answer_leaves(world: World, client: httpx.AsyncClient, tmp_path: Path) -> None:
    admin = {"Authorization": f"Bearer {world.token('ann', 'admin', None)}"}
    await client.post(ACKNOWLEDGE, headers=admin)
    with sqlite3.connect(f"file:{tmp_path / 'web.sqlite'}?mode=ro", uri=True) as database:
        assert database.execute("SELECT person FROM audit").fetchall() == [("ann",)]
    database.close()


async def test_strangers_cannot_fill_the_audit(world: World, client: httpx.AsyncClient) -> None:
    for _ in range(5):
        await client.post(ACKNOWLEDGE)
    assert world.parts.gate.sessions.audit_rows(None, 100) == []

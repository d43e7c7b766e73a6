"""Every channel against a real local server: what arrives, and that what does not arrive is an error without a secret in it."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

from people import channels
from people.channels import DeliveryError, make_sender
from people.roster import NotifyConfig, Secret, log_only

# The test server cannot know that its socket speaks TLS already.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

NOW_S = 1_767_225_600
SECRET, ROBOT_KEY = "canary-secret", "canary-key"
LINE = {"alarm": "HOT@north/house-0", "site": "north", "area": "ms", "priority": "P2", "change": "raise", "step": 1,
        "raised_ms": NOW_S * 1000, "time_ms": NOW_S * 1000, "text": {"en": "Air is too hot", "zh": "气温过高"}}  # fmt: skip
MESSAGE: dict[str, Any] = {"id": "wang/7/HOT/0", "contact": "wang", "lines": [LINE], "more": 0}


class Server(ThreadingHTTPServer):
    """Keeps what it gets; answers as it is told."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.hang = threading.Event()  # set: go on
        self.hang.set()
        self.drips = False


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        self.server.hang.wait(20)
        if self.server.drips:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.wfile.closed:
                try:
                    self.wfile.write(b"X: y\r\n")
                    time.sleep(0.05)
                except OSError:
                    return
        status, answer = self.server.answer
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/inside")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(channels, "LIMIT_S", 0.5)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.hang.set()
    made.shutdown()
    thread.join()
    made.server_close()


def sender(channel: dict[str, Any], **secrets: str) -> channels.Sender:
    config = NotifyConfig.model_validate(log_only().model_dump() | {"channels": {"it": channel}})
    known = {"SECRET": SECRET, **secrets}

    def reveal(secret: Secret) -> str:
        return known[secret.env or ""]

    return make_sender(config.channels["it"], config, reveal, lambda: NOW_S * 1_000_000_000)


def webhook(server: Server) -> channels.Sender:
    url = f"http://127.0.0.1:{server.server_port}/alarm"
    return sender({"kind": "webhook", "url": url, "secret": {"env": "SECRET"}})


def robot(server: Server, kind: str, *, signs: bool = True) -> channels.Sender:
    url = f"http://127.0.0.1:{server.server_port}/robot?key={ROBOT_KEY}"
    secret = {"secret": {"env": "SECRET"}} if signs and kind != "wecom" else {}
    return sender({"kind": kind, "url": {"env": "URL"}, **secret}, URL=url)


def failure(made: channels.Sender, address: str = "") -> str:
    with pytest.raises(DeliveryError) as caught:
        made.send(MESSAGE, address, "en")
    words = str(caught.value)
    assert SECRET not in words
    assert ROBOT_KEY not in words
    assert caught.value.__cause__ is None, "a cause may name the address"
    return words


def test_webhook_is_signed_over_time_and_body(server: Server) -> None:
    webhook(server).send(MESSAGE, "", "zh")
    [(path, headers, body)] = server.got
    assert path == "/alarm"
    expected = hmac.new(SECRET.encode(), f"{NOW_S}.".encode() + body, hashlib.sha256).hexdigest()
    assert (headers["X-Fieldloom-Timestamp"], headers["X-Fieldloom-Signature"]) == (str(NOW_S), f"v1={expected}")
    got = json.loads(body)
    assert (got["id"], got["lines"][0]["alarm"], got["title"]) == (MESSAGE["id"], "HOT@north/house-0", "P2 气温过高")


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
def test_webhook_takes_2xx_alone_and_follows_nowhere(server: Server, status: int) -> None:
    server.answer = (status, b"no")
    assert failure(webhook(server)) == f"answered {status}"
    assert len(server.got) == 1


@pytest.mark.alone
def test_server_that_hangs_or_drips_costs_a_limited_time(server: Server) -> None:
    server.hang.clear()
    began = time.monotonic()
    assert failure(webhook(server)) == "no answer within 0.5 s"
    server.hang.set()
    server.drips = True
    assert failure(webhook(server)) == "no answer within 0.5 s"
    assert time.monotonic() - began < 3


def test_server_that_is_not_there(server: Server) -> None:
    made = webhook(server)
    server.shutdown()
    server.server_close()
    assert failure(made).startswith("no answer")


def test_endless_answer_is_refused(server: Server) -> None:
    server.answer = (200, b"x" * (channels.ANSWER_MAX + 1))
    assert failure(webhook(server)) == "the answer is endless"


def test_wecom_robot(server: Server) -> None:
    server.answer = (200, b'{"errcode":0,"errmsg":"ok"}')
    robot(server, "wecom").send(MESSAGE | {"lines": [LINE | {"text": {"zh": "热" * 2000}}]}, "13800001111", "zh")
    [(path, _, body)] = server.got
    got = json.loads(body)
    assert path == f"/robot?key={ROBOT_KEY}"
    assert (got["msgtype"], got["text"]["mentioned_mobile_list"]) == ("text", ["13800001111"])
    assert len(got["text"]["content"].encode()) <= 2048


def test_dingtalk_robot_signs_in_the_address(server: Server) -> None:
    server.answer = (200, b'{"errcode":0,"errmsg":"ok"}')
    robot(server, "dingtalk").send(MESSAGE, "13800001111", "en")
    [(path, _, body)] = server.got
    query = parse_qs(urlsplit(path).query)
    signed = hmac.new(SECRET.encode(), f"{NOW_S * 1000}\n{SECRET}".encode(), hashlib.sha256).digest()
    assert query == {"key": [ROBOT_KEY], "timestamp": [str(NOW_S * 1000)], "sign": [base64.b64encode(signed).decode()]}
    got = json.loads(body)
    assert (got["msgtype"], got["at"]["atMobiles"]) == ("text", ["13800001111"])
    assert "Air is too hot" in got["text"]["content"]


def test_feishu_robot_signs_in_the_body(server: Server) -> None:
    server.answer = (200, b'{"code":0,"msg":"success","data":{}}')
    robot(server, "feishu").send(MESSAGE, "", "zh")
    got = json.loads(server.got[0][2])
    signed = hmac.new(f"{NOW_S}\n{SECRET}".encode(), b"", hashlib.sha256).digest()
    assert (got["timestamp"], got["sign"]) == (str(NOW_S), base64.b64encode(signed).decode())
    assert got["msg_type"] == "text"
    assert "气温过高" in got["content"]["text"]


@pytest.mark.parametrize(
    ("kind", "answer", "says"),
    [
        ("wecom", b'{"errcode":93000,"errmsg":"invalid webhook url"}', "refused with code 93000: invalid webhook url"),
        ("wecom", b'{"errcode":45009,"errmsg":"api freq out of limit"}', "refused with code 45009"),
        ("dingtalk", b'{"errcode":310000,"errmsg":"sign not match canary-secret"}', "refused with code 310000: sign not match ***"),
        ("feishu", b'{"code":19021,"msg":"sign match fail or timestamp is not within one hour"}', "refused with code 19021"),
        ("feishu", b"{}", "refused with code None"),
        ("feishu", b"<html>", "the answer is not that of a robot"),
        ("dingtalk", b"[1]", "the answer is not that of a robot"),
    ],
)
def test_robot_that_answers_200_and_refuses_has_not_taken_it(server: Server, kind: str, answer: bytes, says: str) -> None:
    server.answer = (200, answer)
    assert says in failure(robot(server, kind))


class Box:
    """Keeps mails; asks for a login where it is told to."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 -- aiosmtpd's name
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return self.answer


def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"alarm", SECRET.encode()), handled=False)


@pytest.fixture
def box() -> Box:
    return Box()


@contextlib.contextmanager
def smtp_server(box: Box, *, tls: ssl.SSLContext | None, **more: Any) -> Iterator[int]:
    """An SMTP server on a free port of loopback, in a thread of its own, with TLS from the first byte where a context is given."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Server:
        return await loop.create_server(lambda: SMTP(box, hostname="localhost", loop=loop, **more), "127.0.0.1", 0, ssl=tls)

    async def stop() -> None:
        made.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    made = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield made.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(params=["none", "starttls", "tls"])
def mail(request: pytest.FixtureRequest, box: Box, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The channel for a server of that security; with TLS it asks for a login."""
    security = request.param
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    login = {"authenticator": authenticate, "auth_required": True, "auth_require_tls": security == "starttls"}
    more: dict[str, Any] = {
        "none": {"tls": None},
        "starttls": {"tls": None, "tls_context": context, "require_starttls": True, **login},
        "tls": {"tls": context, **login},
    }[security]
    with smtp_server(box, **more) as port:
        channel = {"kind": "mail", "host": "127.0.0.1", "port": port, "security": security, "sender": "alarm@farm.example"}
        if security != "none":
            channel |= {"username": "alarm", "password": {"env": "SECRET"}, "ca_file": str(tmp_path / "ca.pem")}
        yield channel


def test_mail_arrives(mail: dict[str, Any], box: Box) -> None:
    made = sender(mail)
    for _ in range(2):  # an attempt that is repeated is the same mail
        made.send(MESSAGE | {"lines": [LINE | {"text": {"en": "hot\r\nBcc: eve@example.com"}}]}, "wang@farm.example", "both")
    [(to, first), (_, second)] = box.mails
    assert to == ["wang@farm.example"]
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Bcc"] is None
    assert first["Subject"].startswith("P2 hot Bcc: eve@example.com")
    assert "HOT@north/house-0" in first.get_content()


def test_mail_that_is_refused_is_an_error(mail: dict[str, Any], box: Box) -> None:
    box.answer = "552 mailbox full"
    assert "mailbox full" in failure(sender(mail), "wang@farm.example")


@pytest.mark.parametrize("mail", ["none"], indirect=True)
@pytest.mark.parametrize("address", ["a@b\nBcc: eve@example.com", "王@farm.example"])
def test_address_that_cannot_be_is_an_error_and_no_end_of_the_process(mail: dict[str, Any], box: Box, address: str) -> None:
    assert failure(sender(mail), address).startswith("mail: ")
    assert box.mails == []


@pytest.mark.parametrize("mail", ["starttls", "tls"], indirect=True)
def test_mail_with_a_wrong_password_or_an_unknown_certificate(mail: dict[str, Any], box: Box) -> None:
    assert "refuses user name or password" in failure(sender(mail, SECRET="canary-other"), "wang@farm.example")
    assert "certificate" in failure(sender({k: v for k, v in mail.items() if k != "ca_file"}), "wang@farm.example")
    assert box.mails == []


@pytest.mark.parametrize("mail", ["none"], indirect=True)
def test_mail_server_that_speaks_no_tls_gets_no_password(mail: dict[str, Any], box: Box) -> None:
    asked = mail | {"security": "starttls", "username": "alarm", "password": {"env": "SECRET"}}
    assert "STARTTLS" in failure(sender(asked), "wang@farm.example")
    assert box.mails == []


def command(code: str, **more: Any) -> channels.Sender:
    return sender({"kind": "command", "argv": [sys.executable, "-c", code, "{address}", "{title}"], **more})


def test_program_gets_address_title_and_text(tmp_path: Path) -> None:
    file = tmp_path / "sms"
    code = f"import sys, pathlib; pathlib.Path({str(file)!r}).write_text('|'.join(sys.argv[1:]) + '|' + sys.stdin.read())"
    command(code).send(MESSAGE | {"more": 37}, "+86 138; rm -rf /", "en")
    address, title, text = file.read_text().split("|")
    assert (address, title) == ("+86 138; rm -rf /", "P2: 38 alarms north/ms")
    assert text.endswith("and 37 more")


def test_program_that_fails_hangs_or_is_not_there() -> None:
    assert failure(command("import sys; sys.exit('no modem')")).endswith("ended with 1: no modem")
    assert "did not end within 0.2 s" in failure(command("import time; time.sleep(20)", limit_s=0.2))
    assert "cannot be run" in failure(sender({"kind": "command", "argv": ["/nowhere/gammu"]}))

"""Real InfluxDB 1.6.7 and VictoriaMetrics from Debian on free loopback ports, and servers that are down in every way.

`v2_front` gives InfluxDB 1.6 the face of 2.7 (token, organisation, buckets, mappings, write, delete, its error bodies), so that the
code written for 2.x runs against a real storage engine where no 2.x is at hand. It answers as 2.7's source does; it proves our side
of the contract, not InfluxDB 2 itself. `second_server` is the real one that FIELDLOOM_TEST_INFLUX_URL, _ORG and _TOKEN name.
"""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3
from influxdb_client import BucketRetentionRules, InfluxDBClient
from influxdb_client.rest import ApiException

from store.influx_server import InfluxV1, InfluxV2

START_S = 60.0

_CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{home}/meta"
[data]
  dir = "{home}/data"
  wal-dir = "{home}/wal"
  query-log-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  max-row-limit = {rows_max}
[monitor]
  store-enabled = false
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A child process with an HTTP port; `home` keeps its data over stop and start."""

    def __init__(self, home: Path, program: str, arguments: list[str], port: int, ready_path: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._home, self._command, self._ready_path = home, [program, *arguments], ready_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._home)
        deadline = time.monotonic() + START_S
        with urllib3.PoolManager(retries=False, timeout=1.0) as pool:
            while True:
                with suppress(urllib3.exceptions.HTTPError):
                    if pool.request("GET", self.url + self._ready_path).status < 300:
                        return
                assert self._process.poll() is None, (self._home / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, f"{self._command[0]} does not answer"
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP inside the block: the kernel still accepts connections, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # a thread on another core may run on for a while
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def influxd(home: Path, *, rows_max: int = 0) -> Server | None:
    """InfluxDB 1.6 from Debian with its data in `home`; None when it is not installed. rows_max: of an answer; 0 is any."""
    program = shutil.which("influxd")
    if program is None:
        return None
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (home / "influx.conf").write_text(_CONFIG.format(home=home, port=port, rpc=free_port(), rows_max=rows_max))
    return Server(home, program, ["-config", str(home / "influx.conf")], port, "/ping")


def victoria_metrics(home: Path, *, prefix: str = "") -> Server | None:
    """VictoriaMetrics from Debian with its data in `home`; None when it is not installed. prefix: path that it is served under."""
    program = shutil.which("victoria-metrics")
    if program is None:
        return None
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    arguments = [
        f"-storageDataPath={home}/data",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
        "-memory.allowedBytes=64MB",
        f"-http.pathPrefix={prefix}",
    ]
    return Server(home, program, arguments, port, f"{prefix}/health")


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_given: object) -> None:
        """Nothing on stderr."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(
        self, status: int, body: bytes = b"", content_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)


@contextmanager
def _serving(handler: type[_Quiet]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake-influx")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def wrong_answers(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server that gives every request the same answer."""

    class Handler(_Quiet):
        def do_POST(self) -> None:
            self.body()
            self.answer(status, body, headers=headers)

        do_GET = do_POST  # noqa: N815

    with _serving(Handler) as url:
        yield url


@contextmanager
def picky(url: str, *, lines_max: int) -> Iterator[str]:
    """In front of a real server: 413 for a write of more lines than `lines_max` (gzip bodies are counted unpacked)."""
    pool = urllib3.PoolManager(retries=False)

    class Handler(_Quiet):
        def do_POST(self) -> None:
            body = self.body()
            if self.path.startswith("/write") and gzip.decompress(body).count(b"\n") > lines_max:
                self.answer(413, b'{"error":"Request Entity Too Large"}')
                return
            passed = {name: value for name, value in self.headers.items() if name.startswith("Content-")}
            response = pool.request("POST", url + self.path, body=body, headers=passed)
            self.answer(response.status, response.data)

    with _serving(Handler) as front:
        yield front
    pool.clear()


class Fickle:
    """In front of a real server: passes everything on, until `mode` says how it is down."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode = "pass"  # black_hole: never answers; stranger: another machine answers; hangs_up: closes every connection
        self.url = ""


@contextmanager
def fickle(target: str) -> Iterator[Fickle]:
    """A `Fickle` on a free port."""
    pool, state, is_over = urllib3.PoolManager(retries=False), Fickle(target), threading.Event()

    class Handler(_Quiet):
        def do_POST(self) -> None:
            body, mode = self.body(), state.mode
            if mode == "black_hole":
                while state.mode == mode and not is_over.wait(0.02):
                    pass
            if mode in ("black_hole", "hangs_up"):
                self.close_connection = True
            elif mode == "stranger":
                self.answer(200, b"<html>Welcome! Log in to use the network.</html>", "text/html")
            else:
                kept = ("Authorization", "Content-Type", "Content-Encoding", "Accept")
                headers = {name: self.headers[name] for name in kept if name in self.headers}
                response = pool.request(self.command, state.target + self.path, body=body, headers=headers)
                self.answer(response.status, response.data)

        do_GET = do_DELETE = do_POST  # noqa: N815

    with _serving(Handler) as url:
        state.url = url
        yield state
        is_over.set()
    pool.clear()


@contextmanager
def black_hole() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def no_http() -> Iterator[str]:
    """Greets every connection as another protocol would and hangs up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                        connection.shutdown(socket.SHUT_WR)
                        connection.recv(4096)

        thread = threading.Thread(target=greet, name="no-http")
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def full_backlog() -> Iterator[str]:
    """Does not even complete a connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


ORG_ID = "0123456789abcdef"


@contextmanager
def v2_front(url: str, *, org: str, token: str, maps_by_itself: bool = True) -> Iterator[str]:
    """InfluxDB 2.7 as its source answers, over the 1.x server at `url`. Servers before 2.5 do not map buckets by themselves.

    Another organisation has a bucket of every name too; who does not say whose bucket he wants gets that one.
    """
    pool = urllib3.PoolManager(retries=False)
    buckets: dict[str, str] = {}  # name -> id
    mappings: dict[tuple[str, str], str] = {}  # (database, policy) -> bucket id
    foreign = "f" * 16

    def by_itself() -> dict[tuple[str, str], str]:
        named = {(name.partition("/")[0], name.partition("/")[2] or "autogen"): id_ for name, id_ in buckets.items()}
        return (named if maps_by_itself else {}) | mappings

    def shown(name: str, id_: str) -> dict[str, object]:
        rules = [{"type": "expire", "everySeconds": 0, "shardGroupDurationSeconds": 604800}]
        return {"id": id_, "orgID": ORG_ID if id_ != foreign else foreign, "type": "user", "name": name, "retentionRules": rules}

    class Handler(_Quiet):
        def do_GET(self) -> None:
            self.dispatch({"/api/v2/buckets": self.find_bucket, "/api/v2/orgs": self.find_org, "/api/v2/dbrps": self.find_mapping})

        def do_POST(self) -> None:
            self.dispatch(
                {
                    "/api/v2/write": self.write, "/api/v2/buckets": self.create_bucket, "/api/v2/dbrps": self.map_bucket,
                    "/api/v2/delete": self.delete, "/query": self.query,
                }
            )  # fmt: skip

        def do_DELETE(self) -> None:
            self.body()
            name = next(name for name, id_ in buckets.items() if id_ == self.path.rpartition("/")[2])
            self.influxql(f'DROP DATABASE "b_{buckets.pop(name)}"')
            self.answer(204)

        def dispatch(self, handlers: dict[str, object]) -> None:
            parts, body = urlsplit(self.path), self.body()
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if self.headers.get("Authorization") != f"Token {token}":
                self.refuse(401, "unauthorized", "unauthorized access")
            elif asked.get("org", org) not in (org, ORG_ID) or asked.get("orgID", ORG_ID) != ORG_ID:
                self.refuse(404, "not found", f'organization name "{asked.get("org")}" not found')
            elif parts.path not in handlers:
                self.refuse(404, "not found", "path not found")
            else:
                handlers[parts.path](asked, body)  # type: ignore[operator]

        def refuse(self, status: int, code: str, message: str) -> None:
            self.answer(status, json.dumps({"code": code, "message": message}).encode())

        def influxql(self, statement: str, database: str = "") -> None:
            fields = {"q": statement, "db": database}
            answer = pool.request("POST", f"{url}/query", fields=fields, encode_multipart=False)
            assert b"error" not in answer.data, answer.data

        def find_bucket(self, asked: dict[str, str], _body: bytes) -> None:
            name = asked["name"]
            if "org" not in asked and "orgID" not in asked:
                self.answer(200, json.dumps({"buckets": [shown(name, foreign)]}).encode())
            elif name in buckets:
                self.answer(200, json.dumps({"buckets": [shown(name, buckets[name])]}).encode())
            else:
                self.refuse(404, "not found", f'bucket "{name}" not found')

        def find_org(self, _asked: dict[str, str], _body: bytes) -> None:
            self.answer(200, json.dumps({"orgs": [{"id": ORG_ID, "name": org}]}).encode())

        def find_mapping(self, asked: dict[str, str], _body: bytes) -> None:
            id_ = by_itself().get((asked["db"], asked["rp"]))
            found = [] if id_ is None else [{"id": id_, "database": asked["db"], "retention_policy": asked["rp"], "bucketID": id_}]
            self.answer(200, json.dumps({"content": found}).encode())

        def create_bucket(self, _asked: dict[str, str], body: bytes) -> None:
            given = json.loads(body)
            assert given["orgID"] == ORG_ID
            name, id_ = given["name"], uuid.uuid4().hex[:16]
            if name in buckets:
                self.refuse(422, "conflict", f"bucket with name {name} already exists")
                return
            buckets[name] = id_
            keep_s = sum(rule["everySeconds"] for rule in given["retentionRules"])
            self.influxql(f'CREATE DATABASE "b_{id_}"' + (f" WITH DURATION {keep_s}s" if keep_s else ""))
            self.answer(201, json.dumps(shown(name, id_)).encode())

        def map_bucket(self, _asked: dict[str, str], body: bytes) -> None:
            given = json.loads(body)
            named = given["database"], given["retention_policy"]
            assert given["orgID"] == ORG_ID
            if "/" in "".join(named) or named in mappings:
                self.refuse(422, "conflict", "another DBRP mapping with same orgID, db, and rp exists")
                return
            mappings[named] = given["bucketID"]
            self.answer(201, body)

        def write(self, asked: dict[str, str], body: bytes) -> None:
            if asked["bucket"] not in buckets:
                self.refuse(404, "not found", f'bucket "{asked["bucket"]}" not found')
                return
            path = f"/write?db=b_{buckets[asked['bucket']]}&precision={asked['precision']}"
            encoding = {"Content-Encoding": self.headers.get("Content-Encoding", "identity")}
            response = pool.request("POST", url + path, body=body, headers=encoding)
            message = json.loads(response.data)["error"] if response.status == 400 else ""
            if message.startswith("partial write"):
                self.refuse(422, "unprocessable entity", f"failure writing points to database: {message}")
            elif message:
                self.refuse(400, "invalid", message)
            else:
                self.answer(response.status, response.data)

        def delete(self, asked: dict[str, str], body: bytes) -> None:
            given = json.loads(body)
            assert given["predicate"] == '_measurement="sample"'
            assert given["start"] > "1677-09-21T00:12:44"
            statement = f"DELETE FROM sample WHERE time >= '{given['start']}' AND time <= '{given['stop']}'"
            self.influxql(statement, f"b_{buckets[asked['bucket']]}")
            self.answer(204)

        def query(self, _asked: dict[str, str], body: bytes) -> None:
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            id_ = by_itself().get((form["db"], form["rp"]))
            if id_ is None:
                results = [{"statement_id": 0, "error": f"database not found: {form['db']}"}]
            else:
                passed = urlencode({"db": f"b_{id_}", "epoch": form["epoch"], "q": form["q"]})
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                response = pool.request("POST", f"{url}/query", body=passed, headers=kind)
                if response.status != 200:
                    self.refuse(400, "invalid", f"failed to parse query: {json.loads(response.data)['error']}")
                    return
                results = json.loads(response.data)["results"]
            failed = next((k for k, result in enumerate(results) if "error" in result), None)
            if failed is not None:  # ends there, and only the last statement's own reason survives
                results = results[: failed + 1]
                if failed < form["q"].count(";"):
                    results[failed]["error"] = "not executed"
            self.answer(200, json.dumps({"results": results}).encode())

    with _serving(Handler) as front:
        yield front
    pool.clear()


class Second(NamedTuple):
    """A real InfluxDB 2.x."""

    url: str
    org: str
    token: str


def second_server() -> Second | None:
    """The one the environment names; None when it names none."""
    named = Second(*(os.environ.get(f"FIELDLOOM_TEST_INFLUX_{part}", "") for part in ("URL", "ORG", "TOKEN")))
    return named if all(named) else None


class Database(NamedTuple):
    """A database (1.x) or bucket (2.x) of its own on a server."""

    name: str
    url: str
    second: Second | None = None

    def connect(self, **limits: float) -> InfluxV1 | InfluxV2:
        """A connection; the database is made on first use."""
        if self.second is None:
            return InfluxV1(self.url, self.name, **limits)
        return InfluxV2(self.url, org=self.second.org, bucket=self.name, token=self.second.token, **limits)

    def drop(self) -> None:
        """Remove it, if it is there."""
        if self.second is None:
            with urllib3.PoolManager() as pool:
                fields = {"q": f'DROP DATABASE "{self.name}"'}
                assert pool.request("POST", f"{self.url}/query", fields=fields, encode_multipart=False).status == 200
            return
        with InfluxDBClient(url=self.url, org=self.second.org, token=self.second.token) as client:
            buckets = client.buckets_api()
            found: list[Any] = []
            with suppress(ApiException):  # 404 when there is none
                found = buckets.find_buckets(name=self.name, org=self.second.org).buckets
            for bucket in found:
                buckets.delete_bucket(bucket)

    def make(self, *, keep_s: int) -> None:
        """Create it beforehand, as somebody who wants to forget samples after a while."""
        if self.second is None:
            with urllib3.PoolManager() as pool:
                fields = {"q": f'CREATE DATABASE "{self.name}" WITH DURATION {keep_s}s'}
                assert pool.request("POST", f"{self.url}/query", fields=fields, encode_multipart=False).status == 200
            return
        with InfluxDBClient(url=self.url, org=self.second.org, token=self.second.token) as client:
            rule = BucketRetentionRules(type="expire", every_seconds=keep_s)
            client.buckets_api().create_bucket(bucket_name=self.name, org=self.second.org, retention_rules=[rule])

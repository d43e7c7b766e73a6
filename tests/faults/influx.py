"""Real InfluxDB 1.6.7 and VictoriaMetrics from Debian on free loopback ports, and servers that are down in every way.

`v2_front` gives InfluxDB 1.6 the face of 2.x (token, buckets, mappings, /api/v2/write), so that the code written for 2.x runs
against a real storage engine; it proves our side of the contract, not InfluxDB 2 itself.
"""

import gzip
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import urllib3

START_S = 20.0

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
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def influxd(home: Path) -> Server | None:
    """InfluxDB 1.6 from Debian with its data in `home`; None when it is not installed."""
    program = shutil.which("influxd")
    if program is None:
        return None
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (home / "influx.conf").write_text(_CONFIG.format(home=home, port=port, rpc=free_port()))
    return Server(home, program, ["-config", str(home / "influx.conf")], port, "/ping")


def victoria_metrics(home: Path) -> Server | None:
    """VictoriaMetrics from Debian with its data in `home`; None when it is not installed."""
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
    ]
    return Server(home, program, arguments, port, "/health")


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_given: object) -> None:
        """Nothing on stderr."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes = b"", content_type: str = "application/json") -> None:
        self.send_response(status)
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
def wrong_answers(status: int, body: bytes) -> Iterator[str]:
    """A server that gives every request the same answer."""

    class Handler(_Quiet):
        def do_POST(self) -> None:
            self.body()
            self.answer(status, body)

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


@contextmanager
def v2_front(url: str, *, org: str, token: str) -> Iterator[str]:
    """The 2.x interface over the 1.x server at `url`."""
    pool = urllib3.PoolManager(retries=False)
    buckets: dict[str, str] = {}  # name -> id
    mapped: set[str] = set()

    class Handler(_Quiet):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if self.refuse():
                return
            if parts.path == "/api/v2/buckets":
                found = [{"id": id_, "name": name, "retentionRules": []} for name, id_ in buckets.items() if name == asked["name"]]
                answer = json.dumps({"buckets": found}) if found else '{"code":"not found","message":"bucket not found"}'
                self.answer(200 if found else 404, answer.encode())
            elif parts.path == "/api/v2/orgs":
                found = [{"id": "0123456789abcdef", "name": org}] if asked["org"] == org else []
                self.answer(200, json.dumps({"orgs": found}).encode())
            elif parts.path == "/api/v2/dbrps":
                found = [{"database": name, "retention_policy": "autogen"} for name in mapped if name == asked["db"]]
                self.answer(200, json.dumps({"content": found}).encode())
            else:
                self.answer(404, b'{"code":"not found"}')

        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.body()
            if self.refuse():
                return
            handle = {
                "/api/v2/write": self.write,
                "/api/v2/buckets": self.create_bucket,
                "/api/v2/dbrps": self.map_bucket,
                "/api/v2/delete": self.delete,
                "/query": self.query,
            }
            handle[parts.path](asked, body)

        def refuse(self) -> bool:
            if self.headers.get("Authorization") == f"Token {token}":
                return False
            self.answer(401, b'{"code":"unauthorized","message":"unauthorized access"}')
            return True

        def write(self, asked: dict[str, str], body: bytes) -> None:
            if asked["org"] != org or asked["bucket"] not in buckets:
                self.answer(404, b'{"code":"not found","message":"bucket not found"}')
                return
            path = f"/write?db={asked['bucket']}&precision={asked['precision']}"
            self.forward(path, body, {"Content-Encoding": self.headers.get("Content-Encoding", "identity")})

        def create_bucket(self, _asked: dict[str, str], body: bytes) -> None:
            name = json.loads(body)["name"]
            buckets[name] = f"{len(buckets):016x}"
            pool.request("POST", f"{url}/query", fields={"q": f'CREATE DATABASE "{name}"'}, encode_multipart=False)
            self.answer(201, json.dumps({"id": buckets[name], "name": name, "retentionRules": []}).encode())

        def map_bucket(self, _asked: dict[str, str], body: bytes) -> None:
            given = json.loads(body)
            assert given["bucketID"] == buckets[given["database"]]
            mapped.add(given["database"])
            self.answer(201, body)

        def delete(self, asked: dict[str, str], body: bytes) -> None:
            given = json.loads(body)
            assert given["predicate"] == '_measurement="sample"'
            statement = f"DELETE FROM sample WHERE time < '{given['stop']}'"
            answer = pool.request("POST", f"{url}/query?db={asked['bucket']}", fields={"q": statement}, encode_multipart=False)
            assert b"error" not in answer.data, answer.data
            self.answer(204)

        def query(self, _asked: dict[str, str], body: bytes) -> None:
            if parse_qs(body.decode())["db"][0] not in mapped:
                self.answer(404, b'{"error":"database not found"}')
                return
            self.forward("/query", body, {"Content-Type": "application/x-www-form-urlencoded"})

        def forward(self, path: str, body: bytes, headers: dict[str, str]) -> None:
            response = pool.request("POST", url + path, body=body, headers=headers)
            self.answer(response.status, response.data)

    with _serving(Handler) as front:
        yield front
    pool.clear()

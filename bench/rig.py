"""What every bench stands on: compiled references, a broker, the service's processes as a user starts them, and their CPU and memory.

Only what users have is driven: broker, HTTP, command line, installed package.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
LIBRARIES = {
    "loadgen": ["-lmosquitto"],
    "subscriber": ["-lmosquitto"],
    "probe": [],
    "publisher": ["-lmosquitto"],
    "packed": ["-lmosquitto"],
}
READY_S = 60.0


def compile_c() -> None:
    """Compile the C references in this run; clear error when compiler or library is missing."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name, libraries in LIBRARIES.items():
        command = ["cc", "-O2", "-o", str(BUILD / name), str(ROOT / "bench" / "c" / f"{name}.c"), *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"cannot compile {name}.c (needs Debian's gcc and libmosquitto-dev):\n{done.stderr}")


def loadgen() -> str:
    """Our generator, or the program named by FIELDLOOM_LOADGEN (same arguments, same JSON)."""
    return os.environ.get("FIELDLOOM_LOADGEN", str(BUILD / "loadgen"))


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin(cpu: int | None) -> list[str]:
    """Command prefix that binds a program to one core."""
    return [] if cpu is None else ["taskset", "-c", str(cpu)]


def run_json(command: list[str], *, timeout_s: float) -> dict[str, Any]:
    """The JSON a program prints; its own error text when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_until(check: Any, what: str, timeout_s: float) -> Any:
    """The first true result of `check`; exits with `what` when it never comes."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        result = check()
        if result:
            return result
        time.sleep(0.1)
    sys.exit(f"gave up after {timeout_s:.0f} s: {what}")


BROKER_CONF = """listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 1073741824
max_packet_size 300000
set_tcp_nodelay true
"""


class Rig:
    """A broker, and on demand core and web over one data directory."""

    def __init__(self, directory: Path, *, broker_cpu: int | None = None, service_cpu: int | None = None) -> None:
        self.directory, self._broker_cpu, self._service_cpu = directory, broker_cpu, service_cpu
        self.port, self.web_port = free_port(), free_port()
        self._children: list[subprocess.Popen[bytes]] = []
        self.core: subprocess.Popen[bytes] | None = None
        self.web: subprocess.Popen[bytes] | None = None
        self.token = ""
        self._start_broker()

    def _start_broker(self) -> None:
        conf = self.directory / "mosquitto.conf"
        conf.write_text(BROKER_CONF.format(port=self.port))
        mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.broker = self._start([*pin(self._broker_cpu), mosquitto, "-c", str(conf)], "broker")
        wait_until(lambda: _listens(self.port), "the broker does not listen", 10)

    def _start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        self._children.append(child)
        return child

    @property
    def environment(self) -> dict[str, str]:
        """Settings of the service, as a user gives them."""
        return os.environ | {
            "FIELDLOOM_DATA_DIR": str(self.directory / "data"),
            "FIELDLOOM_MQTT_HOST": "127.0.0.1",
            "FIELDLOOM_MQTT_PORT": str(self.port),
            "FIELDLOOM_WEB_PORT": str(self.web_port),
            "FIELDLOOM_WEB_METRICS_OPEN": "true",
            "FIELDLOOM_LOG_LEVEL": "warning",
        }

    def fieldloom(self, *arguments: str) -> str:
        """Run the command line to its end; its output."""
        command = [str(Path(sys.executable).parent / "fieldloom"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=120, check=False)
        if done.returncode:
            sys.exit(f"fieldloom {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def start_service(self, site_dir: Path) -> None:
        """core and web, with the site applied."""
        program = str(Path(sys.executable).parent / "fieldloom")
        self.core = self._start([*pin(self._service_cpu), program, "serve", "core"], "core")
        self.web = self._start([*pin(self._service_cpu), program, "serve", "web"], "web")
        wait_until(self._is_ready, "core and web are not ready", READY_S)
        self.fieldloom("apply", str(site_dir))

    def _is_ready(self) -> bool:
        for child in self._children:
            if child.poll() is not None:
                logs = "".join(path.read_text()[-2000:] for path in self.directory.glob("*.log"))
                sys.exit(f"a process ended early:\n{logs}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.web_port}/api/v1/ready", timeout=2).status_code == 200
        return False

    def metrics(self) -> dict[str, float]:
        """All metrics of web, by name with labels."""
        text = httpx.get(f"http://127.0.0.1:{self.web_port}/metrics", timeout=10).text
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def metric(self, name: str) -> float:
        """One metric, 0 when absent."""
        return self.metrics().get(name, 0.0)

    def stop(self) -> None:
        """End everything that was started."""
        for child in reversed(self._children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in reversed(self._children):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def rig(**options: Any) -> Iterator[Rig]:
    """A rig in a temporary directory that is stopped and removed at the end, kept when FIELDLOOM_BENCH_KEEP is set."""
    directory = Path(tempfile.mkdtemp(prefix="fieldloom-bench-"))
    made = Rig(directory, **options)
    try:
        yield made
    finally:
        made.stop()
        if not os.environ.get("FIELDLOOM_BENCH_KEEP"):
            shutil.rmtree(directory, ignore_errors=True)

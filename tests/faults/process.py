"""A child process under test: started, waited for, frozen, killed, and certainly gone at the end."""

import asyncio
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_S = 0.02
DEADLINE_S = 30.0  # costs nothing when all is well; what is promised within a time has a deadline of its own


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S, what: str = "condition") -> None:
    """Return as soon as the condition holds; TimeoutError naming `what` after deadline_s. Blocks: not for coroutines."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        time.sleep(POLL_S)


async def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S, what: str = "condition") -> None:
    """`wait_until` for coroutines. The condition is asked in a thread, as it may read the files of another process."""
    end = time.monotonic() + deadline_s
    while True:
        began = time.monotonic()
        if await asyncio.to_thread(condition):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        await asyncio.sleep(max(POLL_S, time.monotonic() - began))  # who reads much asks seldom


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Does something accept connections there?"""
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((host, port)) == 0


def http_ok(url: str) -> bool:
    """Does a GET answer with a status below 400?"""
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:
            return bool(answer.status < 400)
    except (urllib.error.URLError, OSError):
        return False


class Process:
    """A subprocess in a process group of its own, its output in one log file; a context manager that leaves nothing running."""

    def __init__(
        self, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.log_path = log
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; output is appended to the log, so restarts share one."""
        assert not self.running
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self.argv, env=self._env, cwd=self._cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self

    @property
    def pid(self) -> int:
        """Process id (also its group's)."""
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        """Started and not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status; None while running."""
        return None if self._child is None else self._child.poll()

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_ready(self, ready: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> Self:
        """Wait for a condition; an early death or a timeout raises with the end of the log."""

        def settled() -> bool:
            return not self.running or ready()

        try:
            wait_until(settled, deadline_s=deadline_s, what="ready")
        except TimeoutError as error:
            raise TimeoutError(f"{self.argv[0]} not ready in {deadline_s} s\n{self.output[-2000:]}") from error
        if not self.running:
            raise RuntimeError(f"{self.argv[0]} ended with {self.returncode} before it was ready\n{self.output[-2000:]}")
        return self

    def wait_line(self, text: str, *, deadline_s: float = DEADLINE_S) -> Self:
        """Wait until its output contains the text."""
        return self.wait_ready(lambda: text in self.output, deadline_s=deadline_s)

    def wait_port(self, port: int, *, deadline_s: float = DEADLINE_S) -> Self:
        """Wait until it accepts connections on the loopback port."""
        return self.wait_ready(lambda: port_open(port), deadline_s=deadline_s)

    def wait_http(self, url: str, *, deadline_s: float = DEADLINE_S) -> Self:
        """Wait until the URL answers below 400."""
        return self.wait_ready(lambda: http_ok(url), deadline_s=deadline_s)

    def wait_exit(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; the exit status."""
        assert self._child is not None
        return self._child.wait(deadline_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self.running:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP; on return none of its threads runs any more."""
        if self.running:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL the whole group and reap it. Safe to call again."""
        if self._child is None:
            return
        if self._child.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait(10)

    def terminate(self, *, deadline_s: float = DEADLINE_S) -> int:
        """SIGTERM, wait, SIGKILL when that was not enough; the exit status."""
        assert self._child is not None
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            return self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._child.wait(10)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

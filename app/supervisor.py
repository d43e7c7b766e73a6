"""Child processes of one installation: started in order, restarted when they die, stopped in order, never left behind.

Invariant: of two cores over one journal at most one lives; an old one is SIGKILLed and reaped before a new one begins, which claims
a higher epoch. Every child is tied to this process by the kernel: when it is killed, they are killed. That loses nothing, since
every promise holds over a kill; a half-alive group without supervision would.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from telemetry.errors import EnvironmentFault

log = structlog.get_logger()

READY_S: Final = 300.0  # the compiled loop loads within 2 s from its cache, and compiles within two minutes without
STOP_S: Final = 8.0
BACKOFF_S: Final = (0.2, 10.0)  # first and longest pause before a restart
CALM_S: Final = 30.0  # a child that lived so long starts with the first pause again
POLL_S: Final = 0.02
LOG_BYTES_MAX: Final = 10 << 20  # a longer log is put aside at the next start
CONNECT_S: Final = 0.5
PR_SET_PDEATHSIG: Final = 1
SENTENCE: Final = "fieldloom: "  # how the command line begins what it says to its user
FATAL: Final = frozenset({2, 3})  # wrong configuration, damaged journal: another start would end the same
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Part:
    """One child. `ready` is written by the child when it serves (None: it is ready once started)."""

    name: str
    command: Sequence[str]
    ready: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    log_file: Path | None = None  # None: our own standard error
    ready_ports: tuple[int, ...] = ()  # on loopback; it is ready when all of them answer


def fieldloom(*words: str) -> list[str]:
    """The command line of one of our own processes."""
    return [sys.executable, "-m", "app.cli", *words]


def tie(parent: int) -> None:
    """In a fresh child: be killed when `parent` dies, also when it died before this call."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def answers(port: int) -> bool:
    """Does something listen on this loopback port?"""
    with socket.socket() as probe:
        probe.settimeout(CONNECT_S)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Child:
    """A part and its running process."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self._began = 0.0
        self._said_before = 0  # bytes of the log file that earlier runs wrote
        self._pause_s = BACKOFF_S[0]

    async def start(self) -> None:
        """Kill what is left of the last run, then start."""
        await self.kill()
        if self.part.ready is not None:
            self.part.ready.parent.mkdir(parents=True, exist_ok=True)
            self.part.ready.unlink(missing_ok=True)
        if self.part.log_file is not None and self.part.log_file.is_file() and self.part.log_file.stat().st_size > LOG_BYTES_MAX:
            self.part.log_file.replace(self.part.log_file.with_suffix(".log.1"))
        parent = os.getpid()
        with contextlib.ExitStack() as files:
            output = None if self.part.log_file is None else files.enter_context(self.part.log_file.open("ab"))
            self._said_before = 0 if output is None else output.tell()
            self.process = await asyncio.create_subprocess_exec(
                *self.part.command,
                env=os.environ | self.part.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches us alone: the order of stopping is ours
                preexec_fn=lambda: tie(parent),
            )
        self.starts += 1
        self._began = time.monotonic()
        log.info("started", part=self.part.name, process=self.process.pid)

    async def wait_ready(self) -> None:
        """Until it serves. EnvironmentFault with its last words when it ends or takes too long."""
        assert self.process is not None
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            if self.process.returncode is not None:
                raise EnvironmentFault(f"{self.part.name} ended at once: {self.last_words()}")
            if time.monotonic() > deadline:
                raise EnvironmentFault(f"{self.part.name} is not ready after {READY_S:.0f} s: {self.last_words()}")
            await asyncio.sleep(POLL_S)

    def _is_ready(self) -> bool:
        file = self.part.ready
        if file is not None and not (file.is_file() and file.stat().st_size):
            return False
        return all(answers(port) for port in self.part.ready_ports)

    def last_words(self) -> str:
        """Why it ended: the sentence for its user, else the last line that this run wrote."""
        if self.part.log_file is None or not self.part.log_file.is_file():
            return "see its messages above"
        with self.part.log_file.open("rb") as file:
            file.seek(max(self._said_before, file.seek(0, os.SEEK_END) - 4000))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if not lines:
            return f"nothing was said in {self.part.log_file}"
        sentences = [line.removeprefix(SENTENCE) for line in lines if line.startswith(SENTENCE)]
        return sentences[-1] if sentences else lines[-1]

    async def ended(self) -> tuple[int, float]:
        """Wait for its end: the exit code, and how long to wait before another start."""
        assert self.process is not None
        code = await self.process.wait()
        if time.monotonic() - self._began > CALM_S:
            self._pause_s = BACKOFF_S[0]
        pause_s, self._pause_s = self._pause_s, min(BACKOFF_S[1], self._pause_s * 2)
        return code, pause_s

    async def stop(self) -> None:
        """Ask it to end; kill it when it does not."""
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            log.warning("does not stop; killed", part=self.part.name)
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL its process, and wait until the kernel has reaped it; SIGSTOPped ones too."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


class Supervisor:
    """Starts parts in the given order and stops them in `stop_order` (names).

    `on_ready` is told the name of a part that serves for the first time; `on_restart` its name, exit code and last words.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        stop_order: Sequence[str],
        on_ready: Callable[[str], None] = lambda _name: None,
        on_restart: Callable[[str, int, str], None] = lambda _name, _code, _words: None,
    ) -> None:
        assert {part.name for part in parts} <= set(stop_order)
        self.children = [Child(part) for part in parts]
        self._stop_order = list(stop_order)
        self._on_ready, self._on_restart = on_ready, on_restart
        self._stop = asyncio.Event()
        self.failure = ""
        self._code = 1  # of a failure

    def stop(self) -> None:
        """Begin to stop everything."""
        self._stop.set()

    async def run(self, *, while_up: Callable[[], "asyncio.Future[None] | None"] = lambda: None) -> int:
        """Start everything, keep it running until `stop` or a signal, then stop everything in order. The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last: the terminal was closed
            loop.add_signal_handler(number, self.stop)
        keepers: list[asyncio.Task[None]] = []
        view: asyncio.Future[None] | None = None
        try:
            for child in self.children:
                await child.start()
                await self._until_stopped(child.wait_ready())
                if self._stop.is_set():
                    return 0
                self._on_ready(child.part.name)
                keepers.append(asyncio.create_task(self._keep(child), name=f"keep {child.part.name}"))
            view = while_up()
            await self._stop.wait()
        except EnvironmentFault as error:
            self.failure = str(error)
            codes = [child.process.returncode for child in self.children if child.process is not None]
            self._code = next((code for code in codes if code in FATAL), None) or 1
        finally:
            for task in (*keepers, *([view] if view is not None else [])):
                task.cancel()
            await asyncio.gather(*keepers, *([view] if view is not None else []), return_exceptions=True)
            await self._stop_all()
        return self._code if self.failure else 0

    async def _until_stopped(self, waiting: Coroutine[None, None, None]) -> None:
        """`waiting`, cut short by `stop`."""
        ready, stop = asyncio.create_task(waiting, name="ready"), asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait((ready, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if ready.done():
            ready.result()
        else:
            ready.cancel()

    async def _keep(self, child: Child) -> None:
        """Restart a child for as long as we run; give up on what another start cannot mend."""
        while True:
            code, pause_s = await child.ended()
            words = child.last_words()
            log.error("ended", part=child.part.name, code=code, restart_in_s=pause_s, words=words)
            if code in FATAL:
                self.failure, self._code = f"{child.part.name} ended for good: {words}", code
                self._stop.set()
                return
            self._on_restart(child.part.name, code, words)
            await asyncio.sleep(pause_s)
            await child.start()

    async def _stop_all(self) -> None:
        by_name = {child.part.name: child for child in self.children}
        for name in self._stop_order:
            if name in by_name:
                await by_name[name].stop()

"""Processes of a backtest: each evaluates one part of the site; the caller merges what they decide and tells how far they are.

A process reads the history file itself when nobody writes it; otherwise it asks its parent for each block, so that `web`, which alone
may open the file, stays its only reader. A process that is no longer wanted is ended: it has written nothing.
"""

import contextlib
import heapq
import os
import signal
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any, Final, NamedTuple

from app.backtest.job import Job, split
from app.backtest.lane import Block, Seconds, by_time, run
from app.backtest.position import Told
from store.history import PackedMember, QueryLimit, Rows, Run
from store.scan import FileScan, Scan
from telemetry.decision import Decision, decode_decisions, encode_decisions
from telemetry.errors import EnvironmentFault, FieldloomError, StoreError

NICE: Final = 10  # what is asked of the past waits for the present
POLL_S: Final = 0.2
STOP_S: Final = 5.0
TRIES: Final = 3
LAST_NS: Final = (1 << 63) - 1


class Spent(NamedTuple):
    """Seconds of the slowest process; largest memory of all of them and of this one together [MB], programs and libraries once."""

    reading_s: float
    framing_s: float
    evaluating_s: float
    rss_mb: float


class Asked:
    """`Scan` of a process whose parent reads."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe

    def _ask(self, method: str, *given: Any, limit: int) -> Any:
        self._pipe.send(("read", (method, given, limit)))
        return self._pipe.recv()

    def scan(self, low: int, high: int, start_ms: int, end_ms: int, *, limit: int) -> list[Rows]:
        """See Scan."""
        rows: list[Rows] = self._ask("scan", low, high, start_ms, end_ms, limit=limit)
        return rows

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """See Scan."""
        rows: list[PackedMember] = self._ask("member_rows", points, start_ms, end_ms, limit=limit)
        return rows

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        """See Scan."""
        runs: list[Run] = self._ask("sent", after, start_ms, limit=limit)
        return runs


def answer(pipe: "Connection[Any, Any]", source: Scan, asked: tuple[str, tuple[Any, ...], int]) -> None:
    """Read for a process what it asked through `Asked`; a read that was stopped with somebody else's query is tried again."""
    method, given, limit = asked
    for left in reversed(range(TRIES)):
        try:
            pipe.send(getattr(source, method)(*given, limit=limit))
            return
        except QueryLimit:
            if not left:
                raise


def stand_back() -> None:
    """What a process of low priority does first."""
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _work(pipe: "Connection[Any, Any]", job: Job, file: Path | None) -> None:
    """What a process does; it says "block" .. "block" "done", or "failed"."""
    stand_back()
    seconds = Seconds()
    try:
        source: Scan = Asked(pipe) if file is None else FileScan(file)
        for block in run(job, source, seconds):
            pipe.send(
                ("block", (block.reached_ms, block.samples, [encode_decisions(made) for made in block.decisions], block.told))
            )
        pipe.send(("done", Spent(seconds.reading, seconds.framing, seconds.evaluating, _memory_mb()[0] - _memory_mb()[1])))
    except FieldloomError as error:
        pipe.send(("failed", error))
    except (BrokenPipeError, EOFError):
        return  # the parent is gone


def _memory_mb() -> tuple[float, float]:
    """Largest resident memory of this process, and how much of what is resident now are files, as other processes have them too [MB]."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        kb = {
            name: int(rest.split()[0])
            for name, rest in (line.split(":") for line in status if line.startswith(("VmHWM", "RssFile")))
        }
    return kb.get("VmHWM", 0) / 1024, kb.get("RssFile", 0) / 1024


class Backtest:
    """One run. `pieces` yields what is decided; afterwards `spent` says what it cost. Every way out of `pieces` ends the processes."""

    def __init__(
        self, job: Job, *, file: Path | None, history: Scan | None = None, processes: int = 2, cancelled: Event | None = None
    ) -> None:
        """file: a history that nobody writes; without one, `history` is read here, in the thread that runs `pieces`. cancelled: what
        `cancel` sets, where somebody else sets it, too."""
        assert (file is None) != (history is None)
        self._file, self._history = file, history
        self.jobs = split(job, processes)
        self.spent = Spent(0.0, 0.0, 0.0, 0.0)
        self._cancelled = cancelled or Event()

    def cancel(self) -> None:
        """End `pieces` soon; what it has yielded stands. From any thread."""
        self._cancelled.set()

    def pieces(self) -> Iterator[Block]:
        """Pieces in order of time. Raises the FieldloomError that a process met, EnvironmentFault when one was ended from outside."""
        if not self.jobs:
            return
        with contextlib.ExitStack() as stack:
            pipes = [stack.enter_context(started(_work, job, self._file)) for job in self.jobs]
            merge = _Merge(len(pipes), len(self.jobs[0].variants))
            open_pipes = dict(zip(pipes, range(len(pipes)), strict=True))
            while open_pipes and not self._cancelled.is_set():
                for pipe in connection.wait(list(open_pipes), POLL_S):
                    assert isinstance(pipe, Connection)
                    part = open_pipes[pipe]
                    word, what = heard(pipe)
                    if word == "read":
                        assert self._history is not None
                        answer(pipe, self._history, what)
                    elif word == "block":
                        merge.take(part, *what)
                    else:
                        self._add(what)
                        del open_pipes[pipe]
                if (piece := merge.piece()) is not None:
                    yield piece
        self.spent = self.spent._replace(rss_mb=self.spent.rss_mb + _memory_mb()[0])

    def _add(self, spent: Spent) -> None:
        slowest = max(self.spent, spent, key=lambda s: s.reading_s + s.framing_s + s.evaluating_s)
        self.spent = slowest._replace(rss_mb=self.spent.rss_mb + spent.rss_mb)


def heard(pipe: "Connection[Any, Any]") -> tuple[str, Any]:
    """What a process says. Raises the FieldloomError that it met, EnvironmentFault when it is gone."""
    try:
        word, what = pipe.recv()
    except EOFError:
        raise EnvironmentFault("a process that reads history was ended from outside; is there enough memory?") from None
    if word == "failed":
        raise what if isinstance(what, FieldloomError) else StoreError(str(what))
    return word, what


@contextlib.contextmanager
def started(work: Callable[..., None], *arguments: Any) -> Iterator["Connection[Any, Any]"]:
    """A process that runs `work(pipe, *arguments)`, and the pipe to it; it is gone when the block is left."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    try:
        with _deaf():
            process.start()
        theirs.close()
        yield ours
    finally:
        ours.close()
        if process.pid is not None:
            process.terminate()
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C while a process starts waits until it has: the process inherits that it does not hear it, and we lose none.

    A mask is of one thread, and another one may be given the signal; what Python does about it is done in the main thread.
    """
    resource_tracker.ensure_running()  # its own start would let signals through again
    is_main, heard = current_thread() is main_thread(), list[int]()
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if is_main else None
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if is_main:
            signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)


class _Merge:
    """Blocks of several parts as pieces that every part has reached."""

    def __init__(self, parts: int, variants: int) -> None:
        self._reached = [-1] * parts
        self._told = -1
        self._waiting: list[list[list[Decision]]] = [[[] for _ in range(variants)] for _ in range(parts)]
        self._samples = 0
        self._sums: Told = {}

    def take(self, part: int, reached_ms: int, samples: int, decisions: list[bytes], told: Told) -> None:
        """Keep a block as it came through the pipe."""
        self._reached[part] = reached_ms
        self._samples += samples
        for kept, made in zip(self._waiting[part], decisions, strict=True):
            kept.extend(decode_decisions(made))
        for key, sums in told.items():
            self._sums[key] = [a + b for a, b in zip(self._sums.get(key, [0.0] * len(sums)), sums, strict=True)]

    def piece(self) -> Block | None:
        """What all parts have reached since the last one; None when that is nothing new."""
        reached_ms = min(self._reached)
        if reached_ms <= self._told:
            return None
        self._told = reached_ms
        border_ns = reached_ms * 1_000_000 if reached_ms < max(self._reached) else LAST_NS
        decisions = []
        for variant in range(len(self._waiting[0])):
            ready = []
            for part in self._waiting:
                count = bisect_left(part[variant], border_ns, key=lambda decision: decision.time_ns)
                ready.append(part[variant][:count])
                del part[variant][:count]
            decisions.append(list(heapq.merge(*ready, key=by_time)))
        samples, self._samples = self._samples, 0
        sums, self._sums = self._sums, {}
        return Block(reached_ms, samples, decisions, sums)

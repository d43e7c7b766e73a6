"""The two tasks that follow the journal: one into the live state and the feed, one into history. Neither can slow the other.

Reading and decoding happen in a thread of each follower; the event loop only applies it, SLICE_S at a time.
A fault below is logged once when it begins and once when it ends, shown by `/ready`, and tried again for ever.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import structlog

from api.feed import FeedHub
from api.parts import Lag
from api.state import Delta, LiveState, Parsed, merge, parse
from store.history import AppendResult, History, HistoryFault
from store.journal_reader import Gap, JournalReader
from store.position import PositionFile
from store.projection import JournalSource, Projector
from telemetry.clock import Clock
from telemetry.errors import StoreError

log = structlog.get_logger()

POLL_S: Final = 0.1  # what a person sees is at most this much later; ten reads a second cost nothing
RETRY_S: Final = 1.0
SLICE_S: Final = 0.02  # of the event loop at a time
ROWS_MAX: Final = 5_000  # samples of one read: a quarter second at 20,000/s
SNAPSHOT_S: Final = 30.0
LAG_PROBE_S: Final = 0.25
LAST_S: Final = 3.0  # for the last snapshot when the process ends


class Keeper(Protocol):
    """Where the live state survives a restart."""

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest valid snapshot with its position; None when there is none."""
        ...

    def write(self, position: int, saved: dict[str, Any]) -> None:
        """Keep a snapshot; durable when it returns."""
        ...


class Fault:
    """Logs a fault when it begins and when it ends, never in between."""

    def __init__(self, event: str, show: Callable[[str], None]) -> None:
        self._event = event
        self._show = show
        self._since_s: float | None = None  # None: no fault stands

    def begins(self, error: Exception) -> None:
        """It failed."""
        if self._since_s is None:
            self._since_s = asyncio.get_running_loop().time()
            log.error(f"{self._event}_failed", error=str(error))
        self._show(str(error))

    def ends(self) -> None:
        """It works."""
        if self._since_s is not None:
            log.info(f"{self._event}_recovered", after_s=round(asyncio.get_running_loop().time() - self._since_s, 1))
            self._since_s = None
            self._show("")


class LiveFollower:
    """Keeps the live state at the end of the journal and tells the feed what changed."""

    def __init__(
        self,
        journal: Callable[[], JournalReader],
        state: LiveState,
        hub: FeedHub,
        lag: Lag,
        *,
        clock: Clock,
        keeper: Keeper | None,
    ) -> None:
        self._open = journal
        self._state = state
        self._hub = hub
        self._lag = lag
        self._clock = clock
        self._keeper = keeper
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="follow-live")
        self._journal: JournalSource | None = None  # None: to be opened
        self._fault = Fault("journal_read", self._show)

    def _show(self, error: str) -> None:
        self._lag.live_error = error

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            await self._restore()
            snapshot_due = asyncio.get_running_loop().time() + SNAPSHOT_S
            while True:
                taken = await self._round()
                if asyncio.get_running_loop().time() >= snapshot_due:
                    await self._keep()
                    snapshot_due = asyncio.get_running_loop().time() + SNAPSHOT_S
                if not taken:
                    await asyncio.sleep(RETRY_S if self._lag.live_error else POLL_S)
        finally:
            async with asyncio.timeout(LAST_S):
                await self._keep()
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _restore(self) -> None:
        if self._keeper is None:
            return
        found = await self._in_thread(lambda: self._newest(self._keeper))
        if found is not None:
            self._state.restore(*found)

    def _newest(self, keeper: Keeper | None) -> tuple[int, dict[str, Any]] | None:
        """The newest snapshot, unless it is ahead of the journal: then it belongs to another journal."""
        found = None if keeper is None else keeper.newest()
        if found is None:
            return None
        try:
            last = self._open().last()
        except StoreError:
            return found
        return found if last is not None and last.last >= found[0] else None

    async def _keep(self) -> None:
        """Write a snapshot; without one the next start only takes longer, so a failure is no more than a line in the log."""
        if self._keeper is None or self._state.position < 0:
            return
        position, build, keeper = self._state.position, self._state.snapshot(), self._keeper
        try:
            await self._in_thread(lambda: keeper.write(position, build()))
        except (StoreError, OSError) as error:
            log.warning("live_snapshot_failed", error=str(error))

    def _read(self, after: int) -> list[Parsed]:
        """What comes after a position, decoded; in the follower's thread."""
        if self._journal is None:
            self._journal = self._open()
        return [parse(transaction) for transaction in self._journal.read(after, rows_max=ROWS_MAX)]

    async def _round(self) -> bool:
        """Read and apply once; False when there was nothing, or when it failed."""
        try:
            parsed = await self._in_thread(lambda: self._read(self._state.position))
        except StoreError as error:
            self._fault.begins(error)
            if isinstance(error, Gap):
                self._skip_to(error.available)
            self._journal = None
            return False
        self._fault.ends()
        await self._apply(parsed)
        if self._lag.live_ready and parsed:
            self._state.heard_ns = self._clock.now_ns()
        self._lag.live_ready |= not parsed
        return bool(parsed)

    def _skip_to(self, first: int) -> None:
        """The journal was trimmed behind us: go on at its beginning, counted. What stands may be incomplete until it changes."""
        self._state.skipped += first - self._state.position - 1
        self._state.position = first - 1

    async def _apply(self, parsed: list[Parsed]) -> None:
        loop, deltas = asyncio.get_running_loop(), list[Delta]()
        began = loop.time()
        for one in parsed:
            deltas.append(self._state.apply(one))
            if loop.time() - began > SLICE_S:
                self._hub.publish(merge(deltas))
                deltas = []
                await asyncio.sleep(0)
                began = loop.time()
        if deltas:
            self._hub.publish(merge(deltas))


class CountingProjector(Projector):
    """A projector that adds what became of its rows to `lag`."""

    def __init__(self, history: History, lag: Lag, **more: Any) -> None:
        super().__init__(history, **more)
        self._lag = lag

    def flush(self) -> AppendResult:
        """See Projector."""
        result = super().flush()
        self._lag.history_written += result.written
        self._lag.history_repeated += result.repeated
        self._lag.history_changed += result.changed
        return result


class HistoryFollower:
    """Writes the journal into history. History may be down for hours: the live state does not notice."""

    def __init__(self, journal: Callable[[], JournalSource], projector: Callable[[], Projector], lag: Lag) -> None:
        self._open = journal
        self._make = projector
        self._lag = lag
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="follow-history")
        self._journal: JournalSource | None = None
        self._projector: Projector | None = None
        self._retry_s = RETRY_S
        self._fault = Fault("history_follow", self._show)

    def _show(self, error: str) -> None:
        self._lag.history_error = error

    def _follow(self) -> int:
        if self._projector is None:
            self._projector = self._make()
        if self._journal is None:
            self._journal = self._open()
        return self._projector.follow(self._journal)

    def _flush(self) -> None:
        if self._projector is not None:
            self._projector.flush()

    async def run(self) -> None:
        """Follow until cancelled; what is taken is written before it ends."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                taken = await self._round()
                if not taken:
                    await asyncio.sleep(self._retry_s if self._lag.history_error else POLL_S)
        finally:
            last = loop.run_in_executor(self._executor, self._flush)
            self._executor.shutdown(wait=False)
            try:
                async with asyncio.timeout(5.0):
                    await asyncio.shield(last)
            except (StoreError, TimeoutError) as error:
                log.warning("history_last_flush_failed", error=str(error))  # read again from the journal at the next start

    async def _round(self) -> int:
        try:
            taken = await asyncio.get_running_loop().run_in_executor(self._executor, self._follow)
        except StoreError as error:
            self._fault.begins(error)
            self._retry_s = max(RETRY_S, error.wait_s if isinstance(error, HistoryFault) else 0.0)
            self._journal = None
            return 0
        self._fault.ends()
        if self._projector is not None:
            self._lag.history_position = self._projector.position
        return taken


async def tell_position(told: PositionFile, state: LiveState, history: History) -> None:
    """Tell core what of the journal both followers have and the history keeps, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(RETRY_S)
        try:
            told.tell(min(state.position, await loop.run_in_executor(None, history.position)))
        except StoreError as error:
            log.debug("history_position_unknown", error=str(error))  # its follower reports the fault; the journal waits


async def probe_lag(lag: Lag) -> None:
    """Measure how late the event loop runs, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PROBE_S
        await asyncio.sleep(LAG_PROBE_S)
        lag.loop_lag_s = max(0.0, loop.time() - due)
        lag.loop_lag_max_s = max(lag.loop_lag_max_s, lag.loop_lag_s)

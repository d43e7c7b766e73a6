"""Desks of the web process: what reads the past for somebody, in a thread that reads history for a process of its own.

Each desk runs one order at a time (each takes a core, and the service has two) and keeps the newest results in memory.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Generic, TypeVar

import msgspec

from api.orders import BacktestAsked, OrderState, WarmingState
from app.backtest.order import make_job
from app.backtest.report import Collector, Label
from app.backtest.warming import WarmJob, make_warm_job, results
from app.backtest.worker import Backtest
from store.history import History
from telemetry.errors import FieldloomError
from telemetry.site import SiteConfig

STOP_S: Final = 10.0
RESULT_S: Final = 60.0  # so long the memory of windows may wait for its configuration
S = TypeVar("S", bound=OrderState)


@dataclass(slots=True)
class Order(Generic[S]):
    """One that runs or has ended."""

    site: str
    state: S
    cancelled: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    result: bytes | None = None

    def now(self, **changes: Any) -> None:
        """Tell how far it is."""
        self.state = replace(self.state, **changes)


class Desk(Generic[S]):
    """`api.orders.Orders` over a history."""

    def __init__(self, history: History, *, kept: int) -> None:
        self._history, self._kept = history, kept
        self._lock = threading.Lock()
        self._runs: dict[str, Order[S]] = {}

    def _is_busy(self) -> bool:
        return any(order.state.state == "running" for order in self._runs.values())

    def _begin(self, order: Order[S], work: Callable[[Order[S]], None]) -> S | None:
        """Have it done; None while another runs."""
        order.thread = threading.Thread(target=self._work, args=(order, work), name=type(self).__name__, daemon=True)
        with self._lock:
            if self._is_busy():
                return None
            self._runs[order.state.id] = order
            while len(self._runs) > self._kept:  # those that ended: the newest is the only one that runs
                del self._runs[next(iter(self._runs))]
        state = order.state
        order.thread.start()
        return state

    @staticmethod
    def _work(order: Order[S], work: Callable[[Order[S]], None]) -> None:
        try:
            work(order)
        except (FieldloomError, OSError) as error:
            order.now(state="failed", problem=str(error))
        finally:
            if order.state.state == "running":  # a defect of ours: its traceback goes to the log, the order is not left open
                order.now(state="failed", problem="it ended by a defect; see the log of the web process")

    def _find(self, site: str, order: str) -> Order[S] | None:
        found = self._runs.get(order)
        return found if found is not None and found.site == site else None

    def state(self, site: str, order: str) -> S | None:
        """See Orders."""
        found = self._find(site, order)
        return None if found is None else found.state

    def cancel(self, site: str, order: str) -> S | None:
        """See Orders."""
        found = self._find(site, order)
        if found is not None:
            found.cancelled.set()
        return None if found is None else found.state

    def close(self) -> None:
        """See Orders."""
        for order in list(self._runs.values()):
            order.cancelled.set()
            if order.thread is not None and order.thread.ident is not None:
                order.thread.join(STOP_S)


class BacktestDesk(Desk[OrderState]):
    """`api.orders.Backtests`."""

    def __init__(self, history: History) -> None:
        super().__init__(history, kept=16)

    def start(self, site: str, author: str, asked: BacktestAsked) -> OrderState | None:
        """See Backtests."""
        if self._is_busy():
            return None
        job, faults = make_job(
            self._history, site, rules=asked.rules, against=asked.against, start_ms=asked.start_ms, end_ms=asked.end_ms,
            with_people=asked.people,
        )  # fmt: skip
        order = Order(site, OrderState(secrets.token_hex(8), author, "running", job.start_ms, job.end_ms, job.start_ms))
        backtest = Backtest(job, file=None, history=self._history, processes=1, cancelled=order.cancelled)
        collector = Collector(job.variants, job.start_ms, job.end_ms)
        return self._begin(order, partial(_report, backtest=backtest, collector=collector, asked=asked, faults=faults))

    def report(self, site: str, order: str) -> bytes | None:
        """See Backtests."""
        found = self._find(site, order)
        return None if found is None else found.result


def _report(order: Order[OrderState], *, backtest: Backtest, collector: Collector, asked: BacktestAsked, faults: list[str]) -> None:
    for piece in backtest.pieces():
        collector.add(piece)
        order.now(reached_ms=collector.reached_ms, samples=collector.samples)
    labels = [Label(label.from_ms, label.to_ms, label.label, label.rule, label.device) for label in asked.labels]
    against = "" if asked.against is None else asked.against if isinstance(asked.against, str) else "file"
    report = collector.report(labels=labels, against=against, faults=faults)
    report.reading_s, report.framing_s, report.evaluating_s, report.rss_mb = backtest.spent
    order.result = msgspec.json.encode(report)
    order.now(state="done" if report.complete else "cancelled")


class WarmingDesk(Desk[WarmingState]):
    """`api.orders.Warmings`."""

    def __init__(
        self, history: History, *, now_s: Callable[[], float] = time.time, run_s: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(history, kept=1)
        self._now_s, self._run_s, self._done_s = now_s, run_s, 0.0

    def start(self, author: str, config: SiteConfig) -> WarmingState | None:
        """See Warmings."""
        if self._is_busy():
            return None
        wanted = make_warm_job(self._history, config, int(self._now_s() * 1000))
        job, windows = wanted.job, len(wanted.missing.columns)
        state = WarmingState(
            secrets.token_hex(8), author, "running", job.start_ms, job.end_ms, job.start_ms, sha256=config.sha256(), windows=windows
        )
        return self._begin(Order(config.site, state), partial(self._compute, wanted=wanted))

    def _compute(self, order: Order[WarmingState], wanted: WarmJob) -> None:
        result = None if wanted.missing.columns else b""
        if result is None:
            for reached_ms, samples, found in results(wanted, self._history, order.cancelled):
                order.now(reached_ms=reached_ms, samples=order.state.samples + samples)
                result = found
        if result is None:
            order.now(state="cancelled")
        else:
            order.result, self._done_s = result, self._run_s()
            order.now(state="done", bytes=len(result))

    def result(self, site: str, order: str, sha256: str) -> bytes | None:
        """See Warmings."""
        found = self._find(site, order)
        if found is None or found.state.state != "done" or found.state.sha256 != sha256 or self._run_s() - self._done_s > RESULT_S:
            return None
        return found.result

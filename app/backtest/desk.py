"""Backtests of the web process: each a thread that reads history for a process of its own, at most RUNNING_MAX at once."""

import secrets
import threading
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from api.backtests import BacktestAsked, BacktestState
from app.backtest.order import make_job
from app.backtest.report import Collector, Label
from app.backtest.worker import Backtest
from store.history import History
from telemetry.errors import FieldloomError

RUNNING_MAX: Final = 1  # each takes a core, and the service has two
KEPT: Final = 16  # results in memory; the oldest goes first
STOP_S: Final = 10.0


@dataclass(slots=True)
class _Run:
    site: str
    state: BacktestState
    backtest: Backtest
    report: bytes | None = None
    thread: threading.Thread | None = None


class BacktestDesk:
    """`api.backtests.Backtests` over a history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}

    def start(self, site: str, author: str, asked: BacktestAsked) -> BacktestState | None:
        """See Backtests."""
        if self._is_busy():
            return None
        job, faults = make_job(
            self._history, site, rules=asked.rules, against=asked.against, start_ms=asked.start_ms, end_ms=asked.end_ms,
            with_people=asked.people,
        )  # fmt: skip
        state = BacktestState(secrets.token_hex(8), author, "running", job.start_ms, job.end_ms, job.start_ms, 0)
        run = _Run(site, state, Backtest(job, file=None, history=self._history, processes=1))
        collector = Collector(job.variants, job.start_ms, job.end_ms)
        run.thread = threading.Thread(target=self._work, args=(run, collector, asked, faults), name="backtest", daemon=True)
        with self._lock:
            if self._is_busy():
                return None
            self._runs[state.id] = run
            while len(self._runs) > KEPT:  # those that ended: the newest is the only one that runs
                del self._runs[next(iter(self._runs))]
        run.thread.start()
        return state

    def _is_busy(self) -> bool:
        return sum(run.state.state == "running" for run in self._runs.values()) >= RUNNING_MAX

    def _work(self, run: _Run, collector: Collector, asked: BacktestAsked, faults: list[str]) -> None:
        try:
            for piece in run.backtest.pieces():
                collector.add(piece)
                run.state = replace(run.state, reached_ms=collector.reached_ms, samples=collector.samples)
            labels = [Label(label.from_ms, label.to_ms, label.label, label.rule, label.device) for label in asked.labels]
            against = "" if asked.against is None else asked.against if isinstance(asked.against, str) else "file"
            report = collector.report(labels=labels, against=against, faults=faults)
            report.reading_s, report.framing_s, report.evaluating_s, report.rss_mb = run.backtest.spent
            run.report = msgspec.json.encode(report)
            run.state = replace(run.state, state="done" if report.complete else "cancelled")
        except (FieldloomError, OSError) as error:
            run.state = replace(run.state, state="failed", problem=str(error))
        finally:
            if run.state.state == "running":  # a defect of ours: its traceback goes to the log, the order is not left open
                run.state = replace(run.state, state="failed", problem="it ended by a defect; see the log of the web process")

    def _find(self, site: str, backtest: str) -> _Run | None:
        run = self._runs.get(backtest)
        return run if run is not None and run.site == site else None

    def state(self, site: str, backtest: str) -> BacktestState | None:
        """See Backtests."""
        run = self._find(site, backtest)
        return None if run is None else run.state

    def report(self, site: str, backtest: str) -> bytes | None:
        """See Backtests."""
        run = self._find(site, backtest)
        return None if run is None else run.report

    def cancel(self, site: str, backtest: str) -> BacktestState | None:
        """See Backtests."""
        run = self._find(site, backtest)
        if run is not None:
            run.backtest.cancel()
        return None if run is None else run.state

    def close(self) -> None:
        """See Backtests."""
        for run in list(self._runs.values()):
            run.backtest.cancel()
            if run.thread is not None and run.thread.ident is not None:
                run.thread.join(STOP_S)

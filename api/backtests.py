"""What the API asks of whoever runs backtests; `app` brings the one that does, because it alone knows `step` and its processes."""

from dataclasses import dataclass
from typing import Literal, Protocol

from telemetry.site import RuleSpec

Rules = list[RuleSpec] | str
State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class LabelAsked:
    """A labelled event, times in ms. Empty rule, device: any."""

    from_ms: int
    to_ms: int
    label: str
    rule: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class BacktestAsked:
    """One order. rules: given ones, "site", or the beginning of a configuration's hash; against: the same, None = nothing."""

    rules: Rules
    against: Rules | None
    start_ms: int
    end_ms: int
    labels: tuple[LabelAsked, ...]
    people: bool


@dataclass(frozen=True, slots=True)
class BacktestState:
    """How far one is. problem: why it failed."""

    id: str
    author: str
    state: State
    start_ms: int
    end_ms: int
    reached_ms: int
    samples: int
    problem: str = ""


class Backtests(Protocol):
    """Runs a bounded number at once and keeps the newest results in memory."""

    def start(self, site: str, author: str, asked: BacktestAsked) -> BacktestState | None:
        """Begin one; None when too many run. Raises CallerError for an order that cannot be carried out. Blocking."""
        ...

    def state(self, site: str, backtest: str) -> BacktestState | None:
        """None when there is none (any more)."""
        ...

    def report(self, site: str, backtest: str) -> bytes | None:
        """The report as JSON of one that has ended, also of a cancelled one; None when there is none. Blocking."""
        ...

    def cancel(self, site: str, backtest: str) -> BacktestState | None:
        """Ask it to end; None when there is none."""
        ...

    def close(self) -> None:
        """End all that run."""
        ...

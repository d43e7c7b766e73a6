"""What the API asks of the desks that read the past for somebody: backtests, and the memory of new windows.

`app` brings the desks, because it alone knows `step` and its processes.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from telemetry.site import RuleSpec, SiteConfig

Rules = list[RuleSpec] | str
State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class OrderState:
    """How far an order is. problem: why it failed."""

    id: str
    author: str
    state: State
    start_ms: int
    end_ms: int
    reached_ms: int
    samples: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class WarmingState(OrderState):
    """sha256: of the configuration; windows: columns that are new; bytes: of the result."""

    sha256: str = ""
    windows: int = 0
    bytes: int = 0


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


S_co = TypeVar("S_co", bound=OrderState, covariant=True)


class Orders(Protocol[S_co]):
    """A desk: one order runs at a time, and the newest results are kept in memory."""

    def state(self, site: str, order: str) -> S_co | None:
        """None when there is none (any more)."""
        ...

    def cancel(self, site: str, order: str) -> S_co | None:
        """Ask it to end; None when there is none."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...


class Backtests(Orders[OrderState], Protocol):
    """Keeps the newest 16 reports."""

    def start(self, site: str, author: str, asked: BacktestAsked) -> OrderState | None:
        """Begin one; None while another runs. Raises CallerError for an order that cannot be carried out. Blocking."""
        ...

    def report(self, site: str, order: str) -> bytes | None:
        """The report as JSON of one that has ended, also of a cancelled one; None when there is none. Blocking."""
        ...


class Warmings(Orders[WarmingState], Protocol):
    """Keeps the newest result for a minute: what it does not hold of the time since is missed."""

    def start(self, author: str, config: SiteConfig) -> WarmingState | None:
        """Begin one; None while another runs. Raises CallerError for a configuration that cannot be warmed. Blocking."""
        ...

    def result(self, site: str, order: str, sha256: str) -> bytes | None:
        """What `Config.warm` carries, of one that is done, of this very configuration and not older than a minute; else None."""
        ...

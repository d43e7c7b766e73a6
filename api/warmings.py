"""What the API asks of whoever computes the memory of new windows from history; `app` brings the one that does."""

from dataclasses import dataclass
from typing import Literal, Protocol

from telemetry.site import SiteConfig

State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class WarmingState:
    """How far one is. windows: columns that are new; bytes: of the result; problem: why it failed."""

    id: str
    author: str
    state: State
    sha256: str
    start_ms: int
    end_ms: int
    reached_ms: int
    samples: int
    windows: int
    bytes: int = 0
    problem: str = ""


class Warmings(Protocol):
    """Runs one at a time and keeps the newest result for a minute: what it does not hold of the time since is missed."""

    def start(self, author: str, config: SiteConfig) -> WarmingState | None:
        """Begin one; None while another runs. Raises CallerError for a configuration that cannot be warmed. Blocking."""
        ...

    def state(self, site: str, warming: str) -> WarmingState | None:
        """None when there is none (any more)."""
        ...

    def result(self, site: str, warming: str, sha256: str) -> bytes | None:
        """What `Config.warm` carries, of one that is done, of this very configuration and not older than a minute; else None."""
        ...

    def cancel(self, site: str, warming: str) -> WarmingState | None:
        """Ask it to end; None when there is none."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...

"""When to try the broker again: full jitter, and a long rest when another core seems to use the same client id.

Pure: times and randomness are arguments. Mosquitto 2.0.11 closes the connection of a session that was taken over without the
DISCONNECT 0x8E that MQTT 5 asks for (under load the close is a reset), so a takeover must be guessed: SUSPECT_CLOSES closes by the
peer within SUSPECT_WITHIN_S, each soon after coming up, one of them orderly, for a bad network resets. A broker that restarts is
none of that: it refuses connections meanwhile, or has forgotten the session, which who takes it over always finds. A wrong guess costs
REST_S, hardly more than a long backoff; the rest doubles while the guess is repeated.
"""

import random
from collections import deque
from typing import Final, Literal, NamedTuple

BACKOFF_BASE_S: Final = 0.1
BACKOFF_MAX_S: Final = 4.0  # one client is no storm, and a broker that is back must be found within 5 s
STABLE_S: Final = 5.0  # a connection that lived so long starts the backoff anew
TAKEN_OVER_S: Final = 60.0  # the broker said so: two cores would otherwise throw each other out for ever
SUSPECT_CLOSES: Final = 3
SUSPECT_WITHIN_S: Final = 30.0
REST_S: Final = 10.0
REST_MAX_S: Final = 60.0
QUIET_S: Final = 60.0  # a connection that lived so long ends the suspicion


Kind = Literal["orderly", "reset", "taken_over", "broken"]


class Ending(NamedTuple):
    """How a connection ended. orderly: the peer closed it without a word; reset: rudely. taken_over: the broker said so."""

    reason: str
    kind: Kind = "broken"


class Retry:
    """The schedule of one client id. Call `up` when a connection is usable and `after` when it, or an attempt, ended."""

    def __init__(self, client_id: str, rng: random.Random) -> None:
        self._client_id = client_id
        self._rng = rng
        self._attempt = 0
        self._up_s: float | None = None
        self._closes: deque[tuple[float, bool]] = deque(maxlen=SUSPECT_CLOSES)
        self._rests = 0

    def up(self, now_s: float, *, session_present: bool) -> None:
        """Connected and subscribed; whether the broker still had our session."""
        self._up_s = now_s
        if not session_present:
            self._closes.clear()

    def after(self, ending: Ending, now_s: float) -> tuple[str, float]:
        """The reason to report, and the seconds to wait before the next attempt."""
        lived_s = None if self._up_s is None else now_s - self._up_s
        self._up_s = None
        self._attempt = 0 if lived_s is not None and lived_s >= STABLE_S else self._attempt + 1
        if lived_s is not None and lived_s >= QUIET_S:
            self._rests = 0
        wait_s = self._rng.uniform(0.0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(self._attempt, 10)))
        if ending.kind == "taken_over":
            return ending.reason, wait_s + TAKEN_OVER_S
        if lived_s is None:
            self._closes.clear()
        elif ending.kind in {"orderly", "reset"} and lived_s < STABLE_S:
            self._closes.append((now_s, ending.kind == "orderly"))
            if self._suspicious(now_s):
                rest_s = min(REST_MAX_S, REST_S * 2.0 ** min(self._rests, 10))
                self._rests += 1
                return self._suspicion(), wait_s + rest_s
        return ending.reason, wait_s

    def _suspicious(self, now_s: float) -> bool:
        """Once suspected, the next early close is enough: two cores in a fight meet again after every rest."""
        lately = len(self._closes) == SUSPECT_CLOSES and now_s - self._closes[0][0] <= SUSPECT_WITHIN_S
        return self._rests > 0 or (lately and any(orderly for _, orderly in self._closes))

    def _suspicion(self) -> str:
        return (
            "the broker closes each connection soon after it came up: "
            f"another core probably uses this client id ({self._client_id}); stop one of them, or give each its own mqtt_client_id"
        )

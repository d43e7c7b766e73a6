"""Other programs at the broker: what they ask of actuators, with their own identity, and the answers.

A program "site/program" of the configuration publishes on its own topic, so the broker says who it is. Its requests are journaled like
those of people, at the same level and with less right: it asks for nothing dangerous. What waited in the broker while core was away, or
was kept there as a retained message, is refused: nobody knows whether it is still wanted.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from devices.outbox import Publish
from telemetry import topic
from telemetry.decision import Decision
from telemetry.plan import Plan
from telemetry.record import PROGRAM, Request
from telemetry.wire.message import ProgramAnswer, ProgramRequest, encode

KINDS: Final = ("override", "release")
PAYLOAD_MAX: Final = 8 * 1024
AT_ONCE_MAX: Final = 100  # requests between two commits; more are refused, so that no program fills the journal
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_decoder = msgspec.json.Decoder(ProgramRequest)


class Programs:
    """Takes requests from messages, and publishes answers after the commit that holds them."""

    def __init__(self, publish: Publish, plan: Callable[[], Plan]) -> None:
        self._publish = publish
        self._plan = plan
        self._taken = 0
        self.refused = 0  # without a record: malformed, unknown, too many or too old

    def take(self, name: str, payload: bytes, *, retained: bool, is_sighted: bool) -> Request | None:
        """The request of a message; None when it is refused, which is answered at once where anybody listens."""
        _, site, program, _ = name.split("/")
        problem, asked = self._problem(site, program, payload, retained=retained, is_sighted=is_sighted)
        if problem or asked is None:
            self.refused += 1
            self._answer(site, program, ProgramAnswer("" if asked is None else asked.id, accepted=False, reason=problem))
            return None
        self._taken += 1
        body: dict[str, Any] = {"actuator": f"{site}/{asked.actuator}"}
        if asked.kind == "override":
            given = {"value": asked.value, "seconds": asked.seconds, "reason": asked.reason}
            body |= {key: value for key, value in given.items() if value is not None}
        return Request(f"{PROGRAM}{program}@{site}.{asked.id}", asked.kind, f"{PROGRAM}{program}", body)

    def _problem(
        self, site: str, program: str, payload: bytes, *, retained: bool, is_sighted: bool
    ) -> tuple[str, ProgramRequest | None]:
        config = self._plan().sites.get(site)
        if config is None or program not in config.programs:
            return f"no program {program!r} is declared at site {site!r}; add it to `programs` of its site.yaml", None
        if len(payload) > PAYLOAD_MAX:
            return f"{len(payload)} bytes, limit {PAYLOAD_MAX}", None
        try:
            asked = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return f"not understood: {error}", None
        if not ID.fullmatch(asked.id):
            return "`id` is 1-64 of letters, digits, _ and -", None
        if asked.kind not in KINDS:
            return f"`kind` is {' or '.join(KINDS)}", asked
        if retained or not is_sighted:
            return "it waited in the broker; ask again if it is still wanted", asked
        return ("too many requests at once; ask again in a second", asked) if self._taken >= AT_ONCE_MAX else ("", asked)

    def answer(self, decisions: Iterable[Decision]) -> None:
        """Publish the answers among decisions that are durable now. A repeated id is answered again, so a lost answer is no harm."""
        self._taken = 0
        for decision in decisions:
            if decision.kind == "answer" and decision.subject.startswith(PROGRAM):
                program, _, rest = decision.subject.removeprefix(PROGRAM).partition("@")
                site, _, name = rest.partition(".")
                accepted, reason = bool(decision.body["accepted"]), str(decision.body["reason"])
                self._answer(site, program, ProgramAnswer(name, accepted=accepted, reason=reason))

    def _answer(self, site: str, program: str, answer: ProgramAnswer) -> None:
        self._publish(topic.program_topic(site, program, "answer"), encode(answer), qos=1, expiry_s=3600)

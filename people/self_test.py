"""The end-to-end test of the alarm path, and its record: a request in the inbox, taken and answered by core, read from the journal by
notify, and sent over every channel that takes part. A test passed when all of it arrived in time.
"""

from collections.abc import Callable, Iterator
from typing import Final

import structlog

from people.delivery import DeliveryJournal, Outgoing, PathTest
from people.notices import TEST_REQUEST
from people.roster import MS_PER_MIN, NotifyConfig
from telemetry.errors import StoreError
from telemetry.record import Request

log = structlog.get_logger()

ANSWER_MS: Final = 60_000  # core answers within a second; longer means that it does not
ARRIVE_MS: Final = 120_000  # five tries of a channel
LATE_MS: Final = 10 * MS_PER_MIN  # a planned test that begins later did not run in time
AUTHOR: Final = "notify"
TEXT: Final = {
    "en": "Test of the alarm path. Nothing has happened and nothing is to be done.",
    "zh": "报警通道自检。没有发生报警，无需处理。",
}


def cause_of(test: str) -> str:
    """What names the deliveries of a test."""
    return f"test/{test}"


class SelfTests:
    """Begins planned tests and judges all of them. `ask` puts a request into the inbox, or raises StoreError."""

    def __init__(self, config: NotifyConfig, deliveries: DeliveryJournal, ask: Callable[[Request], None], wall_ms: int) -> None:
        self._config, self._deliveries, self._ask = config, deliveries, ask
        has_begun = any(test.planned_ms is not None for test in deliveries.tests())
        self._began_ms = 0 if has_begun else wall_ms  # where none was ever planned, none is owed for the time before us
        self._problem = ""

    def planned(self, now_ms: int, wall_ms: int) -> Iterator[PathTest]:
        """The planned test that is due and was not begun yet; its detail says when it is late. Plans go by the wall clock."""
        planned_ms = self._config.planned_test_ms(wall_ms)
        name = f"{AUTHOR}.test-{planned_ms}"
        if planned_ms is None or planned_ms < self._began_ms or self._deliveries.test(name) is not None:
            return
        late_min = (wall_ms - planned_ms) // MS_PER_MIN
        detail = f"began {late_min} min after its time" if wall_ms - planned_ms > LATE_MS else ""
        try:
            self._ask(Request(name, TEST_REQUEST, AUTHOR))
        except StoreError as error:
            if str(error) != self._problem:
                log.error("self_test_not_asked", error=str(error))
            self._problem = str(error)
            if wall_ms - planned_ms <= LATE_MS:
                return  # the next round tries again
            yield PathTest(name, planned_ms, now_ms, None, now_ms, "failed", f"the request could not be kept: {error}")
            return
        self._problem = ""
        yield PathTest(name, planned_ms, now_ms, None, None, "waiting", detail)

    def answered(self, name: str, now_ms: int) -> tuple[PathTest, list[Outgoing]]:
        """Core has taken a test, planned or asked for by a person: what is to be sent for it."""
        known = self._deliveries.test(name) or PathTest(name, None, now_ms, None, None, "waiting", "")
        return known._replace(answered_ms=now_ms), list(self._outgoing(name, now_ms))

    def _outgoing(self, name: str, now_ms: int) -> Iterator[Outgoing]:
        test = self._config.self_test
        names = test.tell if test is not None else list(self._config.contacts)
        for contact_name in self._config.on_duty(names, now_ms):
            contact = self._config.contacts[contact_name]
            line = {"alarm": "TEST", "site": "", "area": "", "priority": "P1", "change": "test", "step": 0, "raised_ms": now_ms,
                    "time_ms": now_ms, "text": TEXT}  # fmt: skip
            message = {"id": cause_of(name), "contact": contact_name, "lines": [line], "more": 0}
            for way in contact.via:
                if self._config.channels[way.channel].test:
                    cause = cause_of(name)
                    yield Outgoing(cause, contact_name, way.channel, way.address, contact.language, True, [""], message)

    def judged(self, now_ms: int) -> Iterator[PathTest]:
        """Tests that have ended since the last call."""
        for test in self._deliveries.tests(only_waiting=True):
            if test.answered_ms is None:
                if now_ms - test.asked_ms > ANSWER_MS:
                    yield test._replace(done_ms=now_ms, state="failed", detail=_join(test.detail, "core did not answer"))
                continue
            arrivals = self._deliveries.arrivals(cause_of(test.id))
            missing = [f"{channel} ({contact})" for contact, channel, state in arrivals if state != "delivered"]
            has_failed = any(state == "failed" for _, _, state in arrivals) or now_ms - test.answered_ms > ARRIVE_MS
            if not arrivals:
                yield test._replace(done_ms=now_ms, state="failed", detail=_join(test.detail, "no channel takes part"))
            elif not missing:
                detail = _join(test.detail, f"{len(arrivals)} of {len(arrivals)} arrived")
                yield test._replace(done_ms=now_ms, state="passed", detail=detail)
            elif has_failed:
                yield test._replace(done_ms=now_ms, state="failed", detail=_join(test.detail, f"not arrived: {', '.join(missing)}"))


def _join(*parts: str) -> str:
    return "; ".join(filter(None, parts))

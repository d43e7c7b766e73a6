"""A journal as an older build of core left it: some of its decisions are not those of today's."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.wiring import build_engine
from store.journal import Journal
from telemetry.clock import ManualClock
from telemetry.decision import Decision, encode_decisions
from telemetry.record import Record, Start
from tests.faults.web_world import START_NS, Writer, config_record, site


class OlderBuild:
    """Journals what the engine decides, and with `invents` an alarm that no rule of today raises."""

    def __init__(self, data: Path) -> None:
        self.data, self.engine, self.writer = data, build_engine(), Writer()
        self.journal = Journal(data / "journal", clock=ManualClock(START_NS))
        self.journal.begin(1)
        self.write([Start(1, "older"), config_record(site("north"))])

    def write(self, records: Sequence[Record] = (), *, invents: bool = False) -> None:
        """One transaction with a sample and the records."""
        frames = [("north/house-0", {"air_temp_c": 20.0}, 0.0)]
        made = self.writer.write(records=records, frames=[] if records else frames)
        decisions = self.engine.step(made.read_entries()).decisions
        if invents:
            decisions = [*decisions, Decision(made.last, 1, made.engine_ns, 40, "alarm", "OLD@north/house-0", {"to": "UNACK"})]
        self.journal.append(msgspec.structs.replace(made, decisions=encode_decisions(decisions)))

"""A history server that is down for an hour, in every way there is: nothing lost, nothing doubled, nothing piled up in memory.

The hour is virtual: the journal's clock is set by hand, so that the journal rotates and decisions go on while the server is away.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from store.history import READ_ROWS_MAX, HistoryFault, decision_line
from store.influx_history import InfluxHistory
from store.influx_server import InfluxServer, InfluxV1
from store.journal import Journal
from store.journal_reader import JournalReader
from store.projection import ROWS_MAX, Projector
from store.segment import list_segments
from telemetry.clock import ManualClock
from telemetry.decision import log_line
from telemetry.record import Start
from tests.faults.influx import Server, fickle, influxd
from tests.faults.web_world import SECOND_NS, START_NS, Writer, config_record, site

DEVICES, POINTS, HOUR_S = 4, ("air_temp_c", "air_rh_pct"), 3600
QUICK = {"connect_s": 0.3, "read_s": 0.4}
STEP_S = 5
TRY_EVERY_S = 600  # virtual; every real try takes up to its time limit


class Site:
    """Devices that report every five virtual seconds, journaled as core does, followed into a history."""

    def __init__(self, directory: Path, server: InfluxServer) -> None:
        self.clock, self.writer, self.decided = ManualClock(START_NS), Writer(), list[bytes]()
        self.directory = directory / "journal"
        self.journal = Journal(self.directory, clock=self.clock)
        self.journal.begin(1)
        self.journal.append(self.writer.write(records=[Start(1, "test"), config_record(site("north", devices=DEVICES))]))
        self.history = InfluxHistory(directory / "history.sqlite", server)
        self.projector = Projector(self.history, now_s=lambda: self.clock.now_ns() / SECOND_NS)
        self.reader = JournalReader(self.directory)
        self.seconds = 0

    def live(self, seconds: int) -> None:
        """Samples every five seconds, an alarm's change every minute."""
        for _ in range(seconds // STEP_S):
            self.seconds += STEP_S
            values = {point: float(self.seconds) for point in POINTS}
            alarm = [("alarm", f"HOT@north/house-{self.seconds // 60 % DEVICES}", {"n": self.seconds})]
            made = self.writer.write(
                frames=[(f"north/house-{d}", values, 0.0) for d in range(DEVICES)],
                decisions=alarm if self.seconds % 60 == 0 else [],
            )
            self.decided += map(log_line, made.read_decisions())
            self.journal.append(made)
            self.clock.advance(STEP_S * SECOND_NS)

    def follow(self) -> None:
        """As web does, until everything is written."""
        while self.projector.follow(self.reader):
            pass
        self.projector.flush()

    def is_whole(self) -> bool:
        """Every sample once, in order, and every decision."""
        every = [self.history.read(n, 0, 1 << 42, limit=READ_ROWS_MAX) for n in (0, 1)]
        counted = self.history.count() == self.seconds // STEP_S * DEVICES * len(POINTS)
        ordered = all(rows.value.tolist() == [float(k) for k in range(STEP_S, self.seconds + 1, STEP_S)] for rows in every)
        return counted and ordered and [decision_line(row) for row in self.history.decisions(-1)] == self.decided

    def close(self) -> None:
        """End every part."""
        for part in (self.journal, self.reader, self.history):
            part.close()


def hour_without(place: Site, *, goes: Callable[[], object], comes: Callable[[], object]) -> None:
    """A minute with the server, an hour without, and all of it is there afterwards."""
    place.live(60)
    place.follow()
    assert place.is_whole()
    goes()
    for _ in range(HOUR_S // TRY_EVERY_S):
        place.live(TRY_EVERY_S)
        with pytest.raises(HistoryFault) as raised:
            place.follow()
        assert raised.value.retryable
        assert place.projector.rows_waiting < ROWS_MAX + 10_000
    assert [decision_line(row) for row in place.history.decisions(-1)] == place.decided[:1]
    comes()
    place.live(STEP_S)
    place.follow()
    assert place.is_whole()
    assert len(list_segments(place.directory)) == 2


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    server = influxd(tmp_path / "influxd")
    if server is None:
        pytest.skip("influxd is not installed (Debian: influxdb)")
    server.start()
    yield server
    server.kill()


def test_server_killed_for_an_hour(own_server, tmp_path):
    place = Site(tmp_path, InfluxV1(own_server.url, "killed", **QUICK))
    hour_without(place, goes=own_server.kill, comes=own_server.start)
    place.close()


def test_server_stopped_for_an_hour(own_server, tmp_path):
    place, frozen = Site(tmp_path, InfluxV1(own_server.url, "frozen", **QUICK)), ExitStack()
    hour_without(place, goes=lambda: frozen.enter_context(own_server.frozen()), comes=frozen.close)
    place.close()


@pytest.mark.parametrize("mode", ["black_hole", "stranger", "hangs_up"])
def test_server_unreachable_for_an_hour(database, tmp_path, mode):
    with fickle(database.url) as between:
        place = Site(tmp_path, database._replace(url=between.url).connect(**QUICK))
        hour_without(place, goes=lambda: setattr(between, "mode", mode), comes=lambda: setattr(between, "mode", "pass"))
        place.close()

"""What core does beside its commits: snapshots that fail cost time, not control; a full disk costs a follower its backlog, and says so."""

import asyncio
import gc
import json
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.core import SNAPSHOT_FRAMES, TRIM_S, Core
from app.settings import Settings
from store.duckdb_history import DuckDBHistory
from store.journal import Journal
from store.journal_reader import JournalReader
from store.projection import Projector
from store.segment import list_segments
from store.snapshot import write_snapshot
from telemetry.clock import ManualClock
from telemetry.plan import NS_PER_S
from telemetry.record import Config, Request, Start
from tests.faults.disk import fill, small_disk
from tests.faults.web_world import START_NS, Writer, config_record, site

SEGMENTS = 40


def settings(data: Path) -> Settings:
    return Settings(data_dir=data, mqtt_host="127.0.0.1", disk_free_mb=64)


async def test_snapshot_that_cannot_be_written_does_not_stop_core(tmp_path: Path) -> None:
    core = Core(settings(tmp_path))
    (tmp_path / "snapshots").write_text("in the way")
    core._frames_since_snapshot = SNAPSHOT_FRAMES
    with capture_logs() as logs:
        await core._snapshot_when_due()
    assert [(line["log_level"], line["event"]) for line in logs] == [("error", "snapshot not written")]
    core._close()


def fill_journal(data: Path) -> int:
    """A journal of many segments with a snapshot at its end; its last position."""
    journal = Journal(data / "journal", clock=ManualClock(START_NS), segment_bytes=1)
    journal.begin(1)
    writer = Writer()
    journal.append(writer.write(records=[Start(1, "test"), config_record(site("north"))]))
    for k in range(SEGMENTS):
        journal.append(writer.write(frames=[("north/house-0", {"air_temp_c": float(k)}, 0.0)]))
    journal.close()
    core = Core(settings(data))
    write_snapshot(data / "snapshots", core.engine.position, {"engine": core.engine.snapshot(), "inbox_row": 0})
    core._close()
    return core.engine.position


@pytest.mark.parametrize("is_full", [False, True])
async def test_nearly_full_disk_cuts_a_follower_off_and_the_gap_is_in_history(tmp_path: Path, is_full: bool) -> None:
    with small_disk(tmp_path / "disk", 192) as data:
        last = fill_journal(data)
        (data / "run").mkdir()
        for name in ("web", "notify"):
            (data / "run" / f"{name}.position").write_text("3")  # far behind
        core = Core(settings(data))
        before = list_segments(data / "journal")
        if is_full:
            fill(data, spare_bytes=18 << 20)  # under a tenth
        core._trim_due_ns = 0
        await core._trim_when_due(int(TRIM_S * NS_PER_S) + 1)
        left = list_segments(data / "journal")
        events = core._gather.build(last + 1, core._clock.now_ns(), 0).records
        core._close()
        if not is_full:
            assert (left, events) == (before, ())
            return
        assert left[0] > 4
        assert [(event.name, event.body) for _, event in events] == [("follower_cut_off", {"before": left[0]})]
        history, reader = DuckDBHistory(tmp_path / "history.duckdb", memory_mb=64), JournalReader(data / "journal")
        projector = Projector(history, now_s=lambda: START_NS / NS_PER_S, newest_plan=lambda: core.engine.plan)
        while projector.follow(reader):
            pass
        projector.flush()
        [gap] = history.records(kind="gap")
        assert json.loads(gap.body) == {"first": 0, "last": left[0] - 1, "plan_known": True}
        assert history.position() == last
        for part in (history, reader):
            part.close()


async def test_a_large_configuration_is_checked_beside_the_loop(tmp_path: Path) -> None:
    """Control goes on while 10,000 devices are read: the longest time the loop stands still is a small part of the whole."""
    fill_journal(tmp_path)
    core, base = Core(settings(tmp_path)), site("north")
    devices = [base.devices[0].model_copy(update={"name": f"d-{k}", "count": None}) for k in range(10_000)]
    request = Request(
        "q", "config", "wang", {"text": base.model_copy(update={"devices": devices, "areas": base.areas}).canonical()}
    )
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    gc.collect()
    gc.freeze()  # as `run` does
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    began = time.perf_counter()
    await core._take_request(request, 1)
    whole = time.perf_counter() - began
    await asyncio.sleep(0.01)
    beating.cancel()
    gc.unfreeze()
    [_, record] = [record for _, record in core._gather.build(core.engine.position + 1, core._clock.now_ns(), 0).records]
    core._close()
    assert isinstance(record, Config)
    assert record.text == request.body["text"]
    assert longest < whole / 3, f"{longest:.3f} of {whole:.3f} s"


async def test_of_two_changes_of_one_configuration_the_second_is_refused(tmp_path: Path) -> None:
    """Both were made from the configuration in force; the second would take back the first without having seen it."""
    fill_journal(tmp_path)
    core, base = Core(settings(tmp_path)), site("north")
    first, second = (base.model_copy(update={"organisation": name}) for name in ("first", "second"))
    for name, changed, asked in (("q1", first, base), ("q2", second, base), ("q3", second, first)):
        body = {"site": "north", "base": asked.sha256(), "text": changed.canonical()}
        await core._take_request(Request(name, "config", "wang", body), 1)
    await core._take_request(
        Request("q4", "config", "wang", {"site": "north", "text": base.canonical()}), 1
    )  # without a base: as it is
    records = [record for _, record in core._gather.build(core.engine.position + 1, core._clock.now_ns(), 0).records]
    core._close()
    refused = {record.id: record.body.get("refused", "") for record in records if isinstance(record, Request)}
    assert [*refused] == ["q1", "q2", "q3", "q4"]
    assert [bool(reason) for reason in refused.values()] == [False, True, False, False]
    assert "read it again" in refused["q2"]
    assert [r.sha256 for r in records if isinstance(r, Config)] == [first.sha256(), second.sha256(), base.sha256()]

"""The engine itself: spans, blind time, configuration in the middle, snapshots."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules import panes
from rules.condition import Conditions
from rules.engine import Engine
from store.snapshot import read_snapshot, write_snapshot
from telemetry.decision import Decision
from telemetry.frame import Entries, slice_entries
from telemetry.record import Config, Event, Request, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from tests.unit.rules.histories import T0, S, Story, record_of, site


def entries_of(*actions: tuple[float, object]) -> Entries:
    """START and the site at 0 s; then records, None (a tick) or (device, values) at their seconds."""
    story = Story(0)
    for second, action in actions:
        story.now = T0 + int(second * S)
        if action is None:
            story.gather.tick(story.now)
        elif isinstance(action, tuple):
            device, values = action
            body = json.dumps({"ts": story.now // 1_000_000, "p": values}).encode()
            story.gather.take(f"fl/s/{device}/telemetry", body, False, story.now)
        else:
            story.gather.add(action, story.now)  # type: ignore[arg-type]
    return story.gather.build(0, 0, 0)


def decide(entries: Entries, engine: Engine | None = None, *, one_by_one: bool = False) -> list[Decision]:
    engine = engine or build_engine()
    if not one_by_one:
        return engine.step(entries).decisions
    return [d for k in range(len(entries)) for d in engine.step(slice_entries(entries, k, k + 1)).decisions]


def blind(entries: Entries) -> list[tuple[int, bool, float]]:
    """(position, blind, seconds) of every word about it; equal for the whole run and for single entries."""
    made = [d for d in decide(entries) if d.kind == "blind"]
    assert [d for d in decide(entries, one_by_one=True) if d.kind == "blind"] == made
    return [(d.position, d.body["blind"], (d.time_ns - T0) / S) for d in made]


def test_blind_from_start_until_drained() -> None:
    assert blind(entries_of((3, Event("drained")), (4, None))) == [(0, True, 0), (2, False, 3)]


def test_blind_at_most_a_minute() -> None:
    assert blind(entries_of((59, None), (61, None), (62, Event("drained")))) == [(0, True, 0), (3, False, 60)]


def test_a_drained_that_comes_too_late_ends_nothing_twice() -> None:
    assert blind(entries_of((61, Event("drained")), (62, None))) == [(0, True, 0), (2, False, 60)]


def test_a_second_loss_makes_the_blind_time_longer() -> None:
    story = entries_of((50, Event("broker_lost")), (100, None), (105, Event("drained")))
    assert blind(story) == [(0, True, 0), (4, False, 105)]


def test_a_loss_after_the_minute_is_a_blind_time_of_its_own() -> None:
    story = entries_of((10, Event("drained")), (20, None), (100, Event("broker_lost")), (101, Event("drained")))
    assert blind(story) == [(0, True, 0), (2, False, 10), (4, True, 100), (5, False, 101)]
    (begin,) = [d for d in decide(story) if d.kind == "blind" and d.position == 4]
    assert begin.body["from_ns"] == T0 + 20 * S, "blind since the last entry before it"


def silence(*actions: tuple[float, object]) -> list[tuple[str, float]]:
    entries = entries_of(*actions)
    made = [d for d in decide(entries) if d.kind == "alarm" and d.subject == "SIL@s/d-0"]
    assert [d for d in decide(entries, one_by_one=True) if d.kind == "alarm" and d.subject == "SIL@s/d-0"] == made
    return [(d.body["to"], (d.time_ns - T0) / S) for d in made]


HELLO = ("d-0", {"rh_pct": 70})


def test_silence_counts_from_the_last_word() -> None:
    assert silence((0, Event("drained")), (1, HELLO), (2, HELLO), (8, None), (9, None), (20, HELLO)) == [
        ("UNACK", 9),
        ("RTNUN", 20),
    ]


@pytest.mark.parametrize("begin", [Event("broker_lost"), Start(2)], ids=lambda r: type(r).__name__)
def test_silence_does_not_count_while_blind(begin: object) -> None:
    assert silence((0, Event("drained")), (1, HELLO), (5, begin), (20, None), (30, Event("drained")), (31, None), (36, None)) == []
    assert silence((0, Event("drained")), (1, HELLO), (5, begin), (6, HELLO), (20, None), (30, Event("drained")), (31, None)) == []


def test_silence_counts_again_from_the_end_of_the_blind_time() -> None:
    assert silence((0, Event("drained")), (1, HELLO), (5, Start(2)), (30, Event("drained")), (30, None), (50, None)) == [
        ("UNACK", 37)
    ]


def test_when_silence_counts_again_does_not_hang_on_the_next_entry() -> None:
    begin = ((0, Event("drained")), (1, HELLO), (5, Start(2)), (30, Event("drained")))
    assert silence(*begin, (50, None)) == silence(*begin, (31, None), (33, None), (50, None)) == [("UNACK", 37)]
    timed_out = ((0, Event("drained")), (1, HELLO), (5, Start(2)), (64, None))
    assert silence(*timed_out, (80, None)) == silence(*timed_out, (66, None), (67, None), (80, None)) == [("UNACK", 72)]


def test_a_device_that_never_spoke_is_silent_from_its_configuration_on() -> None:
    assert silence((0, Event("drained")), (6, None), (7, None)) == [("UNACK", 7)]
    assert silence((3, Event("drained")), (9, None), (10, None)) == [("UNACK", 10)], "and not while blind"
    assert silence((0, Event("drained")), (6, HELLO), (12, None)) == []
    assert silence((64, None), (66, None), (67, None)) == [("UNACK", 67)], "sight came back at 60 s"


def test_no_silence_across_the_gap_of_a_stopped_core() -> None:
    assert silence((0, Event("drained")), (1, HELLO), (1000, Start(2)), (1001, HELLO), (1002, Event("drained")), (1003, None)) == []


def test_a_timer_that_was_due_before_a_restart_fires_with_its_due_time_once_sight_is_back() -> None:
    """Not before: what waited in the broker may say that the condition had ended."""
    hot = ("d-0", {"temp_c": 40})
    story = entries_of((0, Event("drained")), (1, hot), (1000, Start(2)), (1001, None), (1002, Event("drained")), (1003, None))
    (alarm,) = [d for d in decide(story) if d.subject == "HOT@s/d-0" and d.kind == "alarm"]
    assert ((alarm.time_ns - T0) / S, alarm.position, alarm.phase) == (6, 7, 0)


def test_a_configuration_holds_from_the_next_entry_on() -> None:
    extra = site(extra=[RuleSpec(id="NEW", profile="p", when="rh_pct > 60", priority="P4")])
    story = entries_of((0, Event("drained")), (1, HELLO), (2, record_of(extra)), (3, ("d-1", {"rh_pct": 70})), (4, HELLO))
    for one_by_one in (False, True):
        made = [d.position for d in decide(story, one_by_one=one_by_one) if d.subject.startswith("NEW@") and d.kind == "alarm"]
        assert made == [5, 6]


def test_who_asks_for_a_configuration_is_answered() -> None:
    asked = [Request("r1", "config", "li", {"sha256": "00"}), Request("r2", "config", "li", {"refused": "2 mistakes"})]
    made = [d for d in decide(entries_of((0, asked[0]), (1, asked[1]))) if d.kind == "answer"]
    assert [(d.subject, d.position, d.body["accepted"], d.body["reason"]) for d in made] == [
        ("r1", 2, True, ""),
        ("r2", 3, False, "2 mistakes"),
    ]


def test_a_test_of_the_alarm_path_is_answered_and_moves_nothing() -> None:
    hot = ("d-0", {"temp_c": 40})
    asked = entries_of((0, Event("drained")), (1, Request("notify.test-1", "alarm_test", "notify")), (2, hot), (9, None))
    quiet = entries_of((0, Event("drained")), (1, Event("note")), (2, hot), (9, None))
    made = decide(asked)
    assert [(d.subject, d.body) for d in made if d.kind == "answer"] == [
        ("notify.test-1", {"accepted": True, "reason": "", "request": "alarm_test"})
    ]
    assert [d for d in made if d.kind != "answer"] == decide(quiet)


def test_the_same_configuration_again_changes_nothing() -> None:
    def story(again: bool) -> Entries:
        record = record_of(site()) if again else Event("note")
        hot = ("d-0", {"temp_c": 40})
        return entries_of((0, Event("drained")), (1, hot), (2, record), (3, hot), (7, None), (8, record), (9, hot), (30, None))

    assert decide(story(True)) == decide(story(False))


def test_an_alarm_of_a_removed_device_ends_with_its_area_also_after_a_restart_in_between() -> None:
    story = entries_of((0, Event("drained")), (1, ("d-3", {"temp_c": 4})), (2, record_of(site(2))), (3, None))
    for restarts in (False, True):
        engine, made = build_engine(), []
        for k in range(len(story)):
            made += engine.step(slice_entries(story, k, k + 1)).decisions
            if restarts:
                saved, engine = engine.snapshot(), build_engine()
                engine.restore(saved)
        (end,) = [d for d in made if d.subject == "COLD@s/d-3" and d.body.get("event") == "rule_removed"]
        assert (end.body["area"], end.position) == ("a", 5)


def test_a_snapshot_of_a_snapshot_is_the_same_bytes(tmp_path: Path) -> None:
    story = Story(3)
    for _ in range(300):
        story.act()
    engine = build_engine()
    engine.step(story.end())
    first = write_snapshot(tmp_path / "a", engine.position, engine.snapshot())
    again = build_engine()
    again.restore(read_snapshot(first).state)
    assert again.position == engine.position
    second = write_snapshot(tmp_path / "b", again.position, again.snapshot())
    assert first.read_bytes() == second.read_bytes()


def test_admission_covers_every_frame_and_sample_of_the_call() -> None:
    story = Story(5)
    for _ in range(200):
        story.act()
    entries = story.end()
    out = build_engine().step(entries)
    assert (len(out.admission.verdict), len(out.admission.quality)) == (len(entries.frames), len(entries.frames.point))
    positions = [d.position for d in out.decisions]
    assert positions == sorted(positions)
    assert set(positions) <= set(range(len(entries)))
    assert np.isin(out.admission.verdict, range(7)).all()


def test_an_unknown_device_leaves_a_reject_and_no_decision() -> None:
    gather = Gather(Directory(build_engine().plan))
    gather.take("fl/s/d/telemetry", b'{"p":{"x":1}}', False, T0)
    assert decide(gather.build(0, T0, 0)) == []


WINDOWS = (
    "mean(a, 1 min)",
    "std(b, 1 min)",
    "mean(b, 1 min)",
    "max(a, 1 min)",
    "slope(b, 1 min)",
    "mean(a, 2 min)",
    "rate(b, 1 min)",
)


def with_windows(windows: tuple[str, ...], devices: int) -> Config:
    rules = [RuleSpec(id=f"R{k}", when=f"{text} > 50", priority="P3") for k, text in enumerate(windows)]
    points = [PointSpec(name=name, unit="C", low=-50, high=150) for name in "ab"]
    made = SiteConfig(
        site="s", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a", count=devices)],
        profiles={"p": Profile(name="p", points=points, rules=rules)},
    )  # fmt: skip
    return Config("s", made.sha256(), made.canonical())


def after_samples(config: Config) -> Engine:
    """An engine in which three devices have sent two minutes of samples, the last of them half as many."""
    engine, rng = build_engine(), np.random.default_rng(4)
    gather = Gather(Directory(engine.plan))
    for record in (Start(1), config, Event("drained")):
        gather.add(record, T0)
    engine.step(gather.build(0, T0, 0))
    gather.directory = Directory(engine.plan)
    for k in range(120):
        now = T0 + k * S
        for number, device in enumerate(engine.plan.devices[: 3 - k % 2]):
            body = json.dumps({"ts": now // 1_000_000, "p": {"a": rng.normal(50, 1), "b": float(k + number)}}).encode()
            gather.take(f"fl/s/{device.name}/telemetry", body, False, now)
    engine.step(gather.build(engine.position + 1, now, 0))
    return engine


def memories(engine: Engine, seats: int) -> dict[str, Any]:
    stage = next(stage for stage in engine.stages if isinstance(stage, Conditions))
    return {made.key: block.rows(np.arange(seats)).tolist() for _, made, block in stage.windows()}


def test_windows_keep_their_memory_when_others_come_and_go() -> None:
    engine = after_samples(with_windows(WINDOWS, 3))
    before = memories(engine, 3)
    gather = Gather(Directory(engine.plan))
    gather.add(with_windows(("mean(b, 1 min)", "min(b, 1 min)", *WINDOWS[3:], WINDOWS[0]), 4), T0 + 200 * S)
    engine.step(gather.build(engine.position + 1, T0 + 200 * S, 0))
    after = memories(engine, 4)
    assert set(before) - set(after) == {"std(b, 1 min)"}
    for key in set(before) & set(after):
        assert after[key][:3] == before[key]
        assert after[key][3][0] == panes.NONE  # the new device has seen nothing
    assert [row[0] for row in after["min(b, 1 min)"]] == [panes.NONE] * 4


def test_windows_of_an_older_snapshot_are_read() -> None:
    """There each column had a block of its own."""
    engine = after_samples(with_windows(WINDOWS, 3))
    at, stage = next((k, stage) for k, stage in enumerate(engine.stages) if isinstance(stage, Conditions))
    saved = stage.snapshot()
    del saved["windows"]
    for cohort, made, block in stage.windows():
        words = np.zeros(panes.block_words(cohort.width, made.shape), np.int64)
        panes.Block(words, cohort.width, made.shape).copy(np.arange(3), block, np.arange(3))
        saved["cohorts"][cohort.name]["columns"][made.key]["state"] = words
    other = build_engine()
    gather = Gather(Directory(other.plan))
    gather.add(with_windows(WINDOWS, 3), T0)
    other.step(gather.build(0, T0, 0))
    other.stages[at].restore(saved)
    assert memories(other, 3) == memories(engine, 3)
    assert all(row[0] != panes.NONE for rows in memories(other, 3).values() for row in rows)

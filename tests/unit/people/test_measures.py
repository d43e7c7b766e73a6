"""Measures of alarms: cases computed by hand, and any history against a plain loop over one alarm at a time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from people.changes import Change
from people.measures import Delay, Measures, Share, Standing, measure

S = 1_000_000_000
MIN, HOUR, DAY = 60 * S, 3600 * S, 86_400 * S
START = 1_767_225_600 * S


def change(
    at_s: float,
    event: str,
    before: str,
    after: str,
    *,
    alarm: str = "HOT@s/d",
    area: str = "a",
    priority: str = "P3",
    author: str = "",
) -> Change:
    return Change(START + int(at_s * S), alarm, area, event, before, after, priority, author)


def raised(at_s: float, **more: Any) -> Change:
    return change(at_s, "raise", "NORM", "UNACK", **more)


def site_of(changes: list[Change], *, floods: list[Change] | None = None, hours: float = 24.0) -> Measures:
    return measure(changes, floods or [], areas=["a"], start_ns=START, end_ns=START + int(hours * HOUR))[0]


def test_no_change_is_a_calm_range() -> None:
    found = site_of([])
    assert (found.raised, found.per_day, found.average_rate, found.peak_rate, found.peak_ns, found.standing) == (
        0,
        0,
        0,
        0,
        None,
        0,
    )
    assert (found.stale, found.chattering, found.frequent, found.flood_s, found.shelved_s) == ((), (), (), 0.0, 0.0)
    assert found.acknowledged == Delay(0, None, None)
    assert [row.share for row in found.mix] == [None, None, None]


def test_rates_are_of_ten_minutes_wherever_they_begin() -> None:
    times = [0, 599, 1000, 1300, 1599.9, 1600, 7000]
    found = site_of([raised(t, alarm=f"R@s/d{k}") for k, t in enumerate(times)], hours=4)
    assert (found.raised, found.per_day, found.average_rate) == (7, 42.0, 7 / 24)
    # 1000, 1300 and 1599.9 are within 600 s of 1000; 1600 is not
    assert (found.peak_rate, found.peak_ns) == (3, START + 1000 * S)


def test_a_time_to_acknowledge_runs_from_when_the_alarm_began_to_wait() -> None:
    changes = [
        raised(0, priority="P1"), change(30, "acknowledge", "UNACK", "ACKED", priority="P1", author="li"),
        raised(100, alarm="A@s/d"), change(110, "clear", "UNACK", "RTNUN", alarm="A@s/d"),
        change(120, "raise", "RTNUN", "UNACK", alarm="A@s/d"), change(190, "acknowledge", "UNACK", "ACKED", alarm="A@s/d", author="wang"),
        raised(200, alarm="B@s/d"), change(210, "clear", "UNACK", "RTNUN", alarm="B@s/d"),
        change(210, "acknowledge", "RTNUN", "NORM", alarm="B@s/d", author="wang"),
        raised(300, alarm="C@s/d"),
    ]  # fmt: skip
    found = site_of(changes)
    # 30 s, 90 s, 10 s; the 90th percentile lies 0.8 of the way from 30 to 90
    assert found.acknowledged == Delay(3, 30.0, pytest.approx(78.0))
    assert found.by_priority["P1"] == Delay(1, 30.0, 30.0)
    assert found.by_priority["P2"] == Delay(0, None, None)
    assert found.by_priority["P3"] == Delay(2, 50.0, pytest.approx(82.0))
    assert found.by_operator == {"li": Delay(1, 30.0, 30.0), "wang": Delay(2, 50.0, pytest.approx(82.0))}
    assert (found.raised, found.standing) == (5, 3)


def test_an_answer_to_an_alarm_from_before_the_range_has_its_true_delay_where_that_is_known() -> None:
    known = [raised(-3600), change(60, "acknowledge", "UNACK", "ACKED", author="li")]
    assert site_of(known).acknowledged == Delay(1, 3660.0, 3660.0)
    assert site_of(known).raised == 0
    assert site_of(known[1:]).acknowledged == Delay(1, None, None)


def test_stale_is_what_stands_for_more_than_a_day() -> None:
    changes = [
        raised(-7200, alarm="OLD@s/d"), change(100, "acknowledge", "UNACK", "ACKED", alarm="OLD@s/d"),
        raised(0, alarm="DAY@s/d"), raised(-90_000, alarm="SHELVED@s/d"), change(50, "shelve", "UNACK", "SHLVD", alarm="SHELVED@s/d"),
        raised(-90_000, alarm="GONE@s/d"), change(50, "clear", "UNACK", "RTNUN", alarm="GONE@s/d"),
        change(50, "acknowledge", "UNACK", "ACKED", alarm="UNKNOWN@s/d"),
    ]  # fmt: skip
    found = site_of(changes)
    assert found.stale == (Standing("UNKNOWN@s/d", None), Standing("OLD@s/d", START - 7200 * S))
    assert found.standing == 3


@pytest.mark.parametrize(("third_s", "chatters"), [(60, True), (60.001, False)])
def test_three_changes_within_a_minute_are_chatter(third_s: float, chatters: bool) -> None:
    changes = [
        raised(0), change(20, "clear", "UNACK", "RTNUN"), change(third_s, "raise", "RTNUN", "UNACK"),
        raised(0, alarm="B@s/d"), raised(1, alarm="C@s/d"),
    ]  # fmt: skip
    assert site_of(changes).chattering == ((Share("HOT@s/d", 3, 0.6),) if chatters else ())


def test_an_alarm_that_core_shelved_for_chatter_is_named() -> None:
    assert [s.subject for s in site_of([change(5, "chatter", "UNACK", "SHLVD")]).chattering] == ["HOT@s/d"]


def test_the_most_frequent_come_first_with_their_share() -> None:
    changes = [raised(10 * k + n, alarm=f"R{k:02}@s/d") for k in range(12) for n in range(k + 1)]
    found = site_of(changes)
    assert found.raised == 78
    assert [(share.subject, share.count) for share in found.frequent] == [(f"R{k:02}@s/d", k + 1) for k in range(11, 1, -1)]
    assert found.frequent[0].share == 12 / 78


def test_priorities_stand_beside_their_targets() -> None:
    changes = [raised(k, alarm=f"R@s/{k}", priority=p) for k, p in enumerate(["P1", "P2", "P2", "P3", "P3", "P3", "P4", "P4"])]
    assert [(m.level, m.priorities, m.count, m.share, m.target) for m in site_of(changes).mix] == [
        ("high", ("P1",), 1, 0.125, 0.05), ("medium", ("P2",), 2, 0.25, 0.15), ("low", ("P3", "P4"), 5, 0.625, 0.80),
    ]  # fmt: skip


def test_time_in_states_is_cut_to_the_range() -> None:
    changes = [
        change(-100, "shelve", "UNACK", "SHLVD"), change(50, "unshelve", "SHLVD", "UNACK"),
        change(60, "suppress", "UNACK", "DSUPR", alarm="B@s/d"),
        change(30, "in_service", "OOSRV", "NORM", alarm="C@s/d"),
    ]  # fmt: skip
    found = site_of(changes, hours=1)
    assert (found.shelved_s, found.suppressed_s, found.out_of_service_s) == (50.0, 3540.0, 30.0)


def flood(at_s: float, event: str, area: str) -> Change:
    states = ("NORM", "UNACK") if event == "raise" else ("UNACK", "NORM")
    return Change(START + int(at_s * S), f"s/{area}", area, event, *states)


def test_a_site_is_in_flood_while_any_of_its_areas_is() -> None:
    floods = [flood(100, "raise", "a"), flood(150, "raise", "b"), flood(200, "clear", "a"), flood(300, "clear", "b"),
              flood(3500, "raise", "a")]  # fmt: skip
    site, areas = measure([], floods, areas=["a", "b", "calm"], start_ns=START, end_ns=START + HOUR)
    assert (site.flood_s, site.floods) == (300.0, 3)
    assert {name: (found.flood_s, found.floods) for name, found in areas.items()} == {
        "a": (200.0, 2), "b": (150.0, 1), "calm": (0.0, 0),
    }  # fmt: skip
    assert measure([], [flood(40, "clear", "a")], areas=[], start_ns=START, end_ns=START + HOUR)[0].flood_s == 40.0


def test_every_area_has_its_own_figures_and_the_site_those_of_all() -> None:
    changes = [
        raised(0),
        raised(1, alarm="B@s/e", area="b"),
        raised(2, alarm="C@s/e", area="b"),
        raised(3, alarm="X@s/f", area="gone"),
    ]
    site, areas = measure(changes, [], areas=["a", "b"], start_ns=START, end_ns=START + HOUR)
    assert (site.raised, {name: found.raised for name, found in areas.items()}) == (4, {"a": 1, "b": 2})


STATES = ("NORM", "UNACK", "ACKED", "RTNUN", "SHLVD", "DSUPR", "OOSRV")
EVENTS = {"UNACK": "raise", "ACKED": "acknowledge", "RTNUN": "clear", "NORM": "acknowledge", "SHLVD": "shelve", "DSUPR": "suppress"}


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Three alarms in two areas that walk through any states, before, in and after an hour; in journal order."""
    state, found, now_s = {}, [], draw(st.integers(-2000, 0))
    for _ in range(draw(st.integers(0, 40))):
        now_s += draw(st.integers(0, 300))
        k = draw(st.integers(0, 2))
        before = state.get(k, draw(st.sampled_from(STATES)))
        after = draw(st.sampled_from([name for name in STATES if name != before]))
        state[k] = after
        found.append(
            change(now_s, EVENTS.get(after, "x"), before, after, alarm=f"R{k}@s/d", area="ab"[k % 2], priority=f"P{k + 1}",
                   author=draw(st.sampled_from(["li", "wang"])))
        )  # fmt: skip
    return found


def naive(changes: list[Change], start_ns: int, end_ns: int) -> dict[str, Any]:
    """The same figures by a loop over each alarm by itself."""
    by_alarm: dict[str, list[Change]] = {}
    for one in changes:
        if one.time_ns < end_ns:
            by_alarm.setdefault(one.subject, []).append(one)
    times, delays, standing, spent, chatter = [], [], 0, dict.fromkeys(STATES, 0), set()
    for alarm, rows in by_alarm.items():
        spent[rows[0].before] += max(0, min(rows[0].time_ns, end_ns) - start_ns)
        waiting_since: int | None = None
        for k, row in enumerate(rows):
            inside, until = row.time_ns >= start_ns, rows[k + 1].time_ns if k + 1 < len(rows) else end_ns
            spent[row.after] += max(0, until - max(row.time_ns, start_ns))
            if inside and row.after == "UNACK":
                times.append(row.time_ns)
            if inside and row.event == "acknowledge" and row.before in {"UNACK", "RTNUN"}:
                delays.append(None if waiting_since is None else (row.time_ns - waiting_since) / S)
            if row.after in {"UNACK", "RTNUN"} and row.before not in {"UNACK", "RTNUN"}:
                waiting_since = row.time_ns
        standing += rows[-1].after in {"UNACK", "ACKED"}
        moved = [row.time_ns for row in rows if row.time_ns >= start_ns and row.event in {"raise", "clear"}]
        if any(third - first <= MIN for first, third in zip(moved, moved[2:], strict=False)):
            chatter.add(alarm)
    times.sort()
    return {
        "raised": len(times), "peak": max((sum(t <= u < t + 10 * MIN for u in times) for t in times), default=0),
        "delays": delays, "standing": standing, "spent": spent, "chatter": chatter,
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(histories())
def test_any_history_equals_the_plain_loop(changes: list[Change]) -> None:
    end_ns = START + HOUR
    site, areas = measure(changes, [], areas=["a", "b"], start_ns=START, end_ns=end_ns)
    for area, found in {"": site, **areas}.items():
        own = [change for change in changes if area in ("", change.area)]
        plain = naive(own, START, end_ns)
        assert (found.raised, found.peak_rate, found.standing) == (plain["raised"], plain["peak"], plain["standing"])
        assert {share.subject for share in found.chattering} == plain["chatter"]
        assert sum(share.count for share in found.frequent) == plain["raised"]
        spent = {name: plain["spent"][name] / S for name in ("SHLVD", "DSUPR", "OOSRV")}
        assert (found.shelved_s, found.suppressed_s, found.out_of_service_s) == tuple(spent.values())
        known = sorted(delay for delay in plain["delays"] if delay is not None)
        assert found.acknowledged.count == len(plain["delays"]) == sum(d.count for d in found.by_operator.values())
        assert (found.acknowledged.median_s is None) == (not known)
        if known:
            middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
            assert found.acknowledged.median_s == pytest.approx(middle)
            assert known[0] <= middle <= found.acknowledged.p90_s <= known[-1]

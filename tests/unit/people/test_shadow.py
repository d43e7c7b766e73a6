"""A shadow beside the real rule: episodes that overlap are one, demands stand side by side. Computed by hand, and against a raster."""

from hypothesis import given, settings
from hypothesis import strategies as st

from people.changes import Change
from people.shadow import Asked, Episodes, Step, compare, side_by_side

S = 1_000_000_000


def on_off(*times_s: int, subject: str = "HOT@s/d") -> list[Change]:
    """On and off by turns."""
    return [
        Change(t * S, subject, "a", "clear" if k % 2 else "raise", *(("UNACK", "RTNUN") if k % 2 else ("RTNUN", "UNACK")))
        for k, t in enumerate(times_s)
    ]


def compared(
    real: list[Change], shadow: list[Change], start_s: int = 0, end_s: int = 1000
) -> list[tuple[str, str, list[int], list[int]]]:
    return [
        (e.subject, e.by, [t // S for span in e.real for t in span], [t // S for span in e.shadow for t in span])
        for e in compare(real, shadow, start_s * S, end_s * S)
    ]


def test_episodes_of_both_of_one_and_of_the_other() -> None:
    real = [*on_off(100, 200, 500, 600), *on_off(10, 20, subject="HOT@s/e")]
    shadow = on_off(150, 170, 190, 250, 700, 800)
    assert compared(real, shadow) == [
        ("HOT@s/e", "real", [10, 20], []),
        ("HOT@s/d", "both", [100, 200], [150, 170, 190, 250]),
        ("HOT@s/d", "real", [500, 600], []),
        ("HOT@s/d", "shadow", [], [700, 800]),
    ]


def test_an_acknowledged_alarm_goes_on_and_a_shelved_one_does_not() -> None:
    rows = [
        Change(10 * S, "HOT@s/d", "a", "raise", "NORM", "UNACK"), Change(20 * S, "HOT@s/d", "a", "acknowledge", "UNACK", "ACKED"),
        Change(50 * S, "HOT@s/d", "a", "shelve", "ACKED", "SHLVD"),
    ]  # fmt: skip
    assert compared(rows, []) == [("HOT@s/d", "real", [10, 50], [])]


def test_episodes_are_cut_to_the_range() -> None:
    assert compared(on_off(100, 400), on_off(10, 20, 450), 200, 300) == [("HOT@s/d", "real", [200, 300], [])]
    assert compared(on_off(100), on_off(100, 250)[1:], 200, 300) == [("HOT@s/d", "both", [200, 300], [200, 250])]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), unique=True, max_size=12), st.lists(st.integers(0, 60), unique=True, max_size=12))
def test_time_on_equals_a_raster_of_seconds(real_s: list[int], shadow_s: list[int]) -> None:
    found = compare(on_off(*sorted(real_s)), on_off(*sorted(shadow_s)), 10 * S, 50 * S)
    for side, times in (("real", sorted(real_s)), ("shadow", sorted(shadow_s))):
        on = [second for second in range(10, 50) if sum(t <= second for t in times) % 2]
        assert sorted(s for e in found for begin, end in getattr(e, side) for s in range(begin // S, end // S)) == on
    for episodes in found:
        assert episodes.by == ("both" if episodes.real and episodes.shadow else "real" if episodes.real else "shadow")


def test_episodes_begin_with_their_first() -> None:
    assert Episodes("HOT@s/d", "both", ((5, 9),), ((3, 6),)).begin_ns == 3


def test_demands_stand_side_by_side_with_what_was_told() -> None:
    vent, fan = "s/d/vent", "s/d/fan"
    asked = [
        Asked(1, vent, "real", ("value", 40.0), 40.0),
        Asked(2, vent, "shadow", ("value", 60.0)),
        Asked(3, vent, "real", ("value", 40.0), 20.0),  # another rule moved it
        Asked(4, fan, "shadow", ("at_least", 10.0)),
        Asked(5, vent, "real", None, 0.0),
        Asked(6, vent, "shadow", None),
        Asked(7, fan, "real", None, 30.0),
    ]
    assert side_by_side(asked) == [
        Step(1, vent, ("value", 40.0), None, 40.0),
        Step(2, vent, ("value", 40.0), ("value", 60.0), 40.0),
        Step(4, fan, None, ("at_least", 10.0), None),
        Step(5, vent, None, ("value", 60.0), 0.0),
        Step(6, vent, None, None, 0.0),
    ]

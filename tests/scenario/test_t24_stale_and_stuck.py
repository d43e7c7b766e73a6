"""T24: a sensor that falls silent, stands still or flaps. What it asked of an actuator is held for three heartbeats at most, then the
actuator goes to its safe rest; automation comes back only after good samples for as long as the rule waits.
"""

import pytest

from telemetry.site import AreaSpec, DeviceSpec, Profile, SiteConfig
from tests.unit.rules.house import House, S

HEARTBEAT_S, ON_DELAY_S = 10, 35  # a rule that waits longer than a sample is held needs more than one good sample


def house() -> House:
    profile = Profile.model_validate({
        "name": "p",
        "points": [{"name": "temp_c", "unit": "C", "low": -40, "high": 80, "heartbeat_s": HEARTBEAT_S, "stuck_s": 60}],
        "actuators": [{"name": "heat", "rest": 0}],
        "rules": [
            {"id": "WARM", "when": "temp_c < 10 and quality(temp_c) < 0.5", "missing": "clear", "on_delay_s": ON_DELAY_S,
             "demand": {"actuator": "heat", "value": 60, "level": "temperature"}},
            {"id": "SILENT", "when": f"stale(temp_c, {3 * HEARTBEAT_S} s)", "priority": "P2"},
        ],
    })  # fmt: skip
    made = House()
    made.configure(
        SiteConfig(
            site="s", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a")], profiles={"p": profile}
        )
    )
    return made


def fed(made: House, values: list[float | None], *, every_s: int = 1) -> None:
    """One sample a second, or the last of `every_s`."""
    for value in values:
        if every_s > 1:
            made.tick(every_s - 1)
        made.measure(value)
        made.flush()


def asked(made: House) -> list[tuple[float, float]]:
    """(second, what arbitration says) from the end of the warm-up on."""
    return [
        ((d.time_ns - made.began) / S, d.body["value"]) for d in made.decisions if d.kind == "demand" and d.time_ns > made.began
    ]


def warm() -> House:
    """Asks for heat since some seconds; the last sample is of `began`."""
    made = house()
    fed(made, [5.0 + k % 2 for k in range(45)])
    assert [d.body["value"] for d in made.decisions if d.kind == "demand"] == [60.0]
    made.began = made.now
    return made


def test_silence_is_told_at_three_heartbeats_and_the_output_let_go() -> None:
    made = warm()
    for _ in range(45):
        made.tick(1)
        made.flush()
    ((second, value),) = asked(made)
    assert value == 0.0
    assert abs(second - 3 * HEARTBEAT_S) <= 1
    raised = [(d.time_ns - made.began) / S for d in made.decisions if d.kind == "alarm" and d.subject == "SILENT@s/d"]
    assert [abs(second - 3 * HEARTBEAT_S) <= 1 for second in raised] == [True]


@pytest.mark.parametrize("bad", [None, 99.0])
def test_bad_samples_hold_the_output_no_longer_than_silence(bad: float | None) -> None:
    made = warm()
    fed(made, [bad] * 45)
    ((second, value),) = asked(made)
    assert value == 0.0
    assert second <= 3 * HEARTBEAT_S + 1


@pytest.mark.parametrize("value", [5.0, -40.0])
def test_a_value_that_stands_still_lets_go(value: float) -> None:
    """Frozen, also at the end of its range: a rule that reads the quality lets go when the sensor counts as stuck."""
    made = warm()
    fed(made, [value] * 100)
    changes = asked(made)
    assert [v for _, v in changes] == [0.0]
    assert changes[0][0] <= 62


def test_automation_comes_back_after_good_samples_for_as_long_as_the_rule_waits() -> None:
    made = warm()
    for _ in range(40):
        made.tick(1)
        made.flush()
    returned = (made.now - made.began) / S
    fed(made, [5.0 + k % 2 for k in range(45)])
    (_, gone), (second, back) = asked(made)
    assert (gone, back) == (0.0, 60.0)
    assert abs(second - returned - ON_DELAY_S) <= 2


def test_a_flapping_sensor_moves_nothing() -> None:
    """One good sample, then 35 s of nothing, again and again: never good for long enough."""
    made = warm()
    fed(made, [5.0, 6.0] * 5, every_s=3 * HEARTBEAT_S + 5)
    assert [value for _, value in asked(made)] == [0.0]

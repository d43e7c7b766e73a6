"""Phases of feeding: when each holds, what one head gets in it, its meals, and what a site may not give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rules.control import pig_works
from rules.control.pig_house import CONTROLLER
from rules.control.stage import term_words
from telemetry.errors import CallerError
from telemetry.site import MODES, ControllerSpec

S, DAY_S = 10**9, 86_400
SOWS = [
    {"name": "gestation", "feed": "sow G", "kg_by_day": [[0, 2.2], [89, 2.2], [90, 3.0]], "ration": 1.0},
    {"name": "lactation", "feed": "sow L", "from_day": 114, "kg_by_day": [[114, 2.0], [124, 7.0]], "ration": 1.0,
     "meals": [[6, 40], [11, 20], [17, 40]]},
]  # fmt: skip


class Trough:
    """One house of `heads` whose auger moves 0.5 kg/s; bin and counter tell it all, unless the bin bridges."""

    def __init__(self, given: dict[str, Any], *, heads: float = 100.0, weight_kg: float = 60.0) -> None:
        self.p = CONTROLLER.parameters(given)
        self.heads, self.weight_kg = np.array([heads]), np.array([weight_kg])
        self.feeding = pig_works.start(1, 0).feeding
        self.fed_kg, self.on, self.terms = 0.0, False, dict[str, Any]()

    def at(self, day: float, hour: float, *, step_s: float = 60.0) -> None:
        self.fed_kg += 0.5 * step_s * self.on
        known = {"hour": hour, "day_of_batch": day, "feed_total_kg": self.fed_kg, "bin_weight_kg": 9000.0 - self.fed_kg}
        inputs = {name: np.array([value]) for name, value in known.items()}
        now_ns = int((np.nan_to_num(day) * 24.0 + hour) * 3600.0) * S
        self.feeding, on, self.terms = pig_works.feed(
            self.feeding, now_ns, inputs, allowed=np.ones(1, np.bool_), weight_kg=self.weight_kg, heads=self.heads, p=self.p
        )
        self.on = bool(on[0])

    def day(self, day: float) -> dict[int, float]:
        """Kilograms of each hour of a day."""
        given = {}
        for minute in range(24 * 60):
            before = self.fed_kg
            self.at(day, minute / 60.0)
            given[minute // 60] = given.get(minute // 60, 0.0) + self.fed_kg - before
        return given

    def told(self, name: str) -> float:
        return float(self.terms[name][0])


def test_a_sow_is_fed_by_the_day_of_its_phase() -> None:
    house = Trough({"feed_phases": SOWS})
    for day, phase, kg in ((10, 1, 2.2), (90, 1, 3.0), (113, 1, 3.0), (114, 2, 2.0), (120, 2, 5.0), (140, 2, 7.0)):
        house.at(day - 1, 23.9)
        house.at(day, 0.0)
        assert (house.told("feed_phase_1"), house.told("feed_of_day_kg")) == (phase, pytest.approx(100.0 * kg)), day


def test_a_phase_changes_at_midnight_and_not_within_the_day() -> None:
    house = Trough({"feed_phases": [{"name": "a"}, {"name": "b", "from_kg": 60.0}]}, weight_kg=59.9)
    house.at(5, 12.0)
    house.weight_kg[:] = 60.5
    house.at(5, 12.1)
    assert house.told("feed_phase_1") == 1.0
    house.at(6, 0.0)
    assert house.told("feed_phase_1") == 2.0


def test_meals_give_the_whole_day_at_their_hours() -> None:
    house = Trough({"feed_phases": SOWS}, heads=40.0)
    house.at(119, 23.9)
    given = house.day(120)
    assert sum(given.values()) == pytest.approx(40.0 * 5.0, abs=31.0)  # to a minute of the auger
    assert {hour for hour, kg in given.items() if kg > 0.0} == {6, 11, 17}
    assert given[6] == pytest.approx(80.0, abs=31.0)


def test_a_meal_larger_than_its_hour_goes_on_in_the_next() -> None:
    house = Trough({"feed_phases": [{"name": "one meal", "kg_by_day": [[0, 5.0]], "ration": 1.0, "meals": [[8, 1]]}]}, heads=500.0)
    house.at(119, 23.9)
    given = house.day(120)
    assert sum(given.values()) == pytest.approx(2500.0, abs=31.0)
    assert {hour for hour, kg in given.items() if kg > 0.0} == {8, 9}  # 1,800 kg an hour


def test_by_what_was_eaten_and_a_controller_that_comes_late_reckons_it() -> None:
    house = Trough({})  # the usual phases: 30, 90, 160 kg
    house.at(0, 6.0)
    assert (house.told("feed_phase_1"), house.told("feed_per_pig_kg")) == (1.0, 0.0)
    late = Trough({})
    late.at(100, 6.0)  # 63 to 163 days: 240 kg by the handbook, and 5 % of waste
    assert late.told("feed_per_pig_kg") == pytest.approx(1.05 * 235.0, rel=0.03)
    assert late.told("feed_phase_1") == 4.0
    by_weight = Trough({}, weight_kg=100.0)
    by_weight.at(np.nan, 6.0)  # no batch: day 80 of the curve
    assert by_weight.told("feed_per_pig_kg") == pytest.approx(1.05 * 175.0, rel=0.05)
    assert by_weight.told("feed_phase_1") == 4.0
    by_weight.at(10, 6.1)  # its batch is said
    assert (by_weight.told("feed_phase_1"), by_weight.told("feed_per_pig_kg")) == (1.0, pytest.approx(14.0, rel=0.1))
    late.at(0, 6.1)  # a new batch
    assert (late.told("feed_phase_1"), late.told("feed_per_pig_kg")) == (1.0, pytest.approx(0.0, abs=0.5))


def test_without_a_batch_the_first_meals_and_the_curve_of_the_house_hold() -> None:
    fresh = Trough({"feed_phases": [{"name": "a"}, {"name": "b", "from_day": 3}]})
    inputs = {name: np.array([value]) for name, value in (("hour", 7.0), ("day_of_batch", np.nan), ("feed_total_kg", 0.0))}
    inputs["bin_weight_kg"] = np.array([9000.0])
    feeding, _, terms = pig_works.feed(
        fresh.feeding, 0, inputs, allowed=np.ones(1, np.bool_), weight_kg=fresh.weight_kg, heads=fresh.heads, p=fresh.p
    )
    assert np.isnan(terms["feed_phase_1"][0])
    assert terms["feed_of_day_kg"][0] == pytest.approx(pig_works.ration_kg(fresh.weight_kg, fresh.heads, fresh.p)[0])
    assert feeding.phase[0] == -1


def test_units_alone_and_together_are_fed_alike() -> None:
    days = np.array([10.0, 100.0, 118.0])
    p = CONTROLLER.parameters({"feed_phases": SOWS})
    weight, heads, may = np.full(3, 200.0), np.array([10.0, 20.0, 30.0]), np.ones(3, np.bool_)

    def fed(rows: slice) -> np.ndarray:
        inputs = {"hour": np.full(3, 6.0)[rows], "day_of_batch": days[rows], "feed_total_kg": np.zeros(3)[rows]}
        inputs["bin_weight_kg"] = np.full(3, 9e3)[rows]
        state = pig_works.start(len(days[rows]), 0).feeding
        return pig_works.feed(state, 0, inputs, allowed=may[rows], weight_kg=weight[rows], heads=heads[rows], p=p)[2][
            "feed_of_day_kg"
        ]

    together = fed(slice(None))
    assert together.tolist() == [float(fed(slice(k, k + 1))[0]) for k in range(3)]
    assert together.tolist() == pytest.approx([22.0, 60.0, 120.0])


def test_the_name_of_the_phase_stands_beside_its_number() -> None:
    spec = ControllerSpec(id="climate", kind="pig_house", parameters={"feed_phases": [{"name": "old"}]})
    own = {"feed_phases": SOWS}
    assert term_words(spec, own, {"feed_phase_1": 2.0}) == {"feed_phase_1": "2 lactation (sow L)"}
    assert term_words(spec, {}, {"feed_phase_1": 1.0}) == {"feed_phase_1": "1 old"}
    assert term_words(spec, own, {"feed_phase_1": 3.0}) == {}  # of a configuration before
    assert term_words(spec, own, {"feed_phase_1": None}) == {}
    assert term_words(spec, {"feed_phases": "x"}, {"feed_phase_1": 1.0}) == {}
    room = ControllerSpec(id="climate", kind="germination_room")
    assert term_words(room, {}, {"stage_number": 2.0}) == {"stage_number": "2 radicle"}
    assert term_words(ControllerSpec(id="c", kind="multispan"), {}, {"x": 1.0}) == {}


def test_the_farrowing_room_of_the_documents_has_warm_nests_and_feeds_its_sows() -> None:
    text = (Path(__file__).parents[3] / "docs" / "control.md").read_text("utf-8")
    (block,) = [part for part in text.split("```") if part.startswith("yaml\n# a farrowing room")]
    given = yaml.safe_load(block.removeprefix("yaml\n"))
    p = CONTROLLER.parameters(given)
    inputs = {name: np.full(3, np.nan) for name in CONTROLLER.READS}
    inputs |= {
        "creep_temp_c": np.array([33.0, 33.0, 25.5]),
        "day_of_batch": np.array([0.0, 21.0, 21.0]),
        "pig_count": np.full(3, 24.0),
    }
    inputs |= {"hour": np.full(3, 5.0), "mode": np.full(3, float(MODES.index("OCCUPIED"))), "mains_bool": np.ones(3)}
    inputs |= {"room_temp_c": np.array([35.0, 20.0, 20.0]), "feed_total_kg": np.zeros(3), "bin_weight_kg": np.full(3, 900.0)}
    turn = CONTROLLER.step(CONTROLLER.start(3, 0, p), 10 * S, inputs, p)
    demands = {(ask.actuator, ask.bound): values for ask, values in turn.demands.items()}
    assert demands["heat_lamp", "value"].tolist() == [50.0, 0.0, 25.0]  # nest 34 C at birth, 26 at three weeks
    assert not demands["sprinkler", "value"].any()  # in no heat: litters lie there
    assert turn.terms["feed_of_day_kg"].tolist() == pytest.approx([48.0, 168.0, 168.0])
    assert turn.terms["minimum_by_weight_m3_h"].tolist() == pytest.approx([34.0 * 24.0] * 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("grower", "list of 1 to 12"),
        ([], "list of 1 to 12"),
        (["grower"], "feed_phases 1 is 'grower'"),
        ([{"feed": "G1"}], "feed_phases 1 needs a name"),
        ([{"name": "a"}, {"name": "b"}], r"feed_phases 2 \(b\): give one of from_day"),
        ([{"name": "a"}, {"name": "b", "from_day": 3, "from_kg": 4}], "give one of from_day"),
        ([{"name": "a"}, {"name": "b", "from_day": 3}, {"name": "c", "from_kg": 60}], "begin by the same"),
        ([{"name": "a"}, {"name": "b", "from_day": 30}, {"name": "c", "from_day": 20}], "begins later"),
        ([{"name": "a"}, {"name": "a", "from_day": 30}], "same name"),
        ([{"name": "a", "kg_by_day": [[0, 2]], "kg_by_kg": [[0, 2]]}], "one of kg_by_day and kg_by_kg"),
        ([{"name": "a", "kg_by_day": [[0, 200]]}], r"feed_phases 1 \(a\): kg_by_day is 200"),
        ([{"name": "a", "meals": [[24, 1]]}], "hours of meals"),
        ([{"name": "a", "meals": [[6.5, 1]]}], "hours of meals"),
        ([{"name": "a", "meals": [[6, 0]]}], "at least one hour"),
        ([{"name": "a", "meels": [[6, 1]]}], "no parameter 'meels'"),
        ([{"name": "a", "ration": 9}], "ration is 9"),
    ],
)
def test_phases_that_cannot_be_meant_are_refused(wrong: object, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        CONTROLLER.parameters({"feed_phases": wrong})

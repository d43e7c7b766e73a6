import numpy as np
import pytest

from simulators.substrate import Substrate, advance, conductivity_ms_cm, wet

BED = Substrate()
NOON = 100e-3 / 3600.0  # 100 g/m2/h


def run(state, minutes, *, valve=0.0, drip=1.5, taken=0.0):
    return advance(state, minutes * 60.0, valve=valve, drip_ms_cm=drip, taken_kg_m2_s=taken, substrate=BED)


def test_water_and_salts_are_conserved():
    state = run(run(wet(BED), 20, valve=1.0, drip=2.0, taken=NOON), 60, taken=NOON)
    given, drained = float(state.dripped_kg_m2[0]), float(state.drained_kg_m2[0])
    assert given == pytest.approx(20 * 60 * BED.flow_kg_m2_s)
    assert float(state.water_kg_m2[0]) == pytest.approx(0.95 * BED.capacity_kg_m2 + given - drained - 80 * 60 * NOON)
    assert drained > 0


def test_what_is_over_field_capacity_drains_within_minutes():
    state = run(run(wet(BED, 1.0), 5, valve=1.0), 10)
    assert float(state.water_kg_m2[0]) == pytest.approx(BED.capacity_kg_m2, abs=1e-4)
    assert float(state.drained_kg_m2[0]) == pytest.approx(5 * 60 * BED.flow_kg_m2_s, rel=1e-3)


def test_salts_build_up_without_drain_and_are_washed_out_with_it():
    dry = run(wet(BED), 24 * 60, taken=NOON / 2)
    assert float(conductivity_ms_cm(dry)[0]) > BED.fed_ms_cm
    for _ in range(5):
        dry = run(dry, 60, valve=1.0, drip=0.4)
    assert float(conductivity_ms_cm(dry)[0]) < 0.5


def test_an_empty_bed_gives_nothing_and_stays_finite():
    state = run(wet(BED, 0.001), 600, taken=NOON)
    assert float(state.water_kg_m2[0]) == pytest.approx(0.0, abs=1e-9)
    assert np.isfinite(conductivity_ms_cm(state)).all()


def test_beds_side_by_side_are_the_beds_alone():
    both = advance(wet(BED), 600.0, valve=np.array([0.0, 1.0]), drip_ms_cm=1.5, taken_kg_m2_s=NOON, substrate=BED)
    for k, valve in enumerate((0.0, 1.0)):
        assert both.water_kg_m2[k] == run(wet(BED), 10, valve=valve, taken=NOON).water_kg_m2[0]

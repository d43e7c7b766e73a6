import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.herd import (
    DAY_S,
    Inputs,
    Ledger,
    Parameters,
    advance,
    appetite_kg_d,
    book,
    death_rate_per_d,
    deaths,
    drunk_l,
    empty,
    feed_course,
    feed_kg_h,
    gain_kg_d,
    gompertz_gain_kg_d,
    gompertz_kg,
    heads,
    intake_kg_d,
    water_course,
    water_l_h,
)
from simulators.pig_house import feeding_level, finisher_heat_w

BREED = Parameters()
HOURS = np.arange(0, 24, 0.25)
CALM = Inputs()


def herd(pigs=1000, weight_kg=100.0, age_d=140.0, rooms=1):
    return book(empty(rooms), Ledger(placed=pigs), age_d=age_d, weight_kg=weight_kg)


def days(state, count, *, inputs=CALM, hour=0.0):
    return advance(state, count * DAY_S, hour=hour, inputs=inputs, parameters=BREED)


@pytest.mark.parametrize(("age", "weight", "tolerance"), [(21, 5.55, 0.01), (63, 25.0, 0.05), (100, 56.0, 0.1), (165, 120.0, 0.1)])
def test_gompertz_weight_at_an_age(age, weight, tolerance):
    assert gompertz_kg(age, BREED) == pytest.approx(weight, abs=tolerance)


def test_gain_is_highest_at_81_kg():
    weights = np.arange(5, 200)
    gains = gompertz_gain_kg_d(weights, BREED)
    assert gains.max() == pytest.approx(1.014, abs=5e-4)
    assert weights[np.argmax(gains)] == pytest.approx(81, abs=1)


@pytest.mark.parametrize(("weight", "feed"), [(10, 0.55), (25, 1.22), (50, 2.02), (75, 2.56), (100, 2.91), (120, 3.10)])
def test_appetite_at_a_weight(weight, feed):
    assert appetite_kg_d(weight, BREED) == pytest.approx(feed, abs=0.006)


def test_from_63_to_165_days_95_kg_are_made_of_240_kg_of_feed():
    start = herd(1000, 25.0, 63.0)
    state = days(start, 102)
    gain = state.weight_kg[0] - 25.0
    assert state.age_d[0] == pytest.approx(165)
    assert state.weight_kg[0] == pytest.approx(120.0, abs=0.1)
    assert state.eaten_kg[0] / 1000 == pytest.approx(240.0, abs=0.5)
    assert state.eaten_kg[0] / 1000 / gain == pytest.approx(2.53, abs=0.01)
    assert state.feed_kg[0] / 1000 / gain == pytest.approx(2.65, abs=0.01)
    assert gain / 102 == pytest.approx(0.931, abs=0.002)
    assert 2.1 < state.water_l[0] / state.feed_kg[0] < 2.8
    assert drunk_l(state, BREED)[0] == pytest.approx(0.635 * state.water_l[0])


def test_hourly_water_of_a_thousand_pigs():
    state = herd()
    assert water_l_h(state, 4, CALM, BREED)[0] == pytest.approx(117, abs=0.5)
    assert water_l_h(state, 17, CALM, BREED)[0] == pytest.approx(446, abs=0.5)
    course = np.array([water_l_h(state, hour, CALM, BREED)[0] for hour in HOURS])
    assert 3 <= HOURS[np.argmin(course)] <= 5
    assert 16 <= HOURS[np.argmax(course)] <= 18
    assert course.mean() * 24 == pytest.approx(6690, abs=10)


def test_feeding_has_its_peaks_in_the_morning_and_the_late_afternoon():
    course = feed_course(HOURS, BREED)
    peaks = [HOURS[i] for i in range(len(HOURS)) if course[i] > course[i - 1] and course[i] >= course[(i + 1) % len(HOURS)]]
    assert len(peaks) == 2
    assert 6 <= peaks[0] <= 8
    assert 15 <= peaks[1] <= 18
    assert course.mean() == pytest.approx(1, abs=1e-9)
    assert water_course(HOURS, 0.6).mean() == pytest.approx(1, abs=1e-9)


def test_a_day_in_one_call_equals_its_quarters_of_an_hour():
    whole = days(herd(), 1)
    parts = herd()
    for k in range(96):
        parts = advance(parts, 900, hour=k / 4, inputs=CALM, parameters=BREED)
    for one, other in zip(whole[1:], parts[1:], strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    assert whole.eaten_kg[0] == pytest.approx(1000 * 2.91, rel=0.01)


def test_an_hour_counts_what_the_hour_s_course_says():
    state = herd()
    hour = advance(state, 3600, hour=5.0, inputs=CALM, parameters=BREED)
    fine = 5.0 + (np.arange(3600) + 0.5) / 3600
    assert hour.eaten_kg[0] == pytest.approx(np.mean([feed_kg_h(state, h, CALM, BREED)[0] for h in fine[::10]]), rel=0.01)
    assert hour.water_l[0] == pytest.approx(water_l_h(state, fine, CALM, BREED).mean(), rel=0.01)


def test_feed_follows_heat_and_less_feed_is_less_gain():
    state, hot = herd(), Inputs(temp_c=29)
    assert intake_kg_d(state, hot, BREED) / intake_kg_d(state, CALM, BREED) == pytest.approx(0.9)
    assert water_l_h(state, 17, hot, BREED) > water_l_h(state, 17, CALM, BREED)
    normal, stressed, fasting = (days(state, 1, inputs=inputs).weight_kg[0] - 100 for inputs in (CALM, hot, Inputs(feed=0)))
    # A tenth less feed is a sixth less of what is left above maintenance.
    assert stressed / normal == pytest.approx(1 - 0.1 * 37.8 / 23.9, abs=0.01)
    assert fasting / normal == pytest.approx(-0.58, abs=0.01)
    assert gain_kg_d(0.0, 0.0, BREED) == 0
    assert days(state, 1, inputs=Inputs(water=0)).water_l[0] == 0


def test_illness_lowers_water_a_day_before_feed_and_passes():
    state, water, feed = herd(), [], []
    state = advance(state, 1.0, hour=0.0, inputs=Inputs(outbreak=1), parameters=BREED)
    for _ in range(9):
        after = days(state, 1)
        water.append((after.water_l - state.water_l)[0] / heads(state.ledger)[0] / appetite_kg_d(state.weight_kg, BREED)[0])
        feed.append((after.eaten_kg - state.eaten_kg)[0] / heads(state.ledger)[0] / appetite_kg_d(state.weight_kg, BREED)[0])
        state = after
    water_loss, feed_loss = 1 - np.array(water) / 2.3, 1 - np.array(feed)
    assert water_loss[0] > 0.15
    assert feed_loss[0] == pytest.approx(0, abs=0.02)
    assert np.all((water_loss[1:5] > 0.15) & (water_loss[1:5] < 0.30))
    assert np.all((feed_loss[2:5] > 0.20) & (feed_loss[2:5] < 0.40))
    assert [water_loss[8], feed_loss[8]] == pytest.approx([0, 0], abs=0.02)


def test_illness_flattens_the_day_of_water_and_takes_heat_from_the_house():
    well = herd()
    ill = days(well, 2, inputs=Inputs(outbreak=1))
    ratio = {hour: (water_l_h(ill, hour, CALM, BREED) / water_l_h(well, hour, CALM, BREED))[0] for hour in (4, 17)}
    assert ratio[17] < 0.78 < ratio[4]
    mild = days(well, 2, inputs=Inputs(outbreak=0.5))
    assert water_l_h(ill, 17, CALM, BREED) < water_l_h(mild, 17, CALM, BREED) < water_l_h(well, 17, CALM, BREED)
    heat = [finisher_heat_w(100, feeding_level(100, intake_kg_d(state, CALM, BREED)))[0] for state in (well, ill)]
    assert heat[1] < heat[0] - 10


def test_an_ill_herd_is_not_infected_anew_and_a_new_batch_comes_healthy():
    once = days(herd(), 3, inputs=Inputs(outbreak=1))
    again = days(once, 1, inputs=Inputs(outbreak=1))
    assert again.ill_s[0] == pytest.approx(4 * DAY_S)
    sold = book(again, Ledger(sold=1000))
    assert (sold.weight_kg[0], sold.age_d[0]) == (0, 0)
    fresh = book(sold, Ledger(placed=900), age_d=63, weight_kg=25)
    assert intake_kg_d(fresh, CALM, BREED)[0] == pytest.approx(1.22, abs=0.01)
    assert days(sold, 10).weight_kg[0] == 0
    assert days(sold, 10).eaten_kg[0] == sold.eaten_kg[0]


def test_deaths_are_few_in_health_more_in_illness_and_many_in_deadly_heat():
    state, ill = herd(100_000), days(herd(100_000), 3, inputs=Inputs(outbreak=1))
    furnace = Inputs(temp_c=34, rh_pct=95)
    cases = ((state, DAY_S, CALM, 30), (ill, DAY_S, CALM, 330), (state, 3600.0, furnace, None))
    for herd_, dt_s, inputs, expected in cases:
        died = deaths(herd_, dt_s, inputs=inputs, parameters=BREED, random=np.random.default_rng(1))[0]
        rate = death_rate_per_d(herd_, inputs, BREED)[0]
        mean = 100_000 * -np.expm1(-rate * dt_s / DAY_S)
        assert expected is None or mean == pytest.approx(expected, rel=0.01)
        assert died == pytest.approx(mean, abs=5 * np.sqrt(mean))
    assert mean > 5_000
    twice = [deaths(state, DAY_S, inputs=CALM, parameters=BREED, random=np.random.default_rng(7))[0] for _ in range(2)]
    assert twice[0] == twice[1]


@given(
    st.lists(
        st.tuples(*(st.lists(st.integers(0, 40), min_size=2, max_size=2) for _ in Ledger._fields)),
        max_size=30,
    )
)
def test_the_ledger_balances_and_never_goes_below_zero(entries):
    state, pigs = empty(2), np.zeros(2, int)
    for columns in entries:
        entry = Ledger(*(np.array(column) for column in columns))
        after = pigs + entry.placed + entry.moved_in - entry.died - entry.culled - entry.moved_out - entry.sold
        if (after < 0).any():
            before = state
            with pytest.raises(ValueError, match="too few"):
                book(state, entry, age_d=70, weight_kg=30)
            assert state is before
        else:
            state, pigs = book(state, entry, age_d=70, weight_kg=30), after
        assert (heads(state.ledger) == pigs).all()
        assert (pigs >= 0).all()
        assert state.weight_kg == pytest.approx(np.where(pigs > 0, 30, 0))


def test_deaths_booked_day_by_day_never_empty_a_room_below_zero():
    state, random = herd(50, rooms=20), np.random.default_rng(3)
    for _ in range(20):
        state = book(state, Ledger(died=deaths(state, DAY_S, inputs=Inputs(42, 90), parameters=BREED, random=random)))
    assert (heads(state.ledger) == 0).all()
    assert (state.ledger.died == 50).all()


def test_pigs_that_move_carry_their_weight():
    state = book(empty(2), Ledger(placed=[100, 50]), age_d=[70, 80], weight_kg=[30.0, 40.0])
    moved = book(state, Ledger(moved_out=[25, 0], moved_in=[0, 25]), age_d=70, weight_kg=30.0)
    assert list(heads(moved.ledger)) == [75, 75]
    assert list(moved.weight_kg) == pytest.approx([30.0, (50 * 40 + 25 * 30) / 75])
    assert list(moved.age_d) == pytest.approx([70, (50 * 80 + 25 * 70) / 75])


@pytest.mark.parametrize(
    ("entry", "weight", "message"),
    [
        (Ledger(sold=1001), 100.0, r"room 0 has 1000 pigs, 1 too few"),
        (Ledger(died=-1), 100.0, r"died is -1: heads are whole numbers"),
        (Ledger(culled=0.5), 100.0, r"culled is 0.5: heads are whole numbers"),
        (Ledger(died=float("nan")), 100.0, r"whole numbers"),
        (Ledger(placed=5), np.nan, r"give age_d in days and weight_kg"),
        (Ledger(moved_in=5), 0.0, r"give age_d in days and weight_kg"),
    ],
)
def test_entries_that_cannot_be_are_refused(entry, weight, message):
    with pytest.raises(ValueError, match=message):
        book(herd(), entry, age_d=100, weight_kg=weight)


def test_a_thousand_rooms_together_equal_each_alone():
    random = np.random.default_rng(2)
    pigs, weights = random.integers(0, 2000, 1000), random.uniform(6, 130, 1000)
    temps, outbreak = random.uniform(10, 35, 1000), random.choice([0.0, 0.0, 0.7, 1.0], 1000)
    inputs = Inputs(temp_c=temps, feed=random.choice([0.0, 1.0, 1.0], 1000), outbreak=outbreak)
    together = days(book(empty(1000), Ledger(placed=pigs), age_d=50, weight_kg=weights), 2, hour=5.0, inputs=inputs)
    for i in range(0, 1000, 50):
        alone = days(herd(pigs[i], weights[i], 50), 2, hour=5.0, inputs=Inputs(temps[i], feed=inputs.feed[i], outbreak=outbreak[i]))
        assert heads(alone.ledger)[0] == heads(together.ledger)[i]
        for one, all_of_them in zip(alone[1:], together[1:], strict=True):
            assert all_of_them[i] == pytest.approx(one[0], rel=1e-12)


def test_an_input_that_is_no_number_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"temp_c of house 0 is not a number"):
        days(herd(), 1, inputs=Inputs(temp_c=np.nan))


def test_no_time_changes_nothing():
    state = herd()
    assert advance(state, 0.0, hour=3.0, inputs=Inputs(outbreak=1), parameters=BREED) is state

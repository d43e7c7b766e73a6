"""Feed, manure and slurry of pig houses: the plan of the hour by measured kilograms, scraper runs, and the permit to move slurry."""

import functools
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.control.feed_phases import table
from rules.control.given import known_or
from rules.control.memory import NEVER
from rules.control.pig_climate import FANS, TURNING_RPM, Inputs
from rules.control.pig_settings import Parameters, along
from rules.control.primitives import clamp
from telemetry.plan import NS_PER_S

Array = NDArray[Any]

CHECK_KG: Final = 20.0  # counted in a run before the bin's weight may contradict
SHORT: Final = 0.5  # of what is counted: if the bin lost less, the bin is believed
REFILL_KG: Final = 200.0  # in one period: no auger moves so much, a lorry does
LEAST_KG: Final = 2.0  # worth starting for
FULL: Final = 0.8  # of the longest run is planned
OVERTIME_S: Final = 30.0  # after the longest run, so that its alarm comes first
IDLE, FORWARD, BACK, REVERSE = range(4)


class Feeding(NamedTuple):
    """Each (n,). `hour` is -1 before the first known one; `heads` NaN before they are known."""

    hour: Array
    day: Array  # of the batch
    counter_kg: Array
    bin_kg: Array
    given_kg: Array  # since midnight, runs that ended
    counted_kg: Array  # in this run, by the auger's counter
    lost_kg: Array  # in this run, by the bin
    plan_kg: Array  # of this run
    since_ns: Array  # since when the auger is asked for; NEVER
    ended: Array  # bool: this hour's run is over
    day_counted_kg: Array  # since midnight, for the check
    day_lost_kg: Array
    check_pct: Array  # of yesterday: counted over lost
    per_pig_kg: Array  # of this batch; NaN before it was reckoned
    phase: Array  # of feed_phases, int64; -1 before the first known hour


class Scraping(NamedTuple):
    """Each (n,): what the scraper does and since when, how many of its times of the day have passed, and whether a run is due."""

    phase: Array
    since_ns: Array
    passed: Array
    due: Array  # bool


class Slurry(NamedTuple):
    """Each (n,): since when enough air is proven (NEVER: it is not), when slurry last moved, whether its gas stopped it."""

    air_ns: Array
    moved_ns: Array
    tripped: Array  # bool


class Works(NamedTuple):
    """What feed, manure and slurry remember."""

    feeding: Feeding
    scraping: Scraping
    slurry: Slurry


def start(n: int, time_ns: int) -> Works:
    """Nothing runs, nothing is known."""
    zero, nan, never, no = np.zeros(n), np.full(n, np.nan), np.full(n, NEVER), np.zeros(n, np.bool_)
    none = np.full(n, -1, np.int64)
    feeding = Feeding(zero - 1.0, nan, nan, nan, zero, zero, zero, zero, never, no, zero, zero, nan, nan, none)
    scraping = Scraping(np.zeros(n, np.int64), np.full(n, time_ns, np.int64), none, no)
    return Works(feeding, scraping, Slurry(never, np.full(n, -NEVER), no))


# -- feed ----------------------------------------------------------------------------------------------------------------


def ration_kg(weight_kg: Array, heads: Array, p: Parameters) -> Array:
    """Feed of the house in a day by its own curve [kg]."""
    return np.asarray(heads * along(weight_kg, p.feed_kg_by_kg) * p.feed_ration)


def _phase_kg(state: Feeding, weight_kg: Array, heads: Array, p: Parameters) -> Array:
    """Feed of the house in a day by the curve of its phase; by its own where the phase has none, or the day is not known."""
    total = ration_kg(weight_kg, heads, p)
    for number, phase in enumerate(p.feed_phases):
        ration = p.feed_ration if phase.ration is None else phase.ration
        if phase.kg_by_day:
            kg = heads * along(state.day, phase.kg_by_day) * ration
        else:
            kg = heads * along(weight_kg, phase.kg_by_kg or p.feed_kg_by_kg) * ration
        total = np.where((state.phase == number) & np.isfinite(kg), kg, total)
    return np.asarray(total)


@functools.cache
def _eaten(p: Parameters) -> tuple[Array, Array, Array]:
    """Days of a batch, weight on each, and what one head has eaten before each by the house's own curve [kg]."""
    days = np.arange(400.0)
    weights = along(days + p.placed_age_d, p.weight_by_day)
    a_day = along(weights, p.feed_kg_by_kg) * p.feed_ration
    return days, weights, np.concatenate([[0.0], np.cumsum(a_day)[:-1]])


def _eaten_kg(day: Array, weight_kg: Array, p: Parameters) -> Array:
    """What one head has eaten by the day of its batch; where no batch is known by its weight, if that only rises."""
    days, weights, eaten = _eaten(p)
    grows = np.flatnonzero(np.diff(weights, prepend=-1.0) > 0.0)
    by_weight = np.interp(weight_kg, weights[grows], eaten[grows]) if weights[-1] >= weights.max() else np.full(len(day), np.nan)
    return np.where(np.isfinite(day), np.interp(day, days, eaten), by_weight)


def _phase(old: Feeding, state: Feeding, weight_kg: Array, p: Parameters) -> Feeding:
    """A phase holds from midnight on; from the first known hour, and from the first of a batch, at once."""
    eaten, unknown = state.per_pig_kg, np.isnan(state.per_pig_kg)
    if unknown.any():
        eaten = np.where(unknown, _eaten_kg(state.day, weight_kg, p), eaten)
    begins = table(p.feed_phases, p.feed_share_by_hour)
    by = {"from_day": state.day, "from_kg": weight_kg, "from_eaten_kg": eaten}.get(begins.by, np.zeros(len(eaten)))
    found = np.searchsorted(begins.starts, by, side="right")
    is_new = (state.day < old.day) | (np.isnan(old.day) & np.isfinite(state.day)) | ((old.phase < 0) & (state.hour >= 0.0))
    phase = np.where(((state.hour < old.hour) | is_new) & np.isfinite(by), found, old.phase)
    return state._replace(per_pig_kg=eaten, phase=np.minimum(phase, len(p.feed_phases) - 1))


def _moved(last: Array, now: Array) -> Array:
    """Rise of a counter since it was last known; 0 at a reset, and while it is unknown."""
    rise = now - last
    return np.where((rise >= 0.0) & (rise < REFILL_KG), rise, 0.0)


def _run_kg(feeding: Feeding, inputs: Inputs) -> Array:
    """What this run has given: by the counter, by the bin where the counter is not known or the bin shows that no feed comes."""
    by_counter = np.isfinite(inputs["feed_total_kg"])
    by_bin = np.isfinite(inputs["bin_weight_kg"])
    short = by_bin & (feeding.counted_kg >= CHECK_KG) & (feeding.lost_kg < SHORT * feeding.counted_kg)
    return np.where(by_counter & ~short, feeding.counted_kg, feeding.lost_kg)


def _measured(old: Feeding, inputs: Inputs) -> Feeding:
    counter, weight = inputs["feed_total_kg"], inputs["bin_weight_kg"]
    counted = known_or(_moved(old.counter_kg, counter), 0.0)
    change = known_or(old.bin_kg - weight, 0.0)
    lost = np.where(np.abs(change) < REFILL_KG, change, 0.0)
    return old._replace(
        counter_kg=np.where(np.isfinite(counter), counter, old.counter_kg),
        bin_kg=np.where(np.isfinite(weight), weight, old.bin_kg),
        counted_kg=old.counted_kg + counted,
        lost_kg=old.lost_kg + lost,
        day_counted_kg=old.day_counted_kg + counted,
        day_lost_kg=old.day_lost_kg + lost,
    )


def _turned(old: Feeding, inputs: Inputs) -> Feeding:
    """A new hour, day or batch."""
    hour, day = np.floor(inputs["hour"]), inputs["day_of_batch"]
    known = np.isfinite(hour)
    new_hour = known & (hour != old.hour)
    midnight = new_hour & (hour < old.hour)
    plenty = old.day_lost_kg >= CHECK_KG
    check = np.where(plenty, 100.0 * (old.day_counted_kg / np.where(plenty, old.day_lost_kg, 1.0) - 1.0), np.nan)
    # A controller that begins within a day counts what is planned up to now as given.
    begins = known & (old.hour < 0.0)
    return old._replace(
        hour=np.where(known, hour, old.hour),
        day=np.where(np.isfinite(day), day, old.day),
        ended=old.ended & ~new_hour,
        given_kg=np.where(midnight, 0.0, np.where(begins, np.nan, old.given_kg)),
        day_counted_kg=np.where(midnight, 0.0, old.day_counted_kg),
        day_lost_kg=np.where(midnight, 0.0, old.day_lost_kg),
        check_pct=np.where(midnight, check, old.check_pct),
        per_pig_kg=np.where(day < old.day, 0.0, np.where(np.isnan(old.day) & np.isfinite(day), np.nan, old.per_pig_kg)),
    )


def feed(
    old: Feeding, now_ns: int, inputs: Inputs, *, allowed: Array, weight_kg: Array, heads: Array, p: Parameters
) -> tuple[Feeding, Array, dict[str, Array]]:
    """Whether the auger is to run: until the plan of this hour is measured, no longer than its longest run."""
    state = _phase(old, _turned(_measured(old, inputs), inputs), weight_kg, p)
    slots = np.maximum(state.phase, 0), clamp(state.hour, 0, 23).astype(np.int64)
    parts = table(p.feed_phases, p.feed_share_by_hour)
    share, until = parts.shares[slots], parts.until[slots]
    day_kg = _phase_kg(state, weight_kg, heads, p)
    before = until - share
    given = np.where(np.isnan(state.given_kg), day_kg * before, state.given_kg)
    most = FULL * p.auger_max_s / 60.0 * p.auger_kg_min
    due = clamp(known_or(day_kg * until - given, 0.0), 0.0, most)

    measured = np.isfinite(inputs["feed_total_kg"]) | np.isfinite(inputs["bin_weight_kg"])
    may = allowed & measured & np.isfinite(inputs["hour"])
    runs = state.since_ns != NEVER
    starts = ~runs & may & ~state.ended & (due >= LEAST_KG) & parts.open[slots]
    run_kg = np.where(starts, 0.0, _run_kg(state, inputs))
    overtime = runs & (now_ns - state.since_ns >= int((p.auger_max_s + OVERTIME_S) * NS_PER_S))
    stops = runs & ((run_kg >= state.plan_kg) | overtime | ~may)
    given = given + np.where(stops, run_kg, 0.0)
    on = starts | (runs & ~stops)
    new = state._replace(
        given_kg=given,
        counted_kg=np.where(starts | stops, 0.0, state.counted_kg),
        lost_kg=np.where(starts | stops, 0.0, state.lost_kg),
        plan_kg=np.where(starts, due, state.plan_kg),
        since_ns=np.where(starts, now_ns, np.where(on, state.since_ns, NEVER)),
        ended=state.ended | (stops & (overtime | ~may)),
        per_pig_kg=state.per_pig_kg + known_or(np.where(stops, run_kg, 0.0) / np.where(heads > 0.0, heads, np.nan), 0.0),
    )
    terms = {
        "feed_of_day_kg": day_kg,
        "feed_given_kg": given + np.where(on, run_kg, 0.0),
        "feed_due_kg": np.where(on, new.plan_kg, due),
        "feed_check_pct": new.check_pct,
        "feed_phase_1": np.where(new.phase < 0, np.nan, new.phase + 1.0),
        "feed_per_pig_kg": new.per_pig_kg,
    }
    return new, on, terms


# -- scraper -------------------------------------------------------------------------------------------------------------


def scrape(old: Scraping, now_ns: int, inputs: Inputs, *, allowed: Array, feeding: Array, p: Parameters) -> Scraping:
    """Runs at their times, there and back; an overload reverses once and ends the run; an unknown one ends it too."""
    hour, overload = inputs["hour"], inputs["scraper_overload_bool"]
    passed = np.searchsorted(np.asarray(p.scrape_h, np.float64), known_or(hour, -1.0), side="right")
    known = np.isfinite(hour)
    comes = known & (old.passed >= 0) & (passed > old.passed)
    due = (old.due | comes) & ~(known & (passed < old.passed))
    free = allowed & (overload < 0.5) & ~(inputs["gate_open_bool"] > 0.5)
    starts = (old.phase == IDLE) & due & free & ~feeding

    lasted_s = (now_ns - old.since_ns) / NS_PER_S
    over = lasted_s >= p.scraper_pass_s
    jammed, unknown = overload >= 0.5, ~(allowed & np.isfinite(overload)) | (inputs["gate_open_bool"] > 0.5)
    turns = (old.phase == FORWARD) & ((inputs["scraper_end_bool"] > 0.5) | over)
    home = (old.phase == BACK) & ((inputs["scraper_home_bool"] > 0.5) | over)
    phase = old.phase
    for goes, to in (  # the later of two wins
        (home, IDLE),
        (turns, BACK),
        ((old.phase == BACK) & jammed, IDLE),
        ((old.phase == REVERSE) & (lasted_s >= p.scraper_reverse_s), IDLE),
        ((old.phase == FORWARD) & jammed, REVERSE),
        (unknown, IDLE),
        (starts, FORWARD),
    ):
        phase = np.where(goes, to, phase)
    since_ns = np.where(phase != old.phase, now_ns, old.since_ns)
    return Scraping(phase, since_ns, np.where(known, passed, old.passed), due & ~starts)


# -- slurry --------------------------------------------------------------------------------------------------------------


def proven_m3_h(inputs: Inputs, p: Parameters) -> Array:
    """Air of the house that feedback proves [m3/h]: fans as far as their positions say and a wheel turns."""
    speed = known_or(inputs["fan_pct"], 0.0) / 100.0
    flow = np.maximum(speed - p.back_share / np.maximum(speed, 0.01), 0.0) / (1.0 - p.back_share)
    staged = sum(known_or(inputs[f"{name}_bool"], 0.0) for name in FANS)
    air = p.fan_m3_h * flow + p.stage_m3_h * staged + p.tunnel_m3_h * known_or(inputs["tunnel_bool"], 0.0)
    return np.where(inputs["fan_rpm"] >= TURNING_RPM, p.places * air, 0.0)


def agitate(
    old: Slurry, now_ns: int, inputs: Inputs, *, weight_kg: Array, heads: Array, p: Parameters
) -> tuple[Slurry, Array, Array, Array]:
    """(state, permit, purge, air proven [m3/h]). Without every proof no permit; too much gas takes it until the key is turned back."""
    asked = inputs["slurry_request_bool"] > 0.5
    air, needed = proven_m3_h(inputs, p), heads * along(weight_kg, p.mild_m3_h_by_kg)
    air_ns = np.where(air >= needed, np.minimum(old.air_ns, now_ns), NEVER)
    moves = inputs["slurry_pump_bool"] > 0.5
    tripped = (old.tripped | (moves & (inputs["h2s_ppm"] > p.agitation_trip_ppm))) & asked
    limit = np.where(moves, p.agitation_trip_ppm, p.agitation_start_ppm)
    nobody = (inputs["person_present_bool"] < 0.5) & (inputs["door_locked_bool"] > 0.5) & (inputs["beacon_bool"] > 0.5)
    aired = moves & (air >= needed) | (air_ns <= now_ns - int(p.agitation_air_s) * NS_PER_S)
    permit = asked & nobody & aired & (inputs["h2s_ppm"] < limit) & ~tripped
    moved_ns = np.where(moves, now_ns, old.moved_ns)
    purge = moves | tripped | (moved_ns > now_ns - int(p.purge_s) * NS_PER_S)
    return Slurry(air_ns, moved_ns, tripped), permit, purge, air

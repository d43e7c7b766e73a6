"""Control: the stage that runs the controllers of profiles, each on its own clock, and hands what they ask to arbitration.

A controller runs at every full multiple of its period, as a timer stamped with that moment: it sees all entries before it. Units of one
site, profile and set of parameters run together, as arrays. A sample counts when it is LIVE, new and not BAD; it is held for three
heartbeats and unknown from then on. While core is blind nothing runs: what was asked stays asked, and nothing is sent.

After a gap of the journal (no entry, not even a tick) only the last minute before the next entry is run.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.control.controller import Ask, Controller, Naming, Turn, unknown
from rules.control.inputs import BACK_SAMPLES, HELD_HEARTBEATS, Inputs, Latest, Moments
from rules.control.kinds import KINDS
from telemetry import quality
from telemetry.errors import CallerError
from telemetry.frame import Verdict
from telemetry.plan import NS_PER_S, Device, Group, Plan
from telemetry.site import LEVELS, ControllerSpec
from telemetry.span import TIMER, UNREAD, DemandChange, Span

Array = NDArray[Any]
CAUGHT_UP_NS: Final = 60 * NS_PER_S
NOTHING: Final = np.zeros(0, np.int64)
FASTEST_S: Final = 1.0  # of controllers of plants that live faster than the wall
SAFETY: Final = frozenset({"personnel_safety", "equipment", "survival"})


def parameters_of(spec: ControllerSpec, own: Mapping[str, Any]) -> Any:
    """A controller's parameters where an area says `own`. Raises CallerError: no such kind, or what is wrong with a parameter."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        raise CallerError(f"no kind of controller {spec.kind!r}; there are {', '.join(sorted(KINDS))}")
    if not isinstance(own.get("enabled", True), bool):
        raise CallerError("`enabled` is true or false")
    given = {**spec.parameters, **own}
    given.pop("enabled", None)
    return kind.parameters(given)


def term_words(spec: ControllerSpec, own: Mapping[str, Any], terms: Mapping[str, float | None]) -> dict[str, str]:
    """What numbers among the terms of a controller stand for, "2 grower (G2)", by its parameters where an area says `own`."""
    kind: object = KINDS.get(spec.kind)
    if not isinstance(kind, Naming):
        return {}
    try:
        names = kind.names(parameters_of(spec, own))
    except CallerError:  # of a build that took them
        return {}
    found = {}
    for name, known in names.items():
        number = terms.get(name)
        if number is not None and 1 <= number <= len(known):
            found[name] = f"{number:.0f} {known[int(number) - 1]}"
    return found


class Cohort:
    """Units that run together. `said` is what each last asked, as arbitration knows it."""

    def __init__(
        self,
        plan: Plan,
        group: Group,
        devices: list[Device],
        spec: ControllerSpec,
        kind: Controller,
        parameters: Any,
        *,
        sabotage: frozenset[str] = frozenset(),
    ) -> None:
        self.site, self.spec, self.kind, self.parameters = group.site, spec, kind, parameters
        self.devices = devices
        self.keys = [device.key for device in devices]
        self.actuators = {a.name: a for a in group.profile.actuators}
        self.clock = None if spec.plant_clock is None else spec.plant_clock.model_dump()
        faster = 1.0 if spec.plant_clock is None else spec.plant_clock.speed
        self.every_ns = int(max(kind.EVERY_S / faster, min(kind.EVERY_S, FASTEST_S)) * NS_PER_S)
        self.state: Any = None  # None: has not run yet; `kept` then holds states of before
        self.kept: list[dict[str, Any]] = []
        self.asks: dict[Ask, int] = {}  # what it ever asked of actuators that there are: row of `said`
        self.said = np.zeros((0, len(devices)))
        self.asked: tuple[list[Ask], list[Ask], Array] = (
            [],
            [],
            np.zeros(0, np.int64),
        )  # all of the last run, those of `said`, rows
        self.limits = np.zeros((4, 0, 1))  # lowest, highest and rest position, smallest step
        self.is_faulted = False
        held = HELD_HEARTBEATS * (1000 if "controllers_believe_the_stale" in sabotage else 1)
        back = 1 if "controllers_trust_a_return" in sabotage else BACK_SAMPLES
        self.inputs = Inputs(plan, group.site, devices, kind.READS, spec.plant_clock, held, back)
        self._sabotage = sabotage

    def row(self, ask: Ask) -> int:
        """Row of an ask; -1 when there is no such actuator."""
        if ask not in self.asks and (spec := self.actuators.get(ask.actuator)) is not None and not self._is_left_out(ask):
            self.asks[ask] = len(self.said)
            self.said = np.vstack([self.said, unknown(len(self.devices))])
            step = max(spec.min_step, 1e-9) if spec.kind == "position" else 0.0
            limits = np.array([spec.low, spec.high, spec.rest, step]).reshape(4, 1, 1)
            self.limits = np.concatenate([self.limits, limits], axis=1)
        return self.asks.get(ask, -1)

    def _is_left_out(self, ask: Ask) -> bool:
        if ask.level == "survival":
            return "controllers_let_die" in self._sabotage
        return ask.level in SAFETY and "controllers_without_interlocks" in self._sabotage

    def level(self, ask: Ask) -> int:
        """Number of an ask's level."""
        is_low = ask.level in SAFETY and "controllers_rank_safety_last" in self._sabotage
        return LEVELS["economy" if is_low else ask.level]

    def take(self, demands: Mapping[Ask, Array]) -> tuple[Array, Array]:
        """Rows and units of what changed by enough to move something: it begins, ends, reaches an end of the range or rest, or moves by
        the smallest step. `said` is then what is asked."""
        asks = list(demands)
        if asks != self.asked[0]:
            known = [ask for ask in asks if self.row(ask) >= 0]
            self.asked = asks, known, np.array([self.row(ask) for ask in known], np.int64)
        _, known, rows = self.asked
        new = np.full(self.said.shape, np.nan)
        if known:
            new[rows] = np.array([demands[ask] for ask in known])
        low, high, rest, step = self.limits
        new = np.where(np.isfinite(new), np.minimum(np.maximum(new, low), high), np.nan)
        none, was_none = np.isnan(new), np.isnan(self.said)
        if ((new == self.said) | (none & was_none)).all():
            return NOTHING, NOTHING
        is_end = (new == low) | (new == high) | (new == rest) | (step == 0.0)
        moved = np.where(is_end, new != self.said, np.abs(new - self.said) >= step)
        changed = np.nonzero(np.where(none | was_none, none != was_none, moved))
        self.said[changed] = new[changed]
        return changed[0], changed[1]

    def begin(self, time_ns: int) -> None:
        """State of the first run, with that of units that ran before."""
        self.state = _own(self.kind.start(len(self.devices), time_ns, self.parameters))
        for kept in self.kept:
            _move_rows(leaves(self.state), kept["state"], self.keys, kept["devices"])
        self.kept = []


class Control:
    """The stage. Writes `span.demands`. `sabotage` breaks a promise on purpose, so that a test can be seen to fail."""

    rank = 50

    def __init__(self, *, sabotage: frozenset[str] = frozenset()) -> None:
        self._sabotage = sabotage
        self._plan = Plan()
        self._cohorts: list[Cohort] = []
        self._latest = Latest.of(np.zeros(0, np.int64), 0)
        self._last_ns = 0
        self._ended: list[tuple[str, str, str, str]] = []  # demands of controllers that are gone: source, actuator, bound, level
        self._faults: list[tuple[str, str]] = []

    # -- configuration ---------------------------------------------------------------------------------------------------------

    def configure(self, plan: Plan) -> None:
        """Bind the controllers anew. One of the same name and kind keeps its state; demands of those that are gone end."""
        before = self.snapshot()
        self._plan = plan
        self._cohorts = list(self._bind(plan))
        self._take(before)

    def _bind(self, plan: Plan) -> Iterator[Cohort]:
        for group in plan.groups:
            if not group.is_active:
                continue
            areas = {area.name: area for area in plan.sites[group.site].areas}
            for spec in group.profile.controllers:
                parts: dict[str, tuple[Any, list[Device]]] = {}
                for device in group.devices if spec.enabled else ():
                    own = areas[device.area].control.get(spec.id, {})
                    if own.get("enabled") is False:
                        continue
                    try:
                        parameters = parameters_of(spec, own)
                    except CallerError as error:
                        self._faults.append((f"{spec.id}@{device.key}", str(error)))
                        continue
                    parts.setdefault(repr(parameters), (parameters, []))[1].append(device)
                for parameters, devices in parts.values():
                    yield Cohort(plan, group, devices, spec, KINDS[spec.kind], parameters, sabotage=self._sabotage)

    def _take(self, saved: dict[str, Any]) -> None:
        """Give cohorts what was known of their units, and end what nobody asks any more."""
        points = [cohort.inputs.points.ravel() for cohort in self._cohorts]
        self._latest = latest = Latest.of(np.concatenate([*points, np.zeros(0, np.int64)]), len(self._plan.point_owner))
        point, value, ns, *more = (np.asarray(column) for column in saved["latest"])
        good = more[0] if more else np.full(len(point), BACK_SAMPLES)  # a snapshot of before
        is_read = latest.place[point] >= 0
        at = latest.place[point][is_read]
        latest.value[at], latest.ns[at], latest.good[at] = value[is_read], ns[is_read], good[is_read]
        by_name: dict[tuple[str, str, str], list[Cohort]] = {}
        for cohort in self._cohorts:
            cohort.inputs.place(latest)
            by_name.setdefault((cohort.site, cohort.spec.id, cohort.spec.kind), []).append(cohort)
        for part in saved["cohorts"]:
            heirs = by_name.get((part["site"], part["id"], part["kind"]), [])
            for heir in heirs:
                if part["state"] and part["clock"] == heir.clock:
                    heir.kept.append(part)
            self._take_said(part, heirs)

    def _take_said(self, part: dict[str, Any], heirs: list[Cohort]) -> None:
        heir_of = {key: (heir, row) for heir in heirs for row, key in enumerate(heir.keys)}
        for fields, values in part["said"]:
            ask = Ask(*fields)
            for key, value in zip(part["devices"], values.tolist(), strict=True):
                heir, row = heir_of.get(key, (None, -1))
                if heir is not None and heir.row(ask) >= 0:
                    heir.said[heir.row(ask), row] = value
                elif not np.isnan(value):
                    self._ended.append((f"{source_of(part['id'], ask)}@{key}", f"{key}/{ask.actuator}", ask.bound, ask.level))

    # -- one run ---------------------------------------------------------------------------------------------------------------

    def run(self, span: Span) -> None:
        """Run every controller that is due before an entry of the span."""
        if not len(span.entries):
            return
        times = span.entries.time_ns
        self._tell(span, int(times[0]))
        if self._cohorts:
            rows, taken = self._rows(span), 0
            is_blind = span.blind[0] and "controllers_run_blind" not in self._sabotage
            for due, cohort, moments, k in () if is_blind else self._due(times):
                place = int(np.searchsorted(times, due))
                taken = self._hear(rows, taken, place)
                self._turn(span, cohort, place, moments, k)
            self._hear(rows, taken, len(times))
        self._last_ns = int(times[-1])

    def _tell(self, span: Span, time_ns: int) -> None:
        """What the last configuration ended, and what is wrong with it."""
        for source, actuator, bound, level in self._ended:
            reason = "controller is gone"
            span.demands.append(DemandChange(0, TIMER, time_ns, source, actuator, bound, LEVELS[level], None, reason))
        for subject, message in self._faults:
            span.decide(
                entry=0, phase=TIMER, time_ns=time_ns, stage=self.rank, kind="fault", subject=subject, body={"reason": message}
            )
        self._ended, self._faults = [], []

    def _due(self, times: Array) -> list[tuple[int, Cohort, Moments, int]]:
        """(time, cohort, its moments, which of them) in order of time."""
        first, last = int(times[0]), int(times[-1])
        found: list[tuple[int, Cohort, Moments, int]] = []
        told: dict[Any, Moments] = {}  # the sun is worked out once for all that ask the same
        for cohort in self._cohorts:
            every, after = cohort.every_ns, max(self._last_ns, first - CAUGHT_UP_NS - 1)
            if after // every == last // every:
                continue
            dues = np.arange(after // every + 1, last // every + 1, dtype=np.int64) * every
            until = times[np.searchsorted(times, dues)]
            dues = dues[until - dues <= CAUGHT_UP_NS]
            if len(dues):
                asked = cohort.inputs.clock_key, every
                if asked not in told:
                    told[asked] = cohort.inputs.moments(dues)
                moments = told[asked]
                found += [(due, cohort, moments, k) for k, due in enumerate(dues.tolist())]
        found.sort(key=lambda one: one[0])
        return found

    def _rows(self, span: Span) -> tuple[Array, Array, Array, Array]:
        """Usable samples of the points that are read: entry, place in `latest`, value, time; in order of entries."""
        frames, admission = span.entries.frames, span.admission
        assert admission is not None
        if not len(frames) and not len(span.derived.point):
            return NOTHING, NOTHING, unknown(0), NOTHING
        place = self._latest.place[frames.point]
        rows = np.flatnonzero(place >= 0)
        frame = np.searchsorted(frames.offsets, rows, side="right") - 1
        q = admission.quality[rows]
        usable = (admission.verdict[frame] == Verdict.LIVE) & ~quality.is_bad(q) & ((q & quality.REPEATED) == 0)
        if "controllers_hear_all" in self._sabotage:
            usable[:] = True
        rows, frame = rows[usable], frame[usable]
        made = span.derived
        virtual = np.flatnonzero(self._latest.place[made.point] >= 0)
        virtual = virtual[~quality.is_bad(made.quality[virtual])]
        columns = (
            np.concatenate([frames.entry[frame], made.entry[virtual]]),
            np.concatenate([place[rows], self._latest.place[made.point[virtual]]]),
            np.concatenate([frames.value[rows], made.value[virtual]]),
            np.concatenate([frames.ts_ns[frame], made.ts_ns[virtual]]),
        )
        keep = np.flatnonzero(np.isfinite(columns[2]))
        keep = keep[np.argsort(columns[0][keep], kind="stable")]
        return columns[0][keep], columns[1][keep], columns[2][keep], columns[3][keep]

    def _hear(self, rows: tuple[Array, Array, Array, Array], taken: int, place: int) -> int:
        """Take samples of entries before `place`; how many are taken then."""
        entry, at, value, ns = rows
        upto = int(np.searchsorted(entry, place))
        if upto > taken:
            self._latest.hear(at[taken:upto], value[taken:upto], ns[taken:upto])
        return upto

    def _turn(self, span: Span, cohort: Cohort, place: int, moments: Moments, k: int) -> None:
        if cohort.is_faulted:
            return
        due, now = int(moments.due_ns[k]), int(moments.now_ns[k])
        cohort.inputs.take_areas(span.areas)
        if cohort.state is None:
            cohort.begin(now)
        inputs = cohort.inputs.at(moments, k, self._latest)
        try:
            turn = cohort.kind.step(cohort.state, now, inputs, cohort.parameters)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other controllers go on, and people are told
            cohort.is_faulted = True
            body = {"reason": f"controller {cohort.spec.id} failed: {type(error).__name__}: {error}"}
            for key in cohort.keys:
                subject = f"{cohort.spec.id}@{key}"
                span.decide(entry=place, phase=TIMER, time_ns=due, stage=self.rank, kind="fault", subject=subject, body=body)
            turn = Turn(cohort.state, {})
        cohort.state = turn.state
        self._say(span, cohort, place, due, turn)

    @staticmethod
    def _say(span: Span, cohort: Cohort, place: int, due: int, turn: Turn) -> None:
        """Tell arbitration what changed."""
        rows, units = cohort.take(turn.demands)
        if not len(rows):
            return
        words = [(f"{source_of(cohort.spec.id, ask)}@", f"/{ask.actuator}", ask, cohort.level(ask)) for ask in cohort.asks]
        read, wanted = _read(turn.terms, np.unique(units)), _numbers(cohort.said[rows, units])
        for row, unit, value in zip(rows.tolist(), units.tolist(), wanted, strict=True):
            (source, actuator, ask, level), key = words[row], cohort.keys[unit]
            change = DemandChange(
                place, TIMER, due, source + key, key + actuator, ask.bound, level, value, ask.en, due, read.get(unit, UNREAD)
            )
            span.demands.append(change)

    # -- state -----------------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """States by site, controller and device; newest samples by point number."""
        cohorts = []
        for cohort in self._cohorts:
            common = {"site": cohort.site, "id": cohort.spec.id, "kind": cohort.spec.kind, "clock": cohort.clock}
            state = [] if cohort.state is None else [np.asarray(leaf) for leaf in leaves(cohort.state)]
            said = [[list(ask), cohort.said[row]] for ask, row in cohort.asks.items()]
            cohorts.append({**common, "devices": cohort.keys, "state": state, "said": said, "is_faulted": cohort.is_faulted})
            cohorts += [{**common, "devices": kept["devices"], "state": kept["state"], "said": []} for kept in cohort.kept]
        return {
            "cohorts": cohorts, "latest": list(self._latest[1:5]), "last_ns": self._last_ns, "ended": [list(one) for one in self._ended],
            "faults": [list(one) for one in self._faults],
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        if "controllers_forget" in self._sabotage:
            saved = {**saved, "cohorts": [{**part, "state": []} for part in saved["cohorts"]]}
        self._take(saved)
        self._last_ns = saved["last_ns"]
        self._ended = [(source, actuator, bound, level) for source, actuator, bound, level in saved["ended"]]
        self._faults = [(subject, message) for subject, message in saved["faults"]]
        faulted = {
            (part["site"], part["id"], key) for part in saved["cohorts"] if part.get("is_faulted") for key in part["devices"]
        }
        for cohort in self._cohorts:
            cohort.is_faulted = any((cohort.site, cohort.spec.id, key) in faulted for key in cohort.keys)


@functools.cache
def source_of(controller: str, ask: Ask) -> str:
    """Name of what a controller asks, as the source of a demand, without its unit: "climate.minimum_ventilation"."""
    words = re.sub(r"[^a-z0-9]+", "_", ask.en.lower()).strip("_")
    return f"{controller}.{words or f'{ask.level}_{ask.bound}'}"


def leaves(state: Any) -> list[Array]:
    """Arrays of a state, in the order of its fields."""
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


def _own(state: Any) -> Any:
    """The state with arrays that may be written."""
    if isinstance(state, tuple):
        parts = [_own(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return np.array(state)


def _move_rows(into: list[Array], rows: list[Array], keys: list[str], old_keys: list[str]) -> None:
    """Copy rows of units by their names, where both states look alike."""
    if len(into) != len(rows) or any(a.shape[1:] != b.shape[1:] or a.dtype != b.dtype for a, b in zip(into, rows, strict=True)):
        return  # another build's state: the controller begins anew
    at = {key: row for row, key in enumerate(old_keys)}
    pairs = [(row, at[key]) for row, key in enumerate(keys) if key in at]
    if pairs:
        to, come = (np.array(side) for side in zip(*pairs, strict=True))
        for new, old in zip(into, rows, strict=True):
            new[to] = old[come]


def _read(terms: Mapping[str, Array], units: Array) -> dict[int, dict[str, float | None]]:
    """What some units read, by their rows."""
    if not terms:
        return {}
    table = _numbers(np.array([column[units] for column in terms.values()], np.float64).T)
    return {unit: dict(zip(terms, line, strict=True)) for unit, line in zip(units.tolist(), table, strict=True)}


def _numbers(values: Array) -> list[Any]:
    """Values as lists, None for what is unknown."""
    out = values.astype(object)
    out[np.isnan(values)] = None
    return list(out.tolist())

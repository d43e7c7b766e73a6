"""Numbers for everything a rulebook holds: cohorts, seats, cells, columns, instances, and the arrays the loop walks."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import calculate, loop, members, panes
from rules.cohort import STALE_HEARTBEATS, Cohort, Fault, Rule, Rulebook, blocks
from telemetry.plan import NS_PER_S, Plan

Array = NDArray[Any]
_MISSING: Final = {"hold": loop.HOLD, "clear": loop.CLEAR, "alarm": loop.ALARM}


def lay_out(plan: Plan, cohorts: list[Cohort], rules: list[Rule], constants: list[float], faults: list[Fault]) -> Rulebook:
    """The rulebook of a plan; cohorts and rules get their first numbers."""
    cells, seats = _place(cohorts)
    instances = 0
    for number, rule in enumerate(rules):
        rule.number, rule.start = number, instances
        instances += rule.cohort.width
    codes = _Codes()
    virtual = [(cohort, v) for cohort in cohorts for v in cohort.virtual]
    parts: dict[str, Any] = {
        **_seats(plan, cohorts, seats),
        **_columns(cohorts, virtual, rules),
        **_virtual(cohorts, virtual, codes),
        **_points(virtual),
        **_rules(rules, codes, constants),
        **_clock(cohorts),
        **_silences(cohorts),
    }
    parts |= codes.arrays(constants)
    parts |= _plain(parts)
    parts |= _members(plan, cohorts, parts["reader_v_ptr"])
    words, member_words = parts.pop("words"), parts.pop("members")
    book = loop.Book(**parts)
    return Rulebook(
        cohorts=cohorts, rules=rules, arrays=book, cells=cells, instances=instances, words=words, members=member_words,
        device_of_seat=np.concatenate([np.zeros(0, np.int32), *(c.number for c in cohorts)]),
        room=_room(book, cohorts), faults=faults,
        clock=[(c.site, area, name) for c in cohorts if c.profile is None for name in c.columns for area in c.areas],
    )  # fmt: skip


def _place(cohorts: list[Cohort]) -> tuple[int, int]:
    column = cell = seat = 0
    for cohort in cohorts:
        cohort.first_column, cohort.first_cell, cohort.first_seat = column, cell, seat
        column += len(cohort.columns)
        cell += len(cohort.columns) * cohort.width
        seat += cohort.width
    return cell, seat


class _Codes:
    """All code after one another."""

    def __init__(self) -> None:
        self._op: list[int] = []
        self._argument: list[int] = []

    def add(self, cohort: Cohort, code: list[tuple[int, int]]) -> tuple[int, int]:
        """Where the code of an expression lies; columns get their numbers over all cohorts."""
        start = len(self._op)
        for op, argument in code:
            self._op.append(op)
            self._argument.append(argument + cohort.first_column if op in calculate.READS else argument)
        return start, len(self._op)

    def arrays(self, constants: Sequence[float]) -> dict[str, Array]:
        return {
            "op": np.array(self._op, np.int16), "argument": np.array(self._argument, np.int32),
            "constant": np.array(constants, np.float64),
        }  # fmt: skip


def _seats(plan: Plan, cohorts: list[Cohort], seats: int) -> dict[str, Array]:
    seat_of_device = np.full(len(plan.devices), -1, np.int32)
    column_of_point = np.full(len(plan.point_owner), -1, np.int32)
    cohort_of, local_of = np.zeros(seats, np.int32), np.zeros(seats, np.int32)
    for number, cohort in enumerate(cohorts):
        part = slice(cohort.first_seat, cohort.first_seat + cohort.width)
        cohort_of[part], local_of[part] = number, np.arange(cohort.width)
        if cohort.profile is not None:
            seat_of_device[cohort.number] = np.arange(part.start, part.stop)
            for k, point in enumerate(cohort.profile.points):
                if point.is_measured:
                    column_of_point[cohort.points[:, k]] = cohort.first_column + k
    first = np.array([c.first_cell - c.first_column for c in cohorts], np.int64)
    real = [(c.first_column, c.first_column + (len(c.profile.points) if c.profile is not None else 0)) for c in cohorts]
    return {
        "seat_of_device": seat_of_device, "column_of_point": column_of_point, "cohort_of": cohort_of, "local_of": local_of,
        "base": first, "stride": np.array([len(c.columns) for c in cohorts], np.int64), "real": np.array(real, np.int32).reshape(-1, 2),
    }  # fmt: skip


def _columns(cohorts: list[Cohort], virtual: list[tuple[Cohort, Any]], rules: list[Rule]) -> dict[str, Array]:
    count = sum(len(c.columns) for c in cohorts)
    import_at, stale, cells = np.full(count, -1, np.int64), np.zeros(count, np.int64), []
    exports: list[tuple[int, int, int, int]] = []
    at = 0
    for cohort in cohorts:
        for column, sources in cohort.imports:
            number = cohort.first_column + column
            import_at[number] = at
            at += cohort.width
            for local, (home, source, place) in enumerate(sources):
                cells.append(home.cell(source, place))
                if (home, source) != (cohort, column):
                    exports.append((home.first_seat + place, home.first_column + source, cohort.first_seat + local, number))
        for made in cohort.virtual:
            for local, group in enumerate(made.sources):
                to = (cohort.first_seat + local, cohort.first_column + made.follows)
                # Once each: all peers may import the same weather station.
                exports += dict.fromkeys(
                    (home.first_seat + place, home.first_column + source, *to) for home, source, place in group
                )
    direct = [_reads_measured(c, v) for c, v in virtual]
    v_reads = [(c.first_column + column, n) for n, (c, v) in enumerate(virtual) if not direct[n] for column in _inputs(v)]
    w_reads = [(c.first_column + v.follows, n) for n, (c, v) in enumerate(virtual) if direct[n]]
    r_reads = [
        (r.cohort.first_column + column, n)
        for n, r in enumerate(rules)
        for column in dict.fromkeys(a for code in r.codes for op, a in code if op in calculate.READS)
    ]
    reader_v_ptr, reader_v = _grouped(v_reads, count)
    reader_r_ptr, reader_r = _grouped(r_reads, count)
    window_ptr, window_v = _grouped(w_reads, count)
    are_read = (np.diff(reader_v_ptr) > 0) | (np.diff(reader_r_ptr) > 0) | (np.diff(window_ptr) > 0)
    exported = {e[1] for e in exports}
    for cohort in cohorts:
        for number, point in enumerate(cohort.profile.points if cohort.profile is not None else (), cohort.first_column):
            if point.heartbeat_s is None or point.is_virtual:  # what is computed is as old as what it is computed of
                continue
            if are_read[number] or number in exported:  # nobody minds the age of what nobody reads
                stale[number] = int(STALE_HEARTBEATS * point.heartbeat_s * NS_PER_S)
    seats = sum(c.width for c in cohorts)
    export_ptr, order = _order([e[0] for e in exports], seats)
    columns = np.array(exports, np.int64).reshape(-1, 4)[order]
    return {
        "import_at": import_at, "import_cells": np.array(cells, np.int64), "stale_ns": stale,
        "window_ptr": window_ptr, "window_v": window_v,
        "has_windows": np.array([any(d for d, (home, _) in zip(direct, virtual, strict=True) if home is c) for c in cohorts], np.uint8),
        "reader_v_ptr": reader_v_ptr, "reader_v": reader_v, "reader_r_ptr": reader_r_ptr, "reader_r": reader_r,
        "export_ptr": export_ptr, "export_seat": columns[:, 2].astype(np.int32), "export_from": columns[:, 1].astype(np.int32),
        "export_to": columns[:, 3].astype(np.int32),
    }  # fmt: skip


def _reads_measured(cohort: Cohort, made: Any) -> bool:
    """Whether it is a function over time of nothing but a measured point of the device itself."""
    points = cohort.profile.points if cohort.profile is not None else []
    return bool(made.kind == loop.PANES and 0 <= made.follows < len(points) and points[made.follows].is_measured)


def _inputs(made: Any) -> list[int]:
    """Columns of its own cohort that make a virtual column wait."""
    if made.kind == loop.EXPRESSION:
        return list(dict.fromkeys(argument for op, argument in made.code if op in calculate.READS))
    if made.kind in (loop.MEMBERS, loop.MEMBERWISE):  # single values are those of the moment when an array comes
        return list(dict.fromkeys(argument for op, argument in made.code if op == calculate.MEMBER))
    return [] if made.follows < 0 else [made.follows]


def _order(keys: list[int], count: int) -> tuple[Array, Array]:
    """(ptr, order): rows of key k stand at order[ptr[k]:ptr[k+1]]."""
    values = np.array(keys, np.int64)
    ptr = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(values, minlength=count), out=ptr[1:])
    return ptr, np.argsort(values, kind="stable")


def _grouped(pairs: list[tuple[int, int]], count: int) -> tuple[Array, Array]:
    ptr, order = _order([key for key, _ in pairs], count)
    return ptr.astype(np.int32), np.array([value for _, value in pairs], np.int32)[order]


def _virtual(cohorts: list[Cohort], virtual: list[tuple[Cohort, Any]], codes: _Codes) -> dict[str, Any]:
    n = len(virtual)
    spec, parameter = np.zeros((n, 9), np.int64), np.zeros((n, 4))
    code, start, group, timer = (
        np.zeros((n, 2), np.int32),
        np.zeros(n, np.int64),
        np.full(n, -1, np.int64),
        np.full(n, -1, np.int64),
    )
    group_ptr, group_cells = [0], list[int]()
    timer_v, timer_seat = list[int](), list[int]()
    words, instance, clocks = 0, 0, dict[int, int]()
    place = dict[int, tuple[int, int, int]]()  # of a column by id: first word of its block, columns there, which of these
    for _, columns, span in blocks(cohorts):
        place |= {id(made): (span.start, len(columns), number) for number, made in enumerate(columns)}
        words = span.stop
    for k, (cohort, made) in enumerate(virtual):
        start[k] = instance
        instance += cohort.width
        code[k] = codes.add(cohort, made.code)
        parameter[k, : len(made.parameters)] = made.parameters
        spec[k, 0] = made.fn
        first_word, *among = place.get(id(made), (0, 1, 0))
        if made.kind == loop.PANES:
            spec[k] = panes.specification(
                made.fn, made.pane_ns, first_word, cohort.width, clocks.setdefault(made.pane_ns, len(clocks)), *among
            )
        elif made.kind == loop.MEMBERS:
            spec[k, 4] = made.members
        elif made.kind == loop.MEMBERWISE:
            gap_ns = round(made.parameters[0] * NS_PER_S)
            spec[k] = members.specification(made.fn, made.length_ns, first_word, made.members, gap_ns)
        elif made.kind == loop.GROUP:
            group[k] = len(group_ptr) - 1
            for sources in made.sources:
                group_cells += [home.cell(source, place) for home, source, place in sources]
                group_ptr.append(len(group_cells))
        elif made.kind in (loop.STALE, loop.SILENT):
            timer[k] = len(timer_v)
            timer_v += [k] * cohort.width
            timer_seat += range(cohort.first_seat, cohort.first_seat + cohort.width)
    return {
        "v_kind": np.array([v.kind for _, v in virtual], np.uint8),
        "v_out": np.array([c.first_column + v.column for c, v in virtual], np.int32),
        "v_in": np.array([c.first_column + v.follows if v.follows >= 0 else -1 for c, v in virtual], np.int32),
        "v_level": np.array([v.level for _, v in virtual], np.int32),
        "v_code": code, "v_start": start, "v_length": np.array([v.length_ns for _, v in virtual], np.int64),
        "v_live_only": np.array([v.live_only or v.fn not in panes.TAKES_LATE for _, v in virtual], np.uint8),
        "v_pane": spec, "v_parameter": parameter, "v_group": group, "v_timer": timer,
        "timer_v": np.array(timer_v, np.int32), "timer_seat": np.array(timer_seat, np.int32),
        "group_ptr": np.array(group_ptr, np.int64), "group_cells": np.array(group_cells, np.int64),
        "words": words,
    }  # fmt: skip


def _points(virtual: list[tuple[Cohort, Any]]) -> dict[str, Array]:
    """Columns of virtual points, with the numbers of their points, and all columns whose quality goes into them or into a vote."""
    first, beat, deadband = np.full(len(virtual), -1, np.int64), np.zeros(len(virtual), np.int64), np.zeros(len(virtual))
    numbers: list[int] = []
    made_of = {(id(cohort), made.column): k for k, (cohort, made) in enumerate(virtual)}
    imported = {(id(cohort), column): sources for cohort, _ in virtual for column, sources in cohort.imports}
    is_asked = np.zeros(len(virtual), np.uint8)
    asked: list[tuple[Cohort, int]] = []
    for k, (cohort, made) in enumerate(virtual):
        if made.point is not None:
            place = cohort.profile.points.index(made.point) if cohort.profile is not None else 0
            first[k], beat[k], deadband[k] = len(numbers), int(made.point.beat_s * NS_PER_S), made.point.deadband
            numbers += [device.points[place] for device in cohort.devices]
        if made.point is not None or (made.kind == loop.GROUP and made.fn == calculate.G_VOTE):
            asked.append((cohort, made.column))
    seen = set[tuple[int, int]]()
    while asked:
        cohort, column = asked.pop()
        if (id(cohort), column) in seen:
            continue
        seen.add((id(cohort), column))
        asked += [(home, source) for home, source, _ in imported.get((id(cohort), column), ())]
        number = made_of.get((id(cohort), column))
        if number is not None:
            made = virtual[number][1]
            is_asked[number] = 1
            asked += [(cohort, source) for source in _inputs(made)]
            asked += [(home, source) for group in made.sources for home, source, _ in group]
    return {
        "v_is_asked": is_asked, "v_point": first, "v_beat": beat, "v_deadband": deadband, "point_of": np.array(numbers, np.int32),
    }  # fmt: skip


def _members(plan: Plan, cohorts: list[Cohort], reader_v_ptr: Array) -> dict[str, Any]:
    """Where the members of columns lie; those of points that nobody reads have no place."""
    count = sum(len(c.columns) for c in cohorts)
    first, size, extent = np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros((count, 2))
    column_of_array, at = np.full(len(plan.point_owner), -1, np.int32), 0
    for cohort in cohorts:
        points = cohort.profile.points if cohort.profile is not None else []
        for column, number in cohort.members.items():
            g = cohort.first_column + column
            if column < len(points) and reader_v_ptr[g] == reader_v_ptr[g + 1]:
                continue
            first[g], size[g] = at, number
            at += number * cohort.width
            if column < len(points):
                extent[g] = points[column].low, points[column].high
                column_of_array[cohort.points[:, column]] = g
    return {
        "column_of_array": column_of_array, "member_at": first, "member_count": size, "member_range": extent, "members": at,
    }  # fmt: skip


def _silences(cohorts: list[Cohort]) -> dict[str, Array]:
    """Virtual columns of each cohort that wait for any word of a seat."""
    ptr, found, number = [0], [], 0
    for cohort in cohorts:
        for made in cohort.virtual:
            if made.kind == loop.SILENT:
                found.append(number)
            number += 1
        ptr.append(len(found))
    return {"silent_ptr": np.array(ptr, np.int32), "silent_v": np.array(found, np.int32)}


def _rules(rules: list[Rule], codes: _Codes, constants: list[float]) -> dict[str, Array]:
    n = len(rules)
    when, clear, value = (np.zeros((n, 2), np.int32) for _ in range(3))
    fast, limit, leaf = np.zeros((n, 5), np.int32), np.zeros((n, 2)), np.full((n, loop.LEAVES), -1, np.int32)
    constant, step, mask_at, masks, at = np.full(n, np.nan), np.zeros(n), np.full(n, -1, np.int64), [], 0
    for k, rule in enumerate(rules):
        cohort = rule.cohort
        for into, code in zip((when, clear, value), rule.codes, strict=True):
            into[k] = codes.add(cohort, code)
        loads = dict.fromkeys(a for op, a in rule.codes[0] if op in calculate.READS)
        leaf[k, : len(loads)] = [cohort.first_column + a for a in list(loads)[: loop.LEAVES]]
        fast[k], numbers = _fast(rule, cohort.first_column)
        limit[k] = [constants[int(number)] if fast[k, 3] and number >= 0 else 0.0 for number in numbers]
        demand = rule.spec.demand
        if demand is not None and not isinstance(demand.value, str):
            constant[k] = demand.value
        step[k] = rule.actuator.min_step if rule.actuator is not None else 0.0
        if rule.mask is not None:
            mask_at[k] = at
            masks.append(rule.mask)
            at += cohort.width
    return {
        "r_start": np.array([r.start for r in rules], np.int64), "r_when": when, "r_clear": clear, "r_value": value,
        "r_constant": constant, "r_fast": fast, "r_limit": limit,
        "r_on": np.array([int(r.spec.on_delay_s * NS_PER_S) for r in rules], np.int64),
        "r_off": np.array([int(r.spec.off_delay_s * NS_PER_S) for r in rules], np.int64),
        "r_step": step, "r_missing": np.array([_MISSING[r.spec.missing] for r in rules], np.uint8),
        "r_mask": mask_at, "mask": np.concatenate(masks).astype(np.uint8) if masks else np.zeros(0, np.uint8), "r_leaf": leaf,
    }  # fmt: skip


def _plain(parts: dict[str, Array]) -> dict[str, Array]:
    """Plain rules put last among the readers of each column."""
    fast, ptr, readers = parts["r_fast"], parts["reader_r_ptr"], parts["reader_r"]
    is_plain = (fast[:, 3] == 1) & np.isin(fast[:, 1], _ORDER) & ((fast[:, 2] == 0) | np.isin(fast[:, 2], _ORDER))
    columns = len(ptr) - 1
    column = np.repeat(np.arange(columns), np.diff(ptr))
    order = np.lexsort((np.arange(len(readers)), is_plain[readers], column))
    readers = readers[order]
    plain_ptr = ptr[1:] - np.bincount(column, weights=is_plain[readers], minlength=columns).astype(np.int32)
    other = (np.diff(parts["reader_v_ptr"]) > 0) | (plain_ptr > ptr[:-1])
    is_read = np.where(other, 2, plain_ptr < ptr[1:]).astype(np.uint8)
    return {"is_read": is_read, "reader_r": readers, "plain_ptr": plain_ptr.astype(np.int32)}


_ORDER: Final = (calculate.LESS, calculate.LESS_EQUAL, calculate.GREATER, calculate.GREATER_EQUAL)
_COMPARE: Final = range(calculate.LESS, calculate.NOT_EQUAL + 1)


def _fast(rule: Rule, first_column: int) -> tuple[list[int], list[float]]:
    """A comparison of one column with a number, cleared by its complement or another such: the loop needs no code for it."""
    found = [_comparison(code) for code in rule.codes[:2]]
    if found[0] is None or (rule.codes[1] and (found[1] is None or found[1][0] != found[0][0])):
        return [0, 0, 0, 0, 0], [0.0, 0.0]
    column, op, constant = found[0]
    _, clear_op, clear_constant = found[1] or (0, 0, -1)
    return [first_column + column, op, clear_op, 1, int(rule.spec.demand is None)], [constant, clear_constant]


def _comparison(code: list[tuple[int, int]]) -> tuple[int, int, int] | None:
    """(column, operator, constant's number) of code that is LOAD, CONST, comparison."""
    if len(code) != 3 or code[0][0] != calculate.LOAD or code[1][0] != calculate.CONST or code[2][0] not in _COMPARE:
        return None
    return code[0][1], code[2][0], code[1][1]


def _clock(cohorts: list[Cohort]) -> dict[str, Array]:
    rows = [
        (c.cell(column, k), c.first_seat + k, c.first_column + column)
        for c in cohorts
        if c.profile is None
        for column in range(len(c.columns))
        for k in range(c.width)
    ]
    table = np.array(rows, np.int64).reshape(-1, 3)
    return {"c_cell": table[:, 0].copy(), "c_seat": table[:, 1].astype(np.int32), "c_column": table[:, 2].astype(np.int32)}


def _room(book: loop.Book, cohorts: list[Cohort]) -> tuple[int, int]:
    """(columns touched, conditions judged) by one moment at most: a frame of all points of a seat, or all cells of the clock."""
    count = len(book.import_at)
    degree = _degrees(book, count)
    touched, judged = np.zeros(count, np.int64), np.diff(book.reader_r_ptr).astype(np.int64)
    level_of = np.zeros(count, np.int64)
    for cohort in cohorts:
        level_of[cohort.first_column : cohort.first_column + len(cohort.columns)] = cohort.levels
    own_judged = judged.copy()
    # From the highest level down: what a column touches stands on a higher level, or is its import elsewhere.
    is_fed = np.zeros(count, np.bool_)  # by other seats: stands on the level of what feeds it, and so before it
    is_fed[book.export_to] = True
    for number in np.lexsort((~is_fed, -level_of)):
        waiting = book.reader_v[book.reader_v_ptr[number] : book.reader_v_ptr[number + 1]]
        made = book.v_out[np.append(waiting, book.window_v[book.window_ptr[number] : book.window_ptr[number + 1]])]
        touched[number] = 1 + touched[made].sum() + sum(n * touched[to] for to, n in degree.get(int(number), ()))
        judged[number] = own_judged[number] + judged[made].sum() + sum(n * judged[to] for to, n in degree.get(int(number), ()))
    best = (1, 1)
    for cohort in cohorts:
        first, last = cohort.first_column, cohort.first_column + len(cohort.columns)
        times = 1 if cohort.profile is not None else cohort.width
        own = slice(first, last)
        best = (max(best[0], times * int(touched[own].sum())), max(best[1], times * int(judged[own].sum())))
    return best


def _degrees(book: loop.Book, count: int) -> dict[int, list[tuple[int, int]]]:
    """Of each exported column: the columns elsewhere that import it, with the most seats that one seat feeds."""
    if not len(book.export_seat):
        return {}
    seat = np.repeat(np.arange(len(book.export_ptr) - 1), np.diff(book.export_ptr))
    pair = book.export_from.astype(np.int64) * count + book.export_to
    edges, times = np.unique(np.stack((pair, seat)), axis=1, return_counts=True)
    found: dict[int, list[tuple[int, int]]] = {}
    for one in np.unique(edges[0]):
        found.setdefault(int(one // count), []).append((int(one % count), int(times[edges[0] == one].max())))
    return found

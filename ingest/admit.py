"""Admission: the verdict on every frame and the quality of every sample, with the counters that prove nothing vanished.

A frame is LIVE when received - lateness <= ts <= received + 2 s and ts is not before anything already decided for its device;
frames that share one ts are live as long as they bring other points. Every other frame is stored but never decided live.
"""

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ingest.ledger import DUPLICATE, Ledger
from telemetry import quality
from telemetry.frame import Admission, Flag, Verdict
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Event, is_upgrade
from telemetry.span import ENTRY, Span
from telemetry.transaction import Accounting

Array = NDArray[Any]
FUTURE_NS: Final = 2 * NS_PER_S
CLOCK_WRONG_FRAMES: Final = 10  # so many late or future frames in a row, and the clock is to blame rather than the network
_compile = njit(cache=True, nogil=True)

_LIVE, _LATE, _FUTURE, _DUPLICATE = int(Verdict.LIVE), int(Verdict.LATE), int(Verdict.FUTURE), int(Verdict.DUPLICATE)
_BACKFILL, _REPLAY, _RETAINED = int(Verdict.BACKFILL), int(Verdict.REPLAY), int(Verdict.RETAINED)
_F_BACKFILL, _F_REPLAY, _F_RETAINED = int(Flag.BACKFILL), int(Flag.REPLAY), int(Flag.RETAINED)
_BAD_NAN = quality.BAD | quality.NOT_A_NUMBER
_BAD_RANGE = quality.BAD | quality.OUT_OF_RANGE
_UNSURE_RATE = quality.UNCERTAIN | quality.RATE
_UNSURE_STUCK = quality.UNCERTAIN | quality.STUCK
_UNSURE_CLOCK = quality.UNCERTAIN | quality.CLOCK_WRONG
_REPEATED = quality.REPEATED
_LEVEL = quality.LEVEL_MASK
_KEPT: Final = quality.REASON_MASK


def _raise_level(old: int, new: int) -> int:
    level = max(old & _LEVEL, new & _LEVEL)
    return ((old | new) & _KEPT) | level


_raise_level_compiled = _compile(_raise_level)


def _admit(
    device: Array, ts: Array, received: Array, flags: Array, offsets: Array, point: Array, value: Array, q_in: Array, booked: Array,
    low: Array, high: Array, rate: Array, stuck: Array, lateness: Array, blind_from: int,
    decided: Array, streak: Array, clock: Array, last_ts: Array, last_value: Array, same_since: Array,
) -> tuple[Array, Array, Array, int]:  # fmt: skip
    n = len(device)
    verdict = np.zeros(n, np.uint8)
    q_out = np.zeros(len(point), np.uint16)
    clock_event = np.zeros(n, np.int8)
    changed = 0
    for f in range(n):
        d, t, r = device[f], ts[f], received[f]
        earliest = r - lateness[d]
        if blind_from >= 0:
            earliest = min(earliest, blind_from)
        if booked[f] == DUPLICATE:
            v = _DUPLICATE
        elif flags[f] & _F_REPLAY:
            v = _REPLAY
        elif flags[f] & _F_BACKFILL:
            v = _BACKFILL
        elif flags[f] & _F_RETAINED:
            v = _RETAINED
        elif t > r + FUTURE_NS:
            v = _FUTURE
        elif t < earliest or t < decided[d]:
            v = _LATE
        else:
            v = _LIVE
        if v in (_FUTURE, _LATE) and (t > r + FUTURE_NS or t < earliest):
            streak[d] += 1
            if streak[d] == CLOCK_WRONG_FRAMES and clock[d] == 0:
                clock[d], clock_event[f] = 1, 1
        elif v == _LIVE:
            streak[d] = 0
            if clock[d] == 1:
                clock[d], clock_event[f] = 0, 2
        repeated = 0
        for s in range(offsets[f], offsets[f + 1]):
            p, x = point[s], value[s]
            q = q_in[s]
            if not np.isfinite(x):
                q = _raise_level_compiled(q, _BAD_NAN)
            elif x < low[p] or x > high[p]:
                q = _raise_level_compiled(q, _BAD_RANGE)
            if v == _FUTURE:
                q = _raise_level_compiled(q, _UNSURE_CLOCK)
            if v == _LIVE:
                if t == last_ts[p]:
                    repeated += 1
                    if x != last_value[p] and not (np.isnan(x) and np.isnan(last_value[p])):
                        changed += 1
                    q |= _REPEATED
                else:
                    if q & _LEVEL == 0:
                        seconds = (t - last_ts[p]) * 1e-9
                        if last_ts[p] > 0 and not np.isnan(last_value[p]) and abs(x - last_value[p]) > rate[p] * seconds:
                            q = _raise_level_compiled(q, _UNSURE_RATE)
                    if x != last_value[p] or last_ts[p] == 0:
                        same_since[p] = t
                    elif stuck[p] > 0 and t - same_since[p] >= stuck[p]:
                        q = _raise_level_compiled(q, _UNSURE_STUCK)
                    last_ts[p] = t
                    last_value[p] = x
            q_out[s] = q
        if v == _LIVE:
            decided[d] = t
            if repeated > 0 and repeated == offsets[f + 1] - offsets[f]:
                v = _DUPLICATE
        verdict[f] = v
    return verdict, q_out, clock_event, changed


_admit_compiled = _compile(_admit)


class Admit:
    """The first stage: ledger, verdicts, qualities, accounting."""

    rank = 10

    def __init__(self, *, numba: bool = True, sabotage: frozenset[str] = frozenset()) -> None:
        self._kernel = _admit_compiled if numba else _admit
        self._skip_dedup = "skip_dedup" in sabotage
        self._admit_late = "admit_late" in sabotage
        self._plan = Plan()
        self.ledger = Ledger(numba=numba)
        self.accounting = Accounting()
        self._lateness = np.zeros(0, np.int64)
        self._device = {name: np.zeros(0, np.int64) for name in ("decided", "streak", "clock")}
        self._point: dict[str, Array] = {}
        self._allocate_points(0)

    def _allocate_points(self, count: int) -> None:
        self._point = {
            "last_ts": np.zeros(count, np.int64),
            "last_value": np.full(count, np.nan),
            "same_since": np.zeros(count, np.int64),
            "expired": np.zeros(count, np.int64),  # 1: it was told that the calibration is past its day
        }

    def configure(self, plan: Plan) -> None:
        """Take limits and lateness; known devices and points keep their memory."""
        saved = self.snapshot()
        self._plan = plan
        self.ledger.grow(len(plan.devices))
        self._lateness = np.zeros(len(plan.devices), np.int64)
        for group in plan.groups:
            self._lateness[group.number] = int(group.profile.lateness() * NS_PER_S)
        self._device = {name: np.zeros(len(plan.devices), np.int64) for name in self._device}
        self._allocate_points(len(plan.point_owner))
        self._restore_arrays(saved)
        table = plan.calibrations
        self._point["expired"][np.ones(len(plan.point_owner), np.bool_) if table is None else table.row < 0] = 0

    def run(self, span: Span) -> None:
        """Write `span.admission`; count; decide "clock_wrong" and "calibration"."""
        frames = span.entries.frames
        if not len(frames) and not span.entries.records:  # mostly: a moment of the clock
            span.admission = Admission(np.zeros(0, np.uint8), np.zeros(0, np.uint16))
            return
        received = span.entries.time_ns[frames.entry]
        booked = self._book(span)
        columns = self._plan.columns
        verdict, q, clock_event, changed = self._kernel(
            frames.device, frames.ts_ns, received, frames.flags, frames.offsets, frames.point, frames.value, frames.quality, booked,
            columns.low, columns.high, columns.rate_per_s, columns.stuck_ns, self._lateness, self._blind_from(span),
            self._device["decided"], self._device["streak"], self._device["clock"],
            self._point["last_ts"], self._point["last_value"], self._point["same_since"],
        )  # fmt: skip
        if self._admit_late:
            verdict = np.where(verdict == Verdict.DUPLICATE, verdict, np.uint8(Verdict.LIVE))
        span.admission = Admission(verdict, q)
        self._count(span, verdict, q, int(changed))
        for f in np.flatnonzero(clock_event):
            self._decide_clock(span, int(f), bool(clock_event[f] == 1))
        if self._plan.calibrations is not None:
            self._tell_expired(span, verdict, q)

    def _tell_expired(self, span: Span, verdict: Array, q: Array) -> None:
        """Decide "calibration" once where a live sample is the first past its point's calibration, and once when there is a new one."""
        frames, told, table = span.entries.frames, self._point["expired"], self._plan.calibrations
        assert table is not None
        is_old = (frames.quality & quality.CALIBRATION_EXPIRED) != 0
        rows = np.flatnonzero(is_old | (told[frames.point] != 0))
        frame = np.searchsorted(frames.offsets, rows, side="right") - 1
        counts = (verdict[frame] == _LIVE) & ((q[rows] & _REPEATED) == 0)
        rows, frame = rows[counts], frame[counts]
        order = np.argsort(frames.point[rows], kind="stable")
        rows, frame = rows[order], frame[order]
        point, now = frames.point[rows], is_old[rows]
        before = np.where(np.append(-1, point[:-1]) == point, np.append(False, now[:-1]), told[point] != 0)
        for k in sorted(np.flatnonzero(now != before).tolist(), key=lambda k: int(rows[k])):
            entry, number = int(frames.entry[frame[k]]), int(point[k])
            span.decide(
                entry=entry, phase=ENTRY, time_ns=int(span.entries.time_ns[entry]), stage=self.rank, kind="calibration",
                subject=self._plan.point_name(number),
                body={"expired": bool(now[k]), "expires_ns": int(table.expires_ns[table.row[number]])},
            )  # fmt: skip
        told[point] = now  # of equal points the last stays

    def _book(self, span: Span) -> Array:
        """Ledger verdicts, with "device gave up" and rejected messages booked between the frames they arrived between."""
        frames, start, parts = span.entries.frames, 0, []
        columns = (frames.device, frames.boot, frames.seq, frames.flags)
        for entry, record in span.entries.records:
            if not isinstance(record, Event) or not _speaks_to_ledger(record) or record.device not in self._plan.device_number:
                continue
            stop = int(np.searchsorted(frames.entry, entry))
            parts.append(self.ledger.book(*(column[start:stop] for column in columns)))
            start = stop
            self._book_event(self._plan.device_number[record.device], record.body)
        parts.append(self.ledger.book(*(column[start:] for column in columns)))
        booked = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.zeros_like(booked) if self._skip_dedup else booked

    def _book_event(self, device: int, body: dict[str, Any]) -> None:
        if "lost_to" in body:
            self.ledger.give_up(device, int(body.get("boot") or 0), int(body["lost_to"]))
        else:
            one = (np.array([device], np.int32), np.array([body["boot"]], np.uint32), np.array([body["seq"]], np.uint32))
            self.ledger.book(*one, np.array([Flag.HAS_SEQ | Flag.FIRST], np.uint8))

    @staticmethod
    def _blind_from(span: Span) -> int:
        return span.blind_from_ns

    def _count(self, span: Span, verdict: Array, q: Array, changed: int) -> None:
        """Messages by their first frame; samples one by one, members of arrays included."""
        frames, a = span.entries.frames, self.accounting
        first = (frames.flags & Flag.FIRST) != 0
        twice = verdict == Verdict.DUPLICATE
        messages, duplicates = int(first.sum()), int((first & twice).sum())
        members = sum(len(array.values) for array in frames.arrays)
        members_twice = sum(len(array.values) for array in frames.arrays if twice[array.frame])
        repeated = (q & quality.REPEATED) != 0
        if twice.any():
            repeated |= twice[frames.frame_of_sample]
        samples_twice = int(np.count_nonzero(repeated)) + members_twice
        samples = len(frames.point) + members
        a.received += messages
        a.duplicate += duplicates
        a.stored += messages - duplicates
        a.samples_received += samples
        a.samples_duplicate += samples_twice
        a.samples_stored += samples - samples_twice
        a.late += int(np.isin(verdict, (Verdict.LATE, Verdict.BACKFILL, Verdict.RETAINED)).sum())
        a.future += int((verdict == Verdict.FUTURE).sum())
        a.changed += changed
        a.gaps = int(self.ledger.counts[:, 0].sum() + self.ledger.counts[:, 1].sum())
        for _, record in span.entries.records:
            if isinstance(record, Event) and record.name == "reject":
                self._count_reject(record)
            elif isinstance(record, Event) and record.name == "records":
                a.received += int(record.body["messages"])
                a.stored += int(record.body["messages"])
            elif is_upgrade(record):
                a.upgrade_count, a.upgrade_first = int(record.body["transactions"]), int(record.body["first"])

    def _count_reject(self, event: Event) -> None:
        a, body = self.accounting, event.body
        messages, samples = int(body.get("messages", 1)), int(body.get("samples", 0))
        a.received += messages
        a.rejected += messages
        a.samples_received += samples
        a.samples_rejected += samples
        reason = str(body["reason"])
        a.rejected_by_reason[reason] = a.rejected_by_reason.get(reason, 0) + max(messages, int(body.get("count", 1)))

    def _decide_clock(self, span: Span, f: int, wrong: bool) -> None:
        frames = span.entries.frames
        device = self._plan.devices[int(frames.device[f])]
        entry = int(frames.entry[f])
        received = int(span.entries.time_ns[entry])
        span.decide(
            entry=entry, phase=ENTRY, time_ns=received, stage=self.rank, kind="clock_wrong", subject=device.key,
            body={"wrong": wrong, "skew_s": round((int(frames.ts_ns[f]) - received) / NS_PER_S, 3)},
        )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """Arrays by device and point number; numbers are never reused."""
        return {
            "ledger": self.ledger.snapshot(),
            "device": dict(self._device),
            "point": dict(self._point),
            "accounting": {name: getattr(self.accounting, name) for name in Accounting.__struct_fields__},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        self.ledger.restore(saved["ledger"])
        self._restore_arrays(saved)
        self.accounting = Accounting(
            **{**saved["accounting"], "rejected_by_reason": dict(saved["accounting"]["rejected_by_reason"])}
        )

    def _restore_arrays(self, saved: dict[str, Any]) -> None:
        for kind, into in (("device", self._device), ("point", self._point)):
            for name, column in saved[kind].items():
                into[name][: len(column)] = column


def _speaks_to_ledger(event: Event) -> bool:
    return "lost_to" in event.body or (event.name == "reject" and "seq" in event.body)

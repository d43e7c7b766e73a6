"""Lanes: the same `step` on other frames and another clock, without an outbox.

A lane takes frames that were recorded, orders them by their own time and ticks from the data, so that its alarms have the times
they would have had. The cadence of ticks changes when a timer is noticed, never what it decides.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.engine import Engine
from telemetry.decision import Decision
from telemetry.frame import COLUMNS, DTYPES, Entries, Flag, Frames, Kind
from telemetry.plan import NS_PER_S

TICK_NS: Final = 300 * NS_PER_S
TAIL_NS: Final = 86_400 * NS_PER_S  # ticks after the last frame, so that delays up to a day end
FRAMES_PER_STEP: Final = 50_000
READ_BACK: Final = Flag.HAS_TS | Flag.FIRST | Flag.CALIBRATED  # of frames whose samples come out of history


def on_data_clock(columns: dict[str, NDArray[Any]], sizes: NDArray[Any], *, first: int, after_ns: int, until_ns: int) -> Entries:
    """Entries whose engine time is the frames' own time, with ticks between.

    columns: device, ts_ns (n,) in any order, point, value, quality (m,) by frame; sizes (n,) samples of each frame. Frames are
    ordered by (ts, device), stable. Ticks stand at multiples of TICK_NS in (after_ns, until_ns].
    """
    n = len(sizes)
    order = np.lexsort((columns["device"], columns["ts_ns"]))
    starts = np.cumsum(sizes) - sizes
    lengths = sizes[order]
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    sample = np.repeat(starts[order] - offsets[:-1], lengths) + np.arange(int(offsets[-1]))
    ts_ns = columns["ts_ns"][order].astype(np.int64)
    ticks = np.arange(after_ns // TICK_NS + 1, until_ns // TICK_NS + 1, dtype=np.int64) * TICK_NS
    times = np.concatenate([ticks, ts_ns])
    is_frame = np.concatenate([np.zeros(len(ticks), np.bool_), np.ones(n, np.bool_)])
    place = np.argsort(times, kind="stable")  # a tick comes before the frames of its own time
    kind = np.where(is_frame[place], Kind.FRAME, Kind.TICK).astype(np.uint8)
    zeros = np.zeros(n, np.int64)
    made: dict[str, Any] = {
        "entry": np.flatnonzero(kind == Kind.FRAME), "device": columns["device"][order], "ts_ns": ts_ns,
        "boot": zeros, "seq": zeros,
        "flags": np.full(n, READ_BACK), "offsets": offsets, "point": columns["point"][sample],
        "value": columns["value"][sample], "quality": columns["quality"][sample],
    }  # fmt: skip
    frames = Frames(**{name: made[name].astype(DTYPES[name]) for name in COLUMNS})
    return Entries(first, kind, times[place], frames)


def run_lane(engine: Engine, columns: dict[str, NDArray[Any]], sizes: NDArray[Any]) -> Iterable[Decision]:
    """Decisions of the engine over recorded frames, in order, as they are made; bounded memory for any length of recording."""
    if not len(sizes):
        return
    order = np.lexsort((columns["device"], columns["ts_ns"]))
    starts = np.cumsum(sizes) - sizes
    first, after_ns = 0, int(columns["ts_ns"].min()) - 1
    for k in range(0, len(order), FRAMES_PER_STEP):
        chosen = order[k : k + FRAMES_PER_STEP]
        is_last = k + FRAMES_PER_STEP >= len(order)
        lengths = sizes[chosen]
        samples = np.repeat(starts[chosen] - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        part = {name: columns[name][samples if name in {"point", "value", "quality"} else chosen] for name in columns}
        end_ns = int(part["ts_ns"].max())
        until_ns = end_ns + TAIL_NS if is_last else end_ns
        entries = on_data_clock(part, lengths, first=first, after_ns=after_ns, until_ns=until_ns)
        first, after_ns = first + len(entries), until_ns
        yield from engine.step(entries).decisions

"""Recorded samples back out of history, over the API, and as the columns that a lane reads.

History is the judge: what a lane decides on, and what `play` reports as stored, is what was read back here and nothing else.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.client import Client, connect
from app.settings import Settings
from telemetry.errors import CallerError, EnvironmentFault
from telemetry.frame import DTYPES
from telemetry.plan import Plan

ROWS_MAX: Final = 5_000  # samples of one answer
BUCKETS: Final = 1_000  # of the first look at a long range
RETRIES_S: Final = (0.5, 1.0, 2.0, 4.0)
SESSION_S: Final = 20.0  # a command line session lives a minute
RANGE_MAX_MS: Final = 20 * 366 * 86_400_000  # of one question
NS_PER_MS: Final = 1_000_000


class Trace(NamedTuple):
    """One point's samples in time order: ts_ms (n,) int64, value (n,) float64 (NaN = no number)."""

    ts_ms: NDArray[np.int64]
    value: NDArray[np.float64]


def make_trace(ts_ms: Any, value: Any) -> Trace:
    """A trace from lists."""
    return Trace(np.array(ts_ms, np.int64), np.array(value, np.float64))


class Api:
    """Calls of a running service for longer than one command line session lives. Used from one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = contextlib.ExitStack()
        self._client: Client | None = None
        self._until = 0.0

    def get(self, path: str, **query: Any) -> Any:
        """The answer's JSON. A busy service is asked again. Raises CallerError or EnvironmentFault."""
        for pause_s in RETRIES_S:
            try:
                return self.client().get(path, **query)
            except CallerError as error:
                if "Try again" not in str(error):
                    raise
            time.sleep(pause_s)
        return self.client().get(path, **query)

    def client(self) -> Client:
        """A client whose session still lives for a while."""
        if self._client is None or time.monotonic() > self._until:
            self.close()
            self._client = self._stack.enter_context(connect(self._settings))
            self._until = time.monotonic() + SESSION_S
        return self._client

    def close(self) -> None:
        """End the session."""
        self._client = None
        self._stack.close()


def read_point(api: Api, site: str, device: str, point: str, start_ms: int, end_ms: int) -> Trace:
    """Every sample of [start_ms, end_ms). A range with more than one answer can hold is cut by what its buckets count."""
    if end_ms - start_ms > RANGE_MAX_MS:
        cuts = [*range(start_ms, end_ms, RANGE_MAX_MS), end_ms]
        return _joined([read_point(api, site, device, point, lo, hi) for lo, hi in itertools.pairwise(cuts)])
    path = f"/sites/{site}/devices/{device}/points/{point}/history"
    found = api.get(path, start_ms=start_ms, end_ms=end_ms, points=BUCKETS)
    if found["samples"] is not None:
        return _trace(found["samples"])
    parts = []
    for lo, hi in _windows(found["buckets"], found["bucket_ms"]):
        part = api.get(path, start_ms=lo, end_ms=min(hi, end_ms), points=ROWS_MAX)
        # More came in between: cut finer.
        parts.append(_trace(part["samples"]) if part["samples"] is not None else read_point(api, site, device, point, lo, hi))
    return _joined(parts)


def _joined(parts: Sequence[Trace]) -> Trace:
    return Trace(np.concatenate([part.ts_ms for part in parts]), np.concatenate([part.value for part in parts]))


def _windows(buckets: list[dict[str, Any]], width_ms: int) -> Iterator[tuple[int, int]]:
    """Stretches that hold at most ROWS_MAX samples each, where one bucket does."""
    start_ms, rows = None, 0
    for bucket in buckets:
        size = bucket["count"] + bucket["bad"]  # a BAD number counts in both: an upper bound
        if start_ms is not None and rows + size > ROWS_MAX:
            yield start_ms, bucket["t_ms"]
            start_ms, rows = None, 0
        start_ms = bucket["t_ms"] if start_ms is None else start_ms
        rows += size
    if start_ms is not None:
        yield start_ms, buckets[-1]["t_ms"] + width_ms


def _trace(samples: list[dict[str, Any]]) -> Trace:
    return make_trace([row["t_ms"] for row in samples], [np.nan if row["value"] is None else row["value"] for row in samples])


def read_device(
    api: Api, site: str, device: str, points: list[str], start_ms: int, end_ms: int, advance: Callable[[int], Any] = lambda _n: None
) -> dict[str, Trace]:
    """All samples of a device's points; `advance` is told after each point how many points are done."""
    traces = {}
    for done, point in enumerate(points, start=1):
        traces[point] = read_point(api, site, device, point, start_ms, end_ms)
        advance(done)
    return traces


def wait_for_history(api: Api, site: str, device: str, point: str, position: int, *, patience_s: float) -> None:
    """Until history contains journal `position`. Raises EnvironmentFault when it stands still for `patience_s`."""
    path, seen, since = f"/sites/{site}/devices/{device}/points/{point}/history", -2, time.monotonic()
    while True:
        at = int(api.get(path, start_ms=0, end_ms=1, points=1)["history_position"])
        if at >= position:
            return
        if at != seen:
            seen, since = at, time.monotonic()
        if time.monotonic() - since > patience_s:
            raise EnvironmentFault(f"history stands at journal position {at} and does not reach {position}; see `fieldloom status`")
        time.sleep(0.1)


def lane_columns(plan: Plan, site: str, traces: Mapping[str, Mapping[str, Trace]]) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Frames of a site's traces (device -> point -> samples) for `rules.lane`: columns, and sizes (n,) samples of each frame.

    A frame is what one device recorded at one time; a sample without a number is left out, as the recording left it out.
    """
    device, ts_ms, point, value = ([np.zeros(0, dtype)] for dtype in (np.int32, np.int64, np.int32, np.float64))
    for name, points in traces.items():
        owner = plan.device(f"{site}/{name}")
        assert owner is not None
        for label, trace in points.items():
            number = owner.point(label)
            assert number is not None
            kept = np.isfinite(trace.value)
            count = int(kept.sum())
            device.append(np.full(count, owner.number, np.int32))
            point.append(np.full(count, number, np.int32))
            ts_ms.append(trace.ts_ms[kept])
            value.append(trace.value[kept])
    by = [np.concatenate(column) for column in (device, ts_ms, point, value)]
    order = np.lexsort((by[2], by[0], by[1]))  # by time, device, point
    devices, times, points_, values = (column[order] for column in by)
    new = np.ones(len(order), np.bool_)
    new[1:] = (devices[1:] != devices[:-1]) | (times[1:] != times[:-1])
    first = np.flatnonzero(new)
    columns: dict[str, Any] = {"device": devices[first], "ts_ns": times[first] * NS_PER_MS, "point": points_, "value": values}
    columns["quality"] = np.zeros(len(values))
    typed = {name: column.astype(DTYPES[name]) for name, column in columns.items()}
    return typed, np.diff(np.append(first, len(order)))

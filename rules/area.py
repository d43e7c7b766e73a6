"""What people say of an area: its operating mode and its batch, as requests that are journaled and answered.

Runs before the rules, which read `mode_is(...)` and `day_of_batch()`. A run of entries ends after such a request, so one state holds
for a whole span, and what changes it stands at the span's last entry.
"""

from typing import Any, Final, NamedTuple

from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Request
from telemetry.site import MODES
from telemetry.span import ENTRY, Span

REQUESTS: Final = ("mode", "batch")
REMEMBERED_REQUESTS: Final = 10_000
DAY_MAX: Final = 2_000


class AreaState(NamedTuple):
    """Mode of an area, and when its batch was of day 0 by the site's own clock (None: there is no batch)."""

    mode: str = "AUTO"
    batch_ns: int | None = None
    batch: str = ""


class Areas:
    """The stage. Holds only areas somebody spoke of."""

    rank = 20

    def __init__(self) -> None:
        self._plan = Plan()
        self._state: dict[str, AreaState] = {}  # by "site/area"
        self._answered: dict[str, bool] = {}

    def configure(self, plan: Plan) -> None:
        """Take the plan; what was said of an area that is gone is kept for its return."""
        self._plan = plan

    def run(self, span: Span) -> None:
        """Answer requests; the state before them is the span's."""
        span.areas = self._state
        for entry, record in span.entries.records:
            if not isinstance(record, Request) or record.kind not in REQUESTS or record.id in self._answered:
                continue
            area, time_ns = str(record.body.get("area", "")), int(span.entries.time_ns[entry])
            problem = self._problem(record, area)
            self._answered[record.id] = not problem
            while len(self._answered) > REMEMBERED_REQUESTS:
                del self._answered[next(iter(self._answered))]
            body: dict[str, Any] = {"accepted": not problem, "reason": problem, "request": record.kind}
            span.decide(entry=entry, phase=ENTRY, time_ns=time_ns, stage=self.rank, kind="answer", subject=record.id, body=body)
            if not problem:
                self._apply(span, entry, record, area)

    def _problem(self, request: Request, area: str) -> str:
        site, _, name = area.partition("/")
        config = self._plan.sites.get(site)
        if config is None or all(spec.name != name for spec in config.areas):
            return f"no area {area[:100]!r}; an area is named site/area"
        if request.kind == "mode":
            mode = request.body.get("mode")
            return "" if mode in MODES else f"no mode {str(mode)[:40]!r}; there are {', '.join(MODES)}"
        day = request.body.get("day", 1)
        if not isinstance(day, int) or isinstance(day, bool) or not -DAY_MAX <= day <= DAY_MAX:
            return f"a batch's `day` of today is a whole number between {-DAY_MAX} and {DAY_MAX}"
        return ""

    def _apply(self, span: Span, entry: int, request: Request, area: str) -> None:
        """Change the area, tell it, and hand it to the stages that follow in this span."""
        old, time_ns = self._state.get(area, AreaState()), int(span.entries.time_ns[entry])
        site = self._plan.sites[area.partition("/")[0]]
        if request.kind == "mode":
            new = old._replace(mode=str(request.body["mode"]))
        elif request.body.get("ends"):
            new = old._replace(batch_ns=None, batch="")
        else:
            day_0_ns = site.midnight_ns(time_ns) - int(request.body.get("day", 1)) * 86_400 * NS_PER_S
            new = old._replace(batch_ns=day_0_ns, batch=str(request.body.get("name", ""))[:100])
        self._state = {**self._state, area: new}
        span.area_changes.append((entry, area, new))
        body = {"from": old._asdict(), "to": new._asdict(), "author": request.author, "request": request.id}
        span.decide(entry=entry, phase=ENTRY, time_ns=time_ns, stage=self.rank, kind="area", subject=area, body=body)

    def snapshot(self) -> dict[str, Any]:
        """Areas by name; ids of answered requests."""
        return {"areas": {area: list(state) for area, state in self._state.items()}, "answered": dict(self._answered)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        self._state = {area: AreaState(*state) for area, state in saved["areas"].items()}
        self._answered = dict(saved["answered"])


def changes_area(record: Any) -> bool:
    """Whether a run of entries has to end after this record."""
    return isinstance(record, Request) and record.kind in REQUESTS

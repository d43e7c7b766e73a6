"""A shadow rule beside the rule of the same name: which alarms both raised, how long they stood, what both asked of actuators."""

from typing import Final

import msgspec
from fastapi import APIRouter
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import not_found
from api.routes.measures import LOOKBACK_MS, Millisecond, in_query, time_range
from api.routes.sites import Viewer, site_config
from api.views import NS_PER_MS, View, finite
from people.changes import change_of, read_rows
from people.shadow import BOTH, REAL, SHADOW, Asked, Episode, Episodes, Step, compare, side_by_side
from store.history import History, RecordRow
from telemetry.plan import NS_PER_S

router = APIRouter(tags=["rules"], route_class=GuardedRoute)

LISTED_MAX: Final = 1_000
_SPAN: Final = [[1767222600000, 1767222960000]]


class EpisodesView(View):
    """A stretch in which an alarm of one device stood in the one, the other or both; spans are [from, to] in ms, cut to the range."""

    subject: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    by: str = Field(examples=["both"], description="both, real, shadow")
    real: list[tuple[int, int]] = Field(examples=[_SPAN])
    shadow: list[tuple[int, int]] = Field(examples=[_SPAN])


class WantedView(View):
    """A demand."""

    bound: str = Field(examples=["at_least"], description="at_least, at_most, value")
    value: float | None = Field(examples=[60.0])


class StepView(View):
    """What both ask of an actuator from a time on. `real` is known while the demand wins or loses, not while another one meets it."""

    time_ms: int = Field(examples=[1767222600000])
    actuator: str = Field(examples=["nursery/ms-1/roof_vent"])
    real: WantedView | None
    shadow: WantedView | None
    told: float | None = Field(examples=[60.0], description="Where all rules together put it; null: not known")


class SideView(View):
    """One of the two over the range."""

    alarms: int = Field(examples=[5], description="Stretches in which an alarm of it stood")
    on_s: float = Field(examples=[1820.0], description="Alarm-seconds")
    version: int | None = Field(examples=[3], description="As configured now; null: there is none")


class ShadowView(View):
    """The comparison over [start_ms, end_ms); the newest 1,000 episodes and demands, newest first."""

    site: str = Field(examples=["nursery"])
    rule: str = Field(examples=["MS-T-HH"])
    start_ms: int = Field(examples=[1767139200000])
    end_ms: int = Field(examples=[1767225600000])
    real: SideView
    shadow: SideView
    both: int = Field(examples=[4], description="Episodes that both had")
    only_real: int = Field(examples=[1])
    only_shadow: int = Field(examples=[1])
    episodes: list[EpisodesView]
    demands: list[StepView]
    standing: list[str] = Field(examples=[["MS-T-HH@nursery/ms-1"]], description="What the shadow would have standing now")
    history_position: int = Field(examples=[4711], description="Journal position up to which the history is complete")


class _Demand(msgspec.Struct):
    source: str = ""
    bound: str = "value"
    value: float | None = None


class _Settled(msgspec.Struct):
    """Body of a decision of kind demand, and of kind shadow_demand."""

    value: float | None = None
    winner: _Demand | None = None
    losers: list[_Demand] = []
    rule: str = ""
    bound: str = "value"


_settled = msgspec.json.Decoder(_Settled, strict=False).decode


def _asked(row: RecordRow, rule: str) -> Asked | None:
    """What a decision says of the rule's demand; None when it is about another rule's shadow."""
    body = _settled(row.body)
    if row.kind == "shadow_demand":
        wanted = None if body.value is None else (body.bound, body.value)
        return Asked(row.time_ns, row.subject, SHADOW, wanted) if body.rule == rule else None
    source = f"{rule}@{row.subject.rpartition('/')[0]}"
    own = next((d for d in (body.winner, *body.losers) if d is not None and d.source == source and d.value is not None), None)
    wanted = None if own is None or own.value is None else (own.bound, own.value)
    return Asked(row.time_ns, row.subject, REAL, wanted, body.value)


def _read(history: History, site: str, rule: str, start_ms: int, end_ms: int) -> tuple[int, list[Episodes], list[Step]]:
    """Position, episodes and demands of the range. Blocking: for a query thread."""
    position, since_ms = history.position(), max(0, start_ms - LOOKBACK_MS)
    real, shadow = (
        [change_of(row) for row in read_rows(history, (kind,), site, since_ms, end_ms) if row.subject.startswith(f"{rule}@")]
        for kind in ("alarm", "shadow")
    )
    episodes = compare(real, shadow, start_ms * NS_PER_MS, end_ms * NS_PER_MS)
    rows = read_rows(history, ("demand", "shadow_demand"), site, since_ms, end_ms)
    steps = side_by_side(asked for row in rows if (asked := _asked(row, rule)) is not None)
    return position, episodes, [step for step in steps if step.time_ns >= start_ms * NS_PER_MS]


def _spans(episodes: tuple[Episode, ...]) -> list[tuple[int, int]]:
    return [(begin // NS_PER_MS, end // NS_PER_MS) for begin, end in episodes]


def _side(episodes: list[Episodes], side: str, version: int | None) -> SideView:
    spans = [span for group in episodes for span in (group.real if side == REAL else group.shadow)]
    return SideView(alarms=len(spans), on_s=sum(end - begin for begin, end in spans) / NS_PER_S, version=version)


def _wanted(asked: tuple[str, float] | None) -> WantedView | None:
    return None if asked is None else WantedView(bound=asked[0], value=finite(asked[1]))


def _versions(parts: Parts, site: str, rule: str) -> dict[str, int | None]:
    """Versions of the real and the shadow rule of that name; 404 when there is neither."""
    config = site_config(parts, site)
    profiles = [spec for profile in config.profiles.values() for spec in profile.rules]
    found: dict[str, int | None] = {REAL: None, SHADOW: None}
    for spec in (*profiles, *config.rules):  # a site's rule replaces the profile's
        if spec.id == rule:
            found[SHADOW if spec.shadow else REAL] = spec.version
    if found == {REAL: None, SHADOW: None}:
        raise not_found("rule")
    return found


@router.get("/sites/{site}/rules/{rule}/shadow", responses=problem.documented(401, 404, 422, 504))
async def shadow_comparison(
    site: str, rule: str, parts: UseParts, principal: Viewer, start_ms: Millisecond = None, end_ms: Millisecond = None
) -> ShadowView:
    """What the shadow rule of that name would have done beside what the real one did; by default over 24 h."""
    del principal
    versions = _versions(parts, site, rule)
    start, end = time_range(parts, start_ms, end_ms)
    position, episodes, steps = await in_query(parts, lambda: _read(parts.history, site, rule, start, end))
    standing = [alarm.subject for alarm in parts.state.shadows.values() if (alarm.site, alarm.rule) == (site, rule)]
    return ShadowView(
        site=site,
        rule=rule,
        start_ms=start,
        end_ms=end,
        real=_side(episodes, REAL, versions[REAL]),
        shadow=_side(episodes, SHADOW, versions[SHADOW]),
        both=sum(group.by == BOTH for group in episodes),
        only_real=sum(group.by == REAL for group in episodes),
        only_shadow=sum(group.by == SHADOW for group in episodes),
        episodes=[
            EpisodesView(subject=group.subject, by=group.by, real=_spans(group.real), shadow=_spans(group.shadow))
            for group in episodes[: -LISTED_MAX - 1 : -1]
        ],
        demands=[
            StepView(
                time_ms=step.time_ns // NS_PER_MS,
                actuator=step.actuator,
                real=_wanted(step.real),
                shadow=_wanted(step.shadow),
                told=finite(step.told),
            )
            for step in steps[: -LISTED_MAX - 1 : -1]
        ],
        standing=sorted(standing),
        history_position=position,
    )

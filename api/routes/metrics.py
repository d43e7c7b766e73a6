"""Prometheus metrics: accounting, alarms, commands, lag. Counters come in pairs, and `received` is the sum of what became of it."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from fastapi import APIRouter, Request, Response

from api import problem
from api.auth import Requires
from api.parts import Parts, UseParts
from api.problem import ProblemError

router = APIRouter(tags=["health"])
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Line = tuple[str, str, str, Iterable[tuple[str, float]]]  # name, type, help, (labels, value)
_require_viewer = Requires("viewer")


def _fates(parts: Parts) -> list[Line]:
    a = parts.state.accounting
    fates = ("received", "stored", "duplicate", "rejected", "pending")
    return [
        ("fieldloom_messages", "gauge", "Messages by fate, cumulative; received = stored + duplicate + rejected + pending",
         [(f'fate="{fate}"', float(getattr(a, fate))) for fate in fates]),
        ("fieldloom_samples", "gauge", "Samples by fate, cumulative; the same sum holds",
         [(f'fate="{fate}"', float(getattr(a, f"samples_{fate}"))) for fate in fates]),
        ("fieldloom_rejects_total", "counter", "Rejected messages by reason",
         [(f'reason="{_label(reason)}"', float(n)) for reason, n in sorted(a.rejected_by_reason.items())]),
        ("fieldloom_gaps_total", "counter", "Sequence numbers found missing", [("", float(a.gaps))]),
        ("fieldloom_late_total", "counter", "Frames that came late", [("", float(a.late))]),
        ("fieldloom_future_total", "counter", "Frames with a time of the future", [("", float(a.future))]),
        ("fieldloom_changed_total", "counter", "Samples repeated with another value; the first stays", [("", float(a.changed))]),
        ("fieldloom_upgrade_transactions", "gauge", "Journaled transactions that the newest differing build decides otherwise",
         [("", float(a.upgrade_count))]),
        ("fieldloom_messages_per_second", "gauge", "Messages received, over 10 s", [("", parts.state.messages_per_s())]),
    ]  # fmt: skip


def _standing(parts: Parts) -> list[Line]:
    state = parts.state
    alarms = Counter((a.priority or "none", a.state) for a in state.alarms.values())
    commands = Counter(c.state for c in state.commands.values())
    return [
        ("fieldloom_alarms", "gauge", "Standing alarms by priority and state",
         [(f'priority="{_label(p)}",state="{_label(s)}"', float(n)) for (p, s), n in sorted(alarms.items())]),
        ("fieldloom_commands", "gauge", "Recent commands by state",
         [(f'state="{_label(s)}"', float(n)) for s, n in sorted(commands.items())]),
    ]  # fmt: skip


def _process(parts: Parts) -> list[Line]:
    state, lag = parts.state, parts.lag
    return [
        ("fieldloom_journal_position", "gauge", "Last journal position applied to the live state", [("", float(state.position))]),
        ("fieldloom_journal_skipped_total", "counter", "Journal entries trimmed before being read", [("", float(state.skipped))]),
        ("fieldloom_core_silent_seconds", "gauge", "Since the core last wrote", [("", parts.core_silent_ms() / 1000)]),
        ("fieldloom_history_lag_entries", "gauge", "Journal entries the history is behind the live state",
         [("", float(max(0, state.position - lag.history_position)))]),
        ("fieldloom_history_rows_total", "counter", "Samples given to history by result",
         [('result="written"', float(lag.history_written)), ('result="repeated"', float(lag.history_repeated)),
          ('result="changed"', float(lag.history_changed))]),
        ("fieldloom_loop_lag_seconds", "gauge", "How late the event loop ran, last and worst", [
            ('over="last"', lag.loop_lag_s), ('over="max"', lag.loop_lag_max_s)]),
        ("fieldloom_feed_clients", "gauge", "Clients of the live feed", [("", float(len(parts.hub)))]),
        ("fieldloom_feed_points_total", "counter", "Changed values, once per client: sent, or replaced by a newer one before that",
         [('fate="sent"', float(parts.hub.sent_points)), ('fate="replaced"', float(parts.hub.replaced_points))]),
        ("fieldloom_feed_opened_total", "counter", "Clients that opened the live feed", [("", float(parts.hub.opened))]),
        ("fieldloom_feed_cut_total", "counter", "Clients cut off because they took too slowly",
         [("", float(parts.hub.disconnected_slow))]),
        ("fieldloom_queries_total", "counter", "History queries by result",
         [(f'result="{name}"', float(n)) for name, n in parts.queries.results.items()]),
    ]  # fmt: skip


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render(parts: Parts) -> str:
    """All metrics in the text exposition format 0.0.4."""
    lines = []
    for name, kind, text, values in (*_fates(parts), *_standing(parts), *_process(parts)):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{labels}}} {value:.10g}" if labels else f"{name} {value:.10g}" for labels, value in values]
    return "\n".join(lines) + "\n"


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": 'fieldloom_messages{fate="received"} 4711\n'}}},
        **problem.documented(401, 403),
    },
)
async def metrics(request: Request, parts: UseParts) -> Response:
    """Figures of the whole service; for principals of all sites, unless the operator opened it."""
    if not parts.metrics_open:
        principal = await _require_viewer(request)
        if principal.sites is not None:
            raise ProblemError(403, "forbidden", "These figures cover all sites; you may see some.")
    return Response(render(parts), media_type=CONTENT_TYPE)

"""The report as one HTML file: tables, and charts as inline SVG drawn here from the numbers.

It loads nothing, and is light or dark as its reader is.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from app.backtest.lane import DAY_MS
from app.backtest.report import ActuatorReport, Report, RuleReport, Standing
from app.tables import number, site_time
from app.words import language, say, text_of

LISTED: Final = 2_000  # alarms in the list; the CSV file has all
WIDTH, HEIGHT = 720, 80  # of a chart's own units; it is drawn as wide as the page
BAR_MAX: Final = 48
STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2321;--dim:#6b7672;--line:#d9dedb;--bar:#2f7d5b;--other:#b4622d;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9e6;--dim:#98a39e;--line:#39423e;--bar:#5fbd92;--other:#e0965f;--page:#161b19}}
body{font:15px/1.5 system-ui,"Noto Sans CJK SC",sans-serif;color:var(--ink);background:var(--page);
max-width:62rem;margin:2rem auto;padding:0 1rem}
.wide{overflow-x:auto;margin:.5rem 0 1.5rem}table{border-collapse:collapse;min-width:100%}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
th{color:var(--dim);font-weight:500}.n{text-align:right;font-variant-numeric:tabular-nums}
.notice{border-left:4px solid var(--other);padding:.3rem .8rem}h1,h2,p{overflow-wrap:anywhere}
figure{margin:.3rem 0 1.5rem}figcaption,.ends{color:var(--dim);font-size:.8rem}.ends{display:flex;justify-content:space-between}
svg{display:block;width:100%;height:5rem}svg *{vector-effect:non-scaling-stroke}.bar{fill:var(--bar)}
.told{stroke:var(--dim);stroke-dasharray:3 3}.stood{stroke:var(--bar)}
.did{stroke:var(--other)}.told,.stood,.did{fill:none;stroke-width:2}.axis{stroke:var(--line)}.dim{color:var(--dim)}
"""


def page(report: Report) -> str:
    """The whole file."""
    title = say("Backtest of {site}", site=report.site)
    parts = [f"<h1>{escape(title)}</h1>", *_notice(report), _span(report), _rules(report)]
    for rule in report.rules:
        if rule.alarms:
            parts.append(
                f"<h2>{escape(rule.rule)} <span class=dim>{escape(rule.priority)} {escape(text_of(rule.message))}</span></h2>"
            )
            parts.append(bars(rule.by_day, report.start_ms // DAY_MS, say("alarms a day")))
    parts += [_actuator(actuator) for actuator in report.actuators]
    parts.append(_alarms(report))
    view = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f"{view}<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="{language()}"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def notices(report: Report) -> list[str]:
    """What has to be known before the first number."""
    control = say(
        "Backtest of control: the climate is the recorded one; it did not answer to what the actuators would have been told."
    )
    return ([control] if report.control else []) + [say("cannot run: {fault}", fault=fault) for fault in report.faults]


def _notice(report: Report) -> Iterable[str]:
    for sentence in notices(report):
        yield f'<p class="notice">{escape(sentence)}</p>'


def _span(report: Report) -> str:
    ends = [site_time(at / 1000, report.zone) for at in (report.start_ms, report.reached_ms)]
    words = say(
        "{start} to {end} ({zone}), {samples:,} samples", start=ends[0], end=ends[1], zone=report.zone, samples=report.samples
    )
    more = "" if report.complete else " " + say("Stopped before its end.")
    return f'<p>{escape(words)}{escape(more)}</p><p class="dim">sha256 {report.sha256}</p>'


def columns(report: Report) -> list[str]:
    """Headings of the table of rules, the name apart."""
    names = [say("alarms"), say("a day"), say("peak in 10 min"), say("standing, h"), say("at the end")]
    names += [say("new"), say("gone")] if report.against else []
    return names + ([say("hits"), say("misses"), say("false alarms")] if report.labels else [])


def cells(rule: RuleReport, report: Report) -> list[str]:
    """A row under `columns`."""
    shown = [f"{rule.alarms:,}", number(rule.alarms_per_day, 2), f"{rule.peak_10min:,}", number(rule.standing_s / 3600, 1)]
    shown.append(f"{rule.standing_at_end:,}")
    more = ([rule.new, rule.gone] if report.against else []) + (
        [rule.hits, rule.misses, rule.false_alarms] if report.labels else []
    )
    return shown + [f"{count or 0:,}" for count in more]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A table whose first `words` columns are words, the others numbers."""

    def line(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{'' if k < words else ' class=n'}>{escape(text)}</{tag}>" for k, text in enumerate(row))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{line("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def _rules(report: Report) -> str:
    return _table([say("rule"), *columns(report)], [[rule.rule, *cells(rule, report)] for rule in report.rules], 1)


def actuator_columns() -> list[str]:
    """Headings of the table of actuators, the name apart."""
    return [say("changes"), say("moves"), say("told, mean"), say("stood, mean"), say("measured, mean"), say("mean difference")]


def actuator_cells(actuator: ActuatorReport) -> list[str]:
    """A row under `actuator_columns`."""
    means = (actuator.told_mean, actuator.stood_mean, actuator.measured_mean, actuator.difference_mean)
    return [f"{actuator.changes:,}", f"{actuator.moves:,}", *("-" if x is None else number(x, 1) for x in means)]


def _actuator(actuator: ActuatorReport) -> str:
    table = _table(actuator_columns(), [actuator_cells(actuator)], 0)
    return f"<h2>{escape(actuator.actuator)}</h2>{table}{lines(actuator.by_day)}"


def _alarms(report: Report) -> str:
    rows = [alarm_cells(alarm, report) for alarm in report.alarms[:LISTED]]
    left = len(report.alarms) + report.alarms_left_out - len(rows)
    more = f"<p class=dim>{escape(say('... and {count:,} more', count=left))}</p>" if left else ""
    head = [say("rule"), say("device"), say("raised"), say("cleared"), say("change"), say("event")]
    return f"<h2>{escape(say('Alarms'))}</h2>{_table(head, rows, 6)}{more}"


def alarm_cells(alarm: Standing, report: Report) -> list[str]:
    """Rule, device, times at the site, change and event."""
    cleared = "" if alarm.cleared_ms is None else site_time(alarm.cleared_ms / 1000, report.zone)
    return [alarm.rule, alarm.device, site_time(alarm.raised_ms / 1000, report.zone), cleared, alarm.change, alarm.label]


def bars(counts: Sequence[int], first_day: int, title: str) -> str:
    """A bar for each day; beyond 366 days neighbours are added up."""
    group = -(-len(counts) // 366)
    sums = [sum(counts[k : k + group]) for k in range(0, len(counts), group)]
    most, step = max(*sums, 1), WIDTH / len(sums)
    width = min(max(step - 0.5, 0.5), BAR_MAX)
    drawn = "".join(
        f'<rect class="bar" x="{k * step + (step - width) / 2:.1f}" y="{HEIGHT * (1 - count / most):.1f}" width="{width:.1f}" '
        f'height="{HEIGHT * count / most:.1f}"><title>{_day(first_day + k * group)}: {count}</title></rect>'
        for k, count in enumerate(sums)
        if count
    )
    return _chart(drawn, f"{title}, max {most}", first_day, first_day + len(counts) - 1)


def lines(days: Sequence[tuple[int, float, float, float]]) -> str:
    """Daily means of the target (dashed), of where it would have stood (first colour) and of what was measured (second colour)."""
    if not days:
        return ""
    low, high = (choose(min(row[1:]) if choose is min else max(row[1:]) for row in days) for choose in (min, max))
    reach, span = max(days[-1][0] - days[0][0], 1), max(high - low, 1e-9)

    def drawn(column: int, name: str) -> str:
        spots = " ".join(
            f"{WIDTH * (row[0] - days[0][0]) / reach:.1f},{HEIGHT - 2 - (HEIGHT - 4) * (row[column] - low) / span:.1f}"
            for row in days
        )
        return f'<polyline class="{name}" points="{spots}"/>'

    title = say("told (dashed), stood (green), measured (orange), mean of a day, {low:.1f} to {high:.1f}", low=low, high=high)
    return _chart(drawn(1, "told") + drawn(2, "stood") + drawn(3, "did"), title, days[0][0], days[-1][0])


def _chart(drawn: str, title: str, first_day: int, last_day: int) -> str:
    """Words stand outside the drawing, which is stretched to the page: they stay readable on a telephone."""
    axis = f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">{axis}{drawn}</svg>'
    ends = f'<div class="ends"><span>{_day(first_day)}</span><span>{_day(last_day)}</span></div>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{ends}</figure>"


def _day(day: int) -> str:
    return site_time(day * DAY_MS / 1000, "UTC")[:10]

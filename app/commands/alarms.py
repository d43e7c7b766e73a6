"""Commands about alarms and the areas they are of: their measures, an area's mode and batch."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.settings import load_settings
from app.words import say
from telemetry.errors import CallerError
from telemetry.site import MODES

if TYPE_CHECKING:
    from rich.table import Table

    from app.client import Client

alarms = typer.Typer(help="How well alarms serve who answers them.", no_args_is_help=True)
area = typer.Typer(help="Say what an area is used for: its operating mode, its batch.", no_args_is_help=True)
AreaName = Annotated[str, typer.Argument(metavar="SITE/AREA", help="The area, such as nursery/house-1.")]

# Figures of a site and its areas: label, field, decimals, what it is divided by.
FIGURES: Final = (
    ("alarms raised", "raised", 0, 1.0),
    ("a day", "per_day", 1, 1.0),
    ("in 10 min, mean", "average_rate", 2, 1.0),
    ("in 10 min, most", "peak_rate", 0, 1.0),
    ("standing at the end", "standing", 0, 1.0),
    ("floods", "floods", 0, 1.0),
    ("in flood [min]", "flood_s", 1, 60.0),
    ("shelved [alarm h]", "shelved_s", 1, 3600.0),
    ("suppressed by design [alarm h]", "suppressed_s", 1, 3600.0),
    ("out of service [alarm h]", "out_of_service_s", 1, 3600.0),
)
LISTS: Final = {"Most frequent": "frequent", "Chattering (3 changes in 60 s)": "chattering"}


@alarms.command("measures")
def measures(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    from_: Annotated[str | None, typer.Option("--from", help="Begin by the site's clock: 2026-01-31 or 2026-01-31T06:30.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="End, written the same way; without both the last 24 h.")] = None,
) -> None:
    """Rates, priorities, times to acknowledge, floods, and the alarms that are stale, chatter or come most often."""
    from app.backtest.order import time_ms
    from app.client import connect

    with connect(load_settings()) as client:
        zone = _zone(client, site)
        bounds = {"start_ms": time_ms(from_, zone) if from_ else None, "end_ms": time_ms(to, zone) if to else None}
        _print(client.get(f"/sites/{site}/alarms/measures", **bounds), zone)


def _zone(client: "Client", site: str) -> str:
    """The site's time zone. Raises CallerError that names the sites there are."""
    zones = {item["site"]: str(item["zone"]) for item in client.get("/sites")["items"]}
    if site not in zones:
        raise CallerError(f"there is no site {site!r}; known: {', '.join(zones) or 'none yet'}")
    return zones[site]


def _print(found: dict[str, Any], zone: str) -> None:
    from app.tables import console, heading, site_time

    out, whole = console(), found["whole"]
    start, end = (site_time(found[name] / 1000, zone) for name in ("start_ms", "end_ms"))
    out.print(heading(say("Alarms of {site}, {start} to {end} ({zone})", site=found["site"], start=start, end=end, zone=zone)))
    parts = [("", _figures(found)), (say("Priorities"), _mix(whole)), (say("Time to acknowledge"), _delays(whole))]
    for title, listed in LISTS.items():
        parts.append((say(title), _shares(whole[listed])))
    parts.append((say("Stale (standing for more than 24 h)"), _stale(whole["stale"], zone)))
    for title, table in parts:
        out.print(heading(title))
        out.print(say("none") if table is None else table)


def _figures(found: dict[str, Any]) -> "Table":
    from app.tables import grid, number

    table = grid("", say("site"), *(area["area"] for area in found["areas"]))
    for label, name, decimals, unit in FIGURES:
        table.add_row(Text(say(label)), *(number(part[name] / unit, decimals) for part in (found["whole"], *found["areas"])))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _mix(whole: dict[str, Any]) -> "Table | None":
    from app.tables import grid

    table = grid("", say("priority"), say("count"), say("share"), say("target"))
    for row in whole["mix"]:
        table.add_row(
            say(row["level"]),
            ", ".join(row["priorities"]),
            f"{row['count']:,}",
            _percent(row["share"]),
            _percent(row["target"]),
        )
    return table if whole["raised"] else None


def _delays(whole: dict[str, Any]) -> "Table | None":
    """Of all, of each priority and of each operator."""
    from app.narrator import length
    from app.tables import grid

    table = grid("", say("acknowledged"), say("median"), say("90 % within"))
    rows = [(say("all"), whole["acknowledged"]), *whole["by_priority"].items(), *whole["by_operator"].items()]
    for name, delay in rows:
        times = ("" if delay[key] is None else length(delay[key]) for key in ("median_s", "p90_s"))
        table.add_row(Text(name), f"{delay['count']:,}", *times)
    return table if whole["acknowledged"]["count"] else None


def _shares(shares: list[dict[str, Any]]) -> "Table | None":
    from app.tables import grid

    table = grid(say("alarm"), say("count"), say("share"))
    for row in shares:
        table.add_row(Text(row["subject"]), f"{row['count']:,}", _percent(row["share"]))
    return table if shares else None


def _stale(stale: list[dict[str, Any]], zone: str) -> "Table | None":
    from app.tables import grid, site_time

    table = grid(say("alarm"), say("since"))
    for row in stale:
        since = say("before what is known") if row["since_ms"] is None else site_time(row["since_ms"] / 1000, zone)
        table.add_row(Text(row["subject"]), since)
    return table if stale else None


@area.command("mode")
def mode(
    area: AreaName,
    mode: Annotated[str, typer.Argument(help=", ".join(MODES))],
) -> None:
    """Set an area's operating mode: rules read it, and it suppresses alarms where they say so."""
    wanted = mode.upper()
    if wanted not in MODES:
        raise CallerError(f"there is no mode {mode!r}; choose one of {', '.join(MODES)}")
    _tell(area, "mode", {"mode": wanted})
    print(say("{area} is in mode {mode}.", area=area, mode=wanted))


@area.command("batch")
def batch(
    area: AreaName,
    day: Annotated[int | None, typer.Option(help="Which day of the batch today is; 1 if not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the batch.")] = None,
    ends: Annotated[bool, typer.Option("--ends", help="The batch is over.")] = False,
) -> None:
    """Begin a batch, put its day right, or end it: rules and set points read its day."""
    if ends and (day is not None or name is not None):
        raise CallerError("a batch that ends has no --day and no --name; leave them out")
    given = {"day": day, "name": name} if not ends else {"ends": True}
    _tell(area, "batch", {key: value for key, value in given.items() if value is not None})
    if ends:
        print(say("{area}: the batch is over.", area=area))
    else:
        print(say("{area}: today is day {day} of the batch.", area=area, day=1 if day is None else day))


def _tell(area: str, what: str, body: dict[str, Any]) -> None:
    """Ask core, and wait for its answer."""
    from app.client import connect

    site, _, name = area.partition("/")
    if not site or not name or "/" in name:
        raise CallerError(f"{area!r} is not an area; write site/area, such as nursery/house-1")
    with connect(load_settings()) as client:
        sites = {item["site"]: [part["name"] for part in item["areas"]] for item in client.get("/sites")["items"]}
        if name not in sites.get(site, []):
            known = sites[site] if site in sites else [f"{one}/{part}" for one, parts in sites.items() for part in parts]
            raise CallerError(f"there is no area {area!r}; known: {', '.join(known) or 'none yet'}")
        client.wait_for(site, client.post(f"/sites/{site}/areas/{name}/{what}", body)["request"])

"""Commands about notifications: is the configuration right, what was told, does the alarm path work."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from app.settings import load_settings
from app.words import say
from telemetry.errors import EnvironmentFault

app = typer.Typer(no_args_is_help=True, help="Who is told of alarms: check the configuration, test the path, see what was told.")
STATES: Final = ("waiting", "delivered", "passed", "failed")
CHANGES: Final = ("raise", "repeat", "clear", "test")
ANSWER_S: Final = 15.0  # until notify has read core's answer to a test, which takes a second
ARRIVE_S: Final = 200.0  # ... and until it has arrived, with the tries of a channel
POLL_S: Final = 0.3


@app.command()
def check() -> None:
    """Check notify.yaml with its secrets, and say who would be told of an alarm now."""
    from app.notify_file import load_notify, notify_file
    from app.tables import console, grid

    settings = load_settings()
    config, file = load_notify(settings), notify_file(settings)
    console().print(say("no notify.yaml: alarms are told in the log only") if file is None else str(file))
    now_ms = time.time_ns() // 1_000_000
    table = grid(say("site"), say("priority"), say("after"), say("who"), say("over"))
    for policy in config.policies:
        for priority, steps in sorted(policy.steps.items()):
            for step in steps:
                names = config.on_duty(step.tell, now_ms)
                ways = sorted({way.channel for name in names for way in config.contacts[name].via})
                place = "/".join(filter(None, (policy.site, policy.area))) or say("all")
                table.add_row(place, priority, f"{step.after_min:g} min", ", ".join(names), ", ".join(ways))
    console().print(table)


@app.command()
def test() -> None:
    """Test the alarm path now: core, journal, notify, and every channel that takes part. Exit code 1 when something did not arrive."""
    from app.client import connect

    with connect(load_settings()) as client:
        name = client.post("/notifications/tests", {})["request"]
        began = time.monotonic()
        while time.monotonic() - began < ARRIVE_S:
            found = next((item for item in client.get("/notifications/tests")["items"] if item["id"] == name), None)
            if found is not None and found["state"] != "waiting":
                _print_arrivals(found)
                raise typer.Exit(0 if found["state"] == "passed" else 1)
            if found is None and time.monotonic() - began > ANSWER_S:
                break
            time.sleep(POLL_S)
    what = f"after {time.monotonic() - began:.0f} s; do core and notify run? see `fieldloom status`"
    raise EnvironmentFault(f"the test has no result {what}")


def _print_arrivals(found: dict[str, Any]) -> None:
    from app.tables import console, grid

    console().print(f"{say(found['state'])}: {found['detail']}")
    table = grid(say("who"), say("over"), say("state"), say("tries"), say("after"), say("error"))
    for item in found["arrivals"]:
        took = "" if item["done_ms"] is None else f"{(item['done_ms'] - found['asked_ms']) / 1000:.1f} s"
        table.add_row(item["contact"], item["channel"], say(item["state"]), str(item["tries"]), took, item["error"])
    console().print(table)


@app.command()
def log(
    count: Annotated[int, typer.Option(help="At most so many of each.", min=1, max=1000)] = 20,
    failed: Annotated[bool, typer.Option("--failed", help="Only what did not arrive.")] = False,
) -> None:
    """What was told to whom and what became of it, and the newest tests of the alarm path. Works without any process."""
    from people.delivery import DeliveryReader
    from people.self_test import cause_of

    reader = DeliveryReader(load_settings().data_dir / "notify.sqlite")
    found = reader.deliveries(state="failed" if failed else None, limit=count)
    if not found:
        print(say("nothing here: no alarm was told yet") if not failed else say("nothing here: everything arrived"))
    for item in reversed(found):
        first, more = item.message["lines"][0], len(item.message["lines"]) - 1 + item.message["more"]
        what = f"{first['priority']} {first['alarm']} {say(first['change'])}" + (f" +{more}" if more else "")
        print(
            f"{_clock(item.made_ms)}  {item.contact}  {item.channel}  {say(item.state)} ({item.tries})  {what}  {item.error}".rstrip()
        )
    for test in [] if failed else reversed(reader.tests(count)):
        arrived = [
            f"{delivery.channel} {(delivery.done_ms - test.asked_ms) / 1000:.1f} s"
            for delivery in reader.deliveries(cause=cause_of(test.id))
            if delivery.state == "delivered" and delivery.done_ms is not None
        ]
        print("  ".join([_clock(test.asked_ms), say("test"), say(test.state), test.detail, ", ".join(arrived)]))


def _clock(time_ms: int) -> str:
    """Of the terminal's zone."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).astimezone().strftime("%m-%d %H:%M:%S")

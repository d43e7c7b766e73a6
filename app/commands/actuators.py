"""Commands about actuators: set one by hand for a while, and give it back to the rules."""

from typing import Annotated, Any

import typer

from app.settings import load_settings
from app.words import say, text_of
from telemetry.errors import CallerError

Actuator = Annotated[str, typer.Argument(metavar="SITE/DEVICE/ACTUATOR", help="Such as nursery/ms-1/roof_vent.")]


def override(
    actuator: Actuator,
    value: Annotated[float, typer.Argument(help="The position, in the actuator's unit; a switch: 0 or 1.")],
    reason: Annotated[str, typer.Option(help="Why; everybody who asks for the reason reads it.")],
    minutes: Annotated[float, typer.Option(help="How long; it ends by itself.", min=0.02, max=24 * 60)] = 60.0,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Under survival limits, such as minimum ventilation: 30 min at most.")
    ] = False,
    confirm: Annotated[bool, typer.Option("--confirm", help="Say the second word beforehand, for one that is dangerous.")] = False,
) -> None:
    """Set an actuator by hand. Limits of people and equipment stay above it, and survival, too, unless it is unsafe."""
    from app.client import connect
    from app.narrator import clock_text

    path, site = _path(actuator)
    body: dict[str, Any] = {"value": value, "seconds": minutes * 60, "reason": reason} | ({"unsafe": True} if unsafe else {})
    with connect(load_settings()) as client:
        request = client.post(f"{path}/override", body)["request"]
        answer = client.wait_for(site, request)
        if answer["confirm"] is not None:
            print(say("Dangerous: {why}.", why=text_of(answer["confirm"])))
            if displaced := answer["displaces"]:
                print(say("It displaces {count} demands, such as: {reason}", count=len(displaced), reason=displaced[0]["reason"]))
            if not confirm and not typer.confirm(say("Do it?")):
                print(say("Nothing was done."))
                raise typer.Exit(1)
            client.wait_for(site, client.post(f"{path}/confirm", {"request": request})["request"])
    until = clock_text(int(answer["time_ms"] + minutes * 60_000) * 1_000_000)
    print(say("{actuator} is by hand at {value:g} until {time}.", actuator=actuator, value=value, time=until))


def release(actuator: Actuator) -> None:
    """End an override now."""
    from app.client import connect

    path, site = _path(actuator)
    with connect(load_settings()) as client:
        client.wait_for(site, client.post(f"{path}/release", {})["request"])
    print(say("{actuator} is with the rules again.", actuator=actuator))


def _path(actuator: str) -> tuple[str, str]:
    """Path of its calls, and its site."""
    parts = actuator.split("/")
    if len(parts) != 3 or not all(parts):
        raise CallerError(f"{actuator!r} is no actuator; write site/device/actuator, such as nursery/ms-1/roof_vent")
    return f"/sites/{parts[0]}/devices/{parts[1]}/actuators/{parts[2]}", parts[0]

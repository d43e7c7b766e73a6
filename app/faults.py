"""Faults of simulated sites: a file that says what, where, when, how strong and how long (docs/simulators.md), and orders to running
devices over the broker."""

import asyncio
import datetime as dt
import secrets
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.broker import SIM_CONSOLE
from app.documents import Document, Path_, Reading
from app.play import broker_login, connected
from app.series import length_ns
from app.settings import Settings
from simulators.device import FaultAnswer, FaultOrder, fault_topic
from simulators.fault import NAMES, Injection, problem
from simulators.plant import PLANTS
from telemetry.errors import CallerError, ConfigError, EnvironmentFault
from telemetry.plan import NS_PER_S
from telemetry.site import SiteConfig

ANSWER_S: Final = 5.0


def _as_text(value: Any) -> Any:
    return f"{value:g} s" if isinstance(value, int | float) and not isinstance(value, bool) else value


Length = Annotated[str, BeforeValidator(_as_text)]


class FaultLine(BaseModel):
    """One fault: `where` is site/device, or site/device/part with a point or actuator; `*` stands for any letters of a device."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: str
    where: str
    at: Length = "0 s"  # after the begin (`2 h`), a time of day ("13:30"), or a moment (2026-04-10 13:30)
    strength: float | None = None
    lasts: Length | None = Field(default=None, alias="for")


class FaultFile(BaseModel):
    """A list of faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    faults: list[FaultLine]


def load_faults(file: Path, site: SiteConfig, start_s: float) -> list[Injection]:
    """The faults of a file for a site whose plants begin at `start_s` [Unix s]. Raises ConfigError with every mistake and its line."""
    reading = Reading()
    document = reading.load(file)
    if document is None:
        raise ConfigError(reading.problems)
    listed = document.value.get("faults") if isinstance(document.value, dict) else None
    if not isinstance(listed, list) or set(document.value) != {"faults"}:
        reading.note(document, (), "expected a mapping with `faults`, a list of {what, where, at, for, strength}")
        raise ConfigError(reading.problems)
    found: list[Injection] = []
    for index, item in enumerate(listed):
        line = reading.validate(document, FaultLine, item, ("faults", index))
        if line is not None:
            found += _injections(reading, document, ("faults", index), line, site, start_s)
    if reading.problems:
        raise ConfigError(sorted(reading.problems, key=lambda mistake: mistake.line))
    return sorted(found, key=lambda injection: injection.at_s)


def _injections(
    reading: Reading, document: Document, path: Path_, line: FaultLine, site: SiteConfig, start_s: float
) -> list[Injection]:
    """What one line stands for, each device once; nothing and its mistakes when it is wrong."""
    profiles = {name: site.profiles[device.profile] for device in site.devices for name in device.names()}
    parts = line.where.split("/")
    if parts[0] != site.site or len(parts) not in (2, 3):
        reading.note(document, (*path, "where"), f"expected {site.site}/device, or {site.site}/device/point-or-actuator")
        return []
    devices = [name for name in profiles if fnmatchcase(name, parts[1])]
    if not devices:
        reading.note(document, (*path, "where"), f"site {site.site} has no device {parts[1]!r}; it has {', '.join(profiles)}")
        return []
    try:
        at_s = _moment_s(line.at, start_s, site.zone)
    except CallerError as error:
        reading.note(document, (*path, "at"), str(error))
        return []
    try:
        for_s = {} if line.lasts is None else {"for_s": length_ns(line.lasts) / NS_PER_S}
    except CallerError as error:
        reading.note(document, (*path, "for"), str(error))
        return []
    part = parts[2] if len(parts) == 3 else ""
    made = [Injection(NAMES.get(line.what, line.what), name, part, line.strength, at_s, **for_s) for name in devices]
    for injection in made:
        profile = profiles[injection.device]
        wrong = problem(injection, profile, PLANTS[profile.name].faults if profile.name in PLANTS else {})
        if wrong:
            reading.note(document, (*path, "where" if injection.part and injection.part in wrong else "what"), wrong)
    return made


def _moment_s(text: str, start_s: float, zone: str) -> float:
    """When [Unix s]: a length after the begin, the next time it is so late there, or a moment there."""
    begin = dt.datetime.fromtimestamp(start_s, ZoneInfo(zone))
    try:
        if len(text) <= 8 and ":" in text:
            moment = dt.datetime.combine(begin.date(), dt.time.fromisoformat(text), begin.tzinfo)
            return (moment if moment >= begin else moment + dt.timedelta(days=1)).timestamp()
        if "-" in text:
            moment = dt.datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=begin.tzinfo)
            if moment < begin:
                raise CallerError(f"{text} is before the begin, {begin:%Y-%m-%d %H:%M}")
            return moment.timestamp()
        return start_s + length_ns(text) / NS_PER_S
    except ValueError:
        raise CallerError(f'{text!r} is no time; write such as `2 h` after the begin, "13:30", or 2026-04-10 13:30') from None


async def order_fault(
    settings: Settings, where: str, name: str, *, strength: float | None, for_s: float | None, passwords: Path | None
) -> None:
    """Have a running simulated device fail. Raises CallerError with what it says against it, EnvironmentFault when none answers."""
    parts = where.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise CallerError(f"{where!r} names no device; write site/device, or site/device/point-or-actuator")
    order = FaultOrder(secrets.token_hex(8), NAMES.get(name, name), parts[2] if len(parts) == 3 else "", strength, for_s)
    login = broker_login(settings, SIM_CONSOLE, passwords)
    async with connected(login) as client:
        await client.subscribe(fault_topic(parts[0], parts[1], "answer"), qos=1)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = int(ANSWER_S)  # a device that is away shall not fail when it comes back
        await client.publish(fault_topic(parts[0], parts[1]), msgspec.json.encode(order), qos=1, properties=properties)
        try:
            async with asyncio.timeout(ANSWER_S):
                async for message in client.messages:
                    answer = msgspec.json.decode(message.payload, type=FaultAnswer)
                    if answer.id == order.id:
                        break
        except TimeoutError:
            raise EnvironmentFault(
                f"no simulated device {parts[0]}/{parts[1]} answered within {ANSWER_S:g} s; does `fieldloom simulate` run it here?"
            ) from None
    if answer.problem:
        raise CallerError(answer.problem)

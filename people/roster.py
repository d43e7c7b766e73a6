"""Who is told, when, and over what: `notify.yaml` as a checked model. Pure: times are arguments, secrets only named here.

Times of day and dates are those of `zone`. A shift that ends at or before its beginning runs over midnight and belongs to the day on
which it begins. docs/notifications.md explains every field.
"""

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from telemetry.site import Name, Priority

MS_PER_MIN: Final = 60_000
MIN_PER_DAY: Final = 1440
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CALM: Final = frozenset({"P3", "P4"})  # what quiet hours and floods hold back
MAIL_ADDRESS: Final = r"[^@\s<>]+@[^@\s<>]+"
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def _minutes(value: Any) -> Any:
    """Minutes since midnight of "06:30". YAML reads 22:00 without quotes as 1320, which is the same."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MIN_PER_DAY:
        return value
    hours, _, minutes = str(value).partition(":")
    if len(minutes) == 2 and hours.isdecimal() and minutes.isdecimal() and int(minutes) < 60:
        total = int(hours) * 60 + int(minutes)
        if total <= MIN_PER_DAY:
            return total
    msg = f'must be a time of day such as "06:30" (it is {str(value)[:20]!r})'
    raise ValueError(msg)


TimeOfDay = Annotated[int, BeforeValidator(_minutes)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Secret(_Model):
    """Where a secret stands: an environment variable, or a file that only its owner may read (mode 0600)."""

    env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "Secret":
        if (self.env is None) == (self.file is None):
            msg = "names its place: either {env: NAME} or {file: /path}"
            raise ValueError(msg)
        if (self.env or "").startswith("FIELDLOOM_"):
            msg = "names beginning with FIELDLOOM_ are settings; choose another name"
            raise ValueError(msg)
        return self


class _Channel(_Model):
    test: bool = True  # the self-test uses it


class LogChannel(_Channel):
    """Lines in the log of the notify process."""

    kind: Literal["log"]


class MailChannel(_Channel):
    """E-mail over an SMTP server."""

    kind: Literal["mail"]
    host: Annotated[str, StringConstraints(min_length=1)]
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: Secret | None = None
    sender: Annotated[str, StringConstraints(pattern=f"^{MAIL_ADDRESS}$")]
    ca_file: str | None = None  # of a server whose certificate the system does not know

    @model_validator(mode="after")
    def _safe(self) -> "MailChannel":
        if bool(self.username) != (self.password is not None):
            msg = "username and password go together; give both or none"
            raise ValueError(msg)
        if self.username and self.security == "none":
            msg = "a password is sent over TLS only; set security to starttls or tls"
            raise ValueError(msg)
        return self


class WebhookChannel(_Channel):
    """JSON to any address, signed with HMAC-SHA256."""

    kind: Literal["webhook"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+$")] | Secret
    secret: Secret


class RobotChannel(_Channel):
    """A robot of a group chat. Its address holds its key, so the address is a secret."""

    kind: Literal["wecom", "dingtalk", "feishu"]
    url: Secret
    secret: Secret | None = None  # signs, where the robot is set so; WeCom knows no signature

    @model_validator(mode="after")
    def _signs(self) -> "RobotChannel":
        if self.kind == "wecom" and self.secret is not None:
            msg = "a WeCom robot has no signature; leave secret out"
            raise ValueError(msg)
        return self


class CommandChannel(_Channel):
    """A program of this machine, such as one that speaks to an SMS modem; the message is its standard input."""

    kind: Literal["command"]
    argv: list[str] = Field(min_length=1, max_length=50)
    limit_s: float = Field(default=30.0, gt=0, le=300)


Channel = Annotated[
    LogChannel | MailChannel | WebhookChannel | RobotChannel | CommandChannel,
    Field(discriminator="kind"),
]


class Way(_Model):
    """One way to a contact: a channel, and his address on it where it has any."""

    channel: Name
    address: str = Field(default="", max_length=300)


class Rate(_Model):
    """At most so many messages in so many minutes."""

    messages: int = Field(default=20, ge=1, le=1000)
    minutes: float = Field(default=60.0, gt=0, le=1440)


class Contact(_Model):
    """A person or a group."""

    language: Literal["en", "zh", "both"] = "both"
    quiet: bool = True  # quiet hours hold for him
    rate: Rate = Rate()
    via: list[Way] = Field(min_length=1, max_length=20)


class Shift(_Model):
    """A weekly time of duty."""

    days: list[Day] = Field(default=list(DAYS), min_length=1)
    start: TimeOfDay = 0
    end: TimeOfDay = MIN_PER_DAY
    contact: Name


class Override(_Model):
    """Whole days on which somebody else is on duty; `until` is the last of them."""

    day: date
    until: date | None = None  # None: that day alone
    contact: Name

    @model_validator(mode="after")
    def _ordered(self) -> "Override":
        if self.until is not None and self.until < self.day:
            msg = "until must not be before day"
            raise ValueError(msg)
        return self


class Roster(_Model):
    """Who is on call: an override, else the first shift that holds, else `otherwise`."""

    weekly: list[Shift] = []
    overrides: list[Override] = []
    otherwise: Name


class Step(_Model):
    """Contacts and rosters that are told after so many minutes without acknowledgement."""

    after_min: float = Field(default=0.0, ge=0, le=7 * MIN_PER_DAY)
    tell: list[Name] = Field(min_length=1)


class Policy(_Model):
    """Escalation steps per priority, for one site or area; without both, for all that no earlier policy took."""

    site: Name | None = None
    area: Name | None = None
    steps: dict[Priority, list[Step]]

    @model_validator(mode="after")
    def _rising(self) -> "Policy":
        for priority, steps in self.steps.items():
            times = [step.after_min for step in steps]
            if times != sorted(set(times)):
                msg = f"steps of {priority}: after_min must rise from one to the next"
                raise ValueError(msg)
        if self.area is not None and self.site is None:
            msg = "an area needs its site"
            raise ValueError(msg)
        return self


class Quiet(_Model):
    """Hours in which P3 and P4 are held back and told as one summary at their end. P1 and P2 never are."""

    start: TimeOfDay
    end: TimeOfDay


class SelfTest(_Model):
    """When the alarm path is tested by itself, and whose channels."""

    at: TimeOfDay
    days: list[Day] = Field(default=list(DAYS), min_length=1)
    tell: list[Name] = Field(min_length=1)


class NotifyConfig(_Model):
    """The whole file."""

    zone: str = "Asia/Shanghai"
    channels: dict[Name, Channel]
    contacts: dict[Name, Contact]
    rosters: dict[Name, Roster] = {}
    policies: list[Policy] = Field(min_length=1)
    quiet: Quiet | None = None
    group_s: float = Field(default=60.0, ge=0, le=600)  # alarms of one area within it are one message; P1 waits for nobody
    repeat_min: float = Field(default=5.0, ge=1, le=MIN_PER_DAY)  # P1, after its last step, until it is acknowledged
    self_test: SelfTest | None = None

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(Place, what is wrong) of every name that means nothing, and of what only the whole can get wrong."""
        if self.zone not in available_timezones():
            yield ("zone",), f"no time zone {self.zone!r}; write it like Asia/Shanghai"
        for name, contact in self.contacts.items():
            for index, way in enumerate(contact.via):
                channel = self.channels.get(way.channel)
                if channel is None:
                    yield ("contacts", name, "via", index, "channel"), f"there is no channel {way.channel!r}"
                elif channel.kind == "mail" and not re.fullmatch(MAIL_ADDRESS, way.address):
                    yield ("contacts", name, "via", index), f"channel {way.channel!r} needs an e-mail address"
        for name, roster in self.rosters.items():
            if name in self.contacts:
                yield ("rosters", name), "is a contact too; rename one of them"
            named: list[tuple[tuple[str | int, ...], str]] = [(("otherwise",), roster.otherwise)]
            named += [(("weekly", index, "contact"), shift.contact) for index, shift in enumerate(roster.weekly)]
            named += [(("overrides", index, "contact"), other.contact) for index, other in enumerate(roster.overrides)]
            for place, contact_name in named:
                if contact_name not in self.contacts:
                    yield ("rosters", name, *place), f"there is no contact {contact_name!r}"
        for place, name in self._told():
            if name not in self.contacts and name not in self.rosters:
                yield place, f"there is neither a contact nor a roster {name!r}"
        last = self.policies[-1]
        if last.site is not None or not last.steps.get("P1"):
            yield (
                ("policies", len(self.policies) - 1),
                "the last policy must name no site and have steps for P1: it is for all else, and for notify's own alarms",
            )

    def _told(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for number, policy in enumerate(self.policies):
            for priority, steps in policy.steps.items():
                for index, step in enumerate(steps):
                    for place, name in enumerate(step.tell):
                        yield ("policies", number, "steps", priority, index, "tell", place), name
        for place, name in enumerate(self.self_test.tell if self.self_test else ()):
            yield ("self_test", "tell", place), name

    def secrets(self) -> Iterator[tuple[tuple[str, ...], Secret]]:
        """(Place, secret) of all that are named."""
        for name, channel in self.channels.items():
            for field in ("password", "url", "secret"):
                found = getattr(channel, field, None)
                if isinstance(found, Secret):
                    yield ("channels", name, field), found

    def steps(self, site: str, area: str, priority: str) -> list[Step]:
        """The steps for an alarm, of the first policy that fits; [] when nobody is told of that priority."""
        for policy in self.policies:
            if policy.site in (None, site) and policy.area in (None, area):
                return policy.steps.get(priority, [])  # type: ignore[call-overload,no-any-return]
        return []

    def on_duty(self, names: list[str], now_ms: int) -> list[str]:
        """The contacts that names of contacts and rosters mean at a time, each once."""
        found = [name if name in self.contacts else self._on_call(self.rosters[name], now_ms) for name in names]
        return list(dict.fromkeys(found))

    def _on_call(self, roster: Roster, now_ms: int) -> str:
        local = self._local(now_ms)
        for override in roster.overrides:
            if override.day <= local.date() <= (override.until or override.day):
                return override.contact
        for shift in roster.weekly:
            if _holds(shift, local):
                return shift.contact
        return roster.otherwise

    def is_quiet(self, contact: str, now_ms: int) -> bool:
        """Are P3 and P4 held back for a contact now?"""
        if self.quiet is None or not self.contacts[contact].quiet:
            return False
        local = self._local(now_ms)
        return _within(local.hour * 60 + local.minute, self.quiet.start, self.quiet.end)

    def planned_test_ms(self, now_ms: int) -> int | None:
        """When the newest self-test up to now was to begin; None: none is planned."""
        if self.self_test is None:
            return None
        local = self._local(now_ms)
        for back in range(8):
            day = local.date() - timedelta(days=back)
            at = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(self.zone)) + timedelta(minutes=self.self_test.at)
            if DAYS[day.weekday()] in self.self_test.days and at <= local:
                return int(at.timestamp() * 1000)
        return None

    def _local(self, now_ms: int) -> datetime:
        return datetime.fromtimestamp(now_ms / 1000, ZoneInfo(self.zone))


def _holds(shift: Shift, local: datetime) -> bool:
    minute = local.hour * 60 + local.minute
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    if shift.start < shift.end:
        return today in shift.days and shift.start <= minute < shift.end
    return (today in shift.days and minute >= shift.start) or (yesterday in shift.days and minute < shift.end)


def _within(minute: int, start: int, end: int) -> bool:
    return start <= minute < end if start < end else minute >= start or minute < end


def log_only() -> NotifyConfig:
    """What holds without a file: every alarm as a line in the log, at once."""
    return NotifyConfig.model_validate(
        {
            "channels": {"log": {"kind": "log"}},
            "contacts": {
                "log": {"language": "both", "quiet": False, "rate": {"messages": 1000, "minutes": 1}, "via": [{"channel": "log"}]}
            },
            "policies": [{"steps": {priority: [{"tell": ["log"]}] for priority in ("P1", "P2", "P3", "P4")}}],
            "group_s": 0,
        }
    )

"""Why an alarm stood, or an actuator was where it was, at a past moment: put together from records that are kept for ever.

Decisions carry what their conditions read; the configuration in force then says which rule that was. What an older version did not
keep yet is missing in the answer, never guessed.
"""

import difflib
import json
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple, Protocol

from pydantic import Field, ValidationError

from api.views import View, finite
from rules.control.kinds import KINDS, asks_of
from rules.control.stage import term_words
from rules.why import Place, Reading, filled, observed_by, place
from store.history import RecordRow
from telemetry.errors import CallerError
from telemetry.site import LEVELS, ActuatorSpec, SiteConfig

DAY_MS: Final = 86_400_000  # live samples may be that much older than the entry that brought them, after a long outage
CONFIGS_AT_ONCE: Final = (4, 64, 1_000)
ALARM_ROWS: Final = 200  # back to the change that said what was read; remarks and shelving stand between
COMMAND_ROWS: Final = 20
LEVEL_NAMES: Final = {number: name for name, number in LEVELS.items()}


class ReadingView(View):
    """One thing a condition read, and where its samples are."""

    text: str = Field(examples=["air_temp_c"])
    value: float | None = Field(examples=[38.4], description="Null: it was not known")
    shown: str = Field(examples=["38.4"], description="The value in words: a label, true or false, or the number")
    unit: str = Field(examples=["C"])
    history: list[str] = Field(
        examples=[["/api/v1/sites/nursery/devices/ms-1/points/air_temp_c/history?start_ms=1767225480000&end_ms=1767225660001"]],
        description="Its samples; of peers and children the first 20",
    )


class CauseView(View):
    """Who asked, and on what grounds."""

    kind: Literal["rule", "controller", "override"] = Field(examples=["rule"])
    source: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    rule: str | None = Field(default=None, examples=["MS-T-HH"])
    controller: str | None = Field(default=None, examples=[None])
    rule_version: int | None = Field(default=None, examples=[3])
    when: str | None = Field(default=None, examples=["air_temp_c > 38"], description="Null when that version is not known any more")
    with_values: str | None = Field(default=None, examples=["air_temp_c (38.4 C) > 38"])
    on_delay_s: float | None = Field(default=None, examples=[300.0])
    since_ms: int | None = Field(
        default=None, examples=[1767225360000], description="When the condition began to hold, or the override"
    )
    until_ms: int | None = Field(default=None, examples=[None], description="End of an override")
    level: str | None = Field(default=None, examples=["survival"])
    bound: str | None = Field(default=None, examples=["at_least"])
    value: float | None = Field(default=None, examples=[80.0])
    reason: str = Field(examples=["Air is too hot"])
    words: dict[str, str] = Field(default={}, examples=[{}], description="What a controller says for it, by language")
    read: list[ReadingView] = Field(default=[])


class CommandPart(View):
    """The newest command to the actuator up to the moment."""

    id: str = Field(examples=["3-4711-nursery/ms-1/roof_vent"])
    state: str = Field(examples=["confirmed"])
    value: float | None = Field(examples=[80.0])
    changed_ms: int = Field(examples=[1767225660000])
    measured: float | None = Field(examples=[79.0])
    detail: str = Field(examples=[""], description="Why it is withheld, was refused or ended")
    fail_safe: float | Literal["hold"] | None = Field(
        examples=[None], description="Declared safe position that it was sent to, or where it stays; null: it did not fail"
    )


Answer = Literal["alarm", "rule", "controller", "override", "rest", "fail_safe", "unrecorded", "unconfigured"]


class WhyView(View):
    """The answer. `unrecorded`: before anything of the site was recorded (`first_ms`); `unconfigured`: it did not exist then."""

    subject: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    at_ms: int = Field(examples=[1767225660000])
    zone: str = Field(examples=["Asia/Shanghai"])
    answer: Answer = Field(examples=["alarm"])
    state: str | None = Field(default=None, examples=["UNACK"], description="Of an alarm")
    priority: str | None = Field(default=None, examples=["P2"])
    message: dict[str, str] = Field(default={}, examples=[{"en": "Air is too hot", "zh": "气温过高"}])
    value: float | None = Field(
        default=None, examples=[38.4], description="First value read (alarm), or position asked for (actuator)"
    )
    unit: str = Field(default="", examples=["%"])
    since_ms: int | None = Field(default=None, examples=[1767225600000], description="Since when; null: ever since records began")
    position: int | None = Field(default=None, examples=[4711], description="Journal position of the decision")
    event: str | None = Field(default=None, examples=["raise"], description="What brought the alarm into its state")
    person: str | None = Field(default=None, examples=[None], description="Who asked for that")
    note: str = Field(default="", examples=[""], description="Their reason")
    until_ms: int | None = Field(default=None, examples=[None], description="End of a shelving")
    cause: CauseView | None = None
    losers: list[CauseView] = Field(default=[], description="Demands that were not followed")
    command: CommandPart | None = None
    blind_since_ms: int | None = Field(
        default=None,
        examples=[None],
        description="Core saw nothing since then: nothing is moved, devices without a lease go local",
    )
    first_ms: int | None = Field(default=None, examples=[None])


class Records(Protocol):
    """What is asked: `store.history.History`, or a journal read for one subject."""

    def records(
        self,
        *,
        kind: str | None = None,
        site: str | None = None,
        subject: str | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 1000,
        newest_first: bool = True,
    ) -> list[RecordRow]:
        """See `store.history.History`."""
        ...


class Subject(NamedTuple):
    """RULE@site/device (actuator "") or site/device/actuator (rule "")."""

    name: str
    rule: str
    site: str
    device: str
    actuator: str

    @property
    def key(self) -> str:
        """ "site/device"."""
        return f"{self.site}/{self.device}"


def subject_of(name: str) -> Subject:
    """Raises CallerError for what is neither."""
    rule, at, where = name.rpartition("@")
    parts = where.split("/")
    if not all(parts) or len(parts) != (2 if at else 3) or bool(at) != bool(rule):
        raise CallerError(f"{name!r} is neither an alarm nor an actuator; write RULE@site/device or site/device/actuator")
    return Subject(name, rule, parts[0], parts[1], "" if at else parts[2])


def explain(records: Records, subject: Subject, at_ms: int, *, current: SiteConfig | None = None) -> WhyView:
    """The answer for a moment [ms]. `current`: the configuration now, for when the records do not have that of then.

    Raises CallerError for a subject that never was.
    """
    return _Answer(records, subject, at_ms, current).view()


class _Answer:
    def __init__(self, records: Records, subject: Subject, at_ms: int, current: SiteConfig | None) -> None:
        self._records, self._subject, self._at_ms = records, subject, at_ms
        self._current = current or config_of(records.records(kind="config", site=subject.site, limit=1))
        self._then = config_of(self._rows("config", limit=1, site=subject.site)) or self._current

    def _rows(self, kind: str, *, limit: int, **where: Any) -> list[RecordRow]:
        """Newest records of a kind up to the moment."""
        return self._records.records(kind=kind, end_ms=self._at_ms + 1, limit=limit, **where)

    def view(self) -> WhyView:
        subject = self._subject
        made = self._alarm() if subject.rule else self._actuator()
        if made is not None:
            return made
        first = self._records.records(site=subject.site, limit=1, newest_first=False)
        if not first and self._current is None:
            raise CallerError(f"nothing is recorded of a site {subject.site!r}")
        self._refuse_unknown()
        if first and first[0].time_ms > self._at_ms:
            return self._made("unrecorded", first_ms=first[0].time_ms)
        if not self._is_in(self._then):
            return self._made("unconfigured")
        return self._made("alarm", state="NORM") if subject.rule else self._at_rest(None)

    def _made(self, answer: Answer, **given: Any) -> WhyView:
        zone = "UTC" if self._then is None else self._then.zone
        return WhyView(subject=self._subject.name, at_ms=self._at_ms, zone=zone, answer=answer, **given)

    # -- alarms ----------------------------------------------------------------------------------------------------------------

    def _alarm(self) -> WhyView | None:
        rows = self._rows("alarm", limit=ALARM_ROWS, subject=self._subject.name)
        if not rows and self._is_shadow():
            rows = self._rows("shadow", limit=ALARM_ROWS, subject=self._subject.name)
        if not rows:
            return None
        newest, body = rows[0], _body(rows[0])
        change = next((row for row in rows if _body(row).get("from") != _body(row).get("to")), newest)
        changed = _body(change)
        stands_on = rows if "read" in changed or changed.get("from") != "NORM" else []  # not on what an earlier alarm did
        ground = next((row for row in stands_on if "read" in _body(row)), None)
        seconds = changed.get("seconds")
        is_shelved = body.get("to") == "SHLVD" and isinstance(seconds, int | float)
        return self._made(
            "alarm",
            state=body.get("to"),
            priority=body.get("priority"),
            message=body.get("message") or {},
            value=finite(body.get("value")),
            since_ms=change.time_ms,
            position=change.position,
            event=changed.get("event"),
            person=changed.get("author"),
            note=str(changed.get("reason", "")),
            until_ms=change.time_ms + int(float(seconds or 0) * 1000) if is_shelved else None,
            cause=None if ground is None else self._by_rule(ground, {"source": self._subject.name} | _body(ground)),
        )

    def _is_shadow(self) -> bool:
        """Whether the rule of the subject runs only as a shadow: one beside a real rule of its name does not speak for it."""
        rule_id = self._subject.name.partition("@")[0]
        then = self._then
        rules = [] if then is None else [*then.rules, *(rule for profile in then.profiles.values() for rule in profile.rules)]
        return all(rule.shadow for rule in rules if rule.id == rule_id)

    # -- actuators -------------------------------------------------------------------------------------------------------------

    def _actuator(self) -> WhyView | None:
        name = self._subject.name
        demands = self._rows("demand", limit=1, subject=name)
        commands = [row for row in self._rows("command", limit=COMMAND_ROWS, subject=name) if "late_answer" not in _body(row)]
        if not demands and not commands:
            return None
        given = self._command(commands)
        if not demands:
            return self._at_rest(None, **given)
        row, body = demands[0], _body(demands[0])
        given |= {"since_ms": row.time_ms, "position": row.position, "value": finite(body.get("value")), "unit": self._unit()}
        given["losers"] = [self._cause(row, loser) for loser in body.get("losers") or []]
        winner = body.get("winner")
        cause = None if winner is None else self._cause(row, winner)
        if given["command"] is not None and given["command"].fail_safe is not None:
            return self._made("fail_safe", **{**given, "cause": cause})
        if cause is None:
            return self._at_rest(row, **given)
        return self._made(cause.kind, **{**given, "cause": cause})

    def _at_rest(self, row: RecordRow | None, **given: Any) -> WhyView:
        spec = self._spec()
        if row is None and spec is not None:
            given["value"] = spec.rest
        return self._made("rest", **{"unit": self._unit(), **given})

    def _command(self, commands: list[RecordRow]) -> dict[str, Any]:
        blind = self._rows("blind", limit=1, subject="core")
        since_ns = _body(blind[0]).get("from_ns") if blind and _body(blind[0]).get("blind") else None
        found: dict[str, Any] = {"blind_since_ms": None if since_ns is None else since_ns // 1_000_000, "command": None}
        if commands:
            row, body = commands[0], _body(commands[0])
            detail = body.get("withheld") or body.get("why") or body.get("answer") or ""
            reason = str(body.get("reason", ""))
            is_order = reason.startswith(
                "fail-safe after "
            )  # of devices/command.py: the command that sends it to the safe position
            found["command"] = CommandPart(
                id=str(body.get("id", "")), state=str(body.get("state", "")), value=finite(body.get("value")), changed_ms=row.time_ms,
                measured=finite(body.get("measured")), detail=reason if is_order else str(detail),
                fail_safe=finite(body.get("value")) if is_order else body.get("fail_safe"),
            )  # fmt: skip
        return found

    def _cause(self, row: RecordRow, demand: dict[str, Any]) -> CauseView:
        if str(demand["source"]).startswith("request:"):
            return self._by_person(demand)
        return self._by_rule(row, demand) if demand.get("rule_version") else self._by_controller(row, demand)

    def _by_person(self, demand: dict[str, Any]) -> CauseView:
        request = demand["source"].removeprefix("request:")
        rows = self._rows("request", limit=1, subject=request)
        asked = (_body(rows[0]).get("body") or {}) if rows else {}
        seconds = asked.get("seconds") or 3600.0
        since_ms = rows[0].time_ms if rows else None
        return _cause(
            "override", demand, since_ms=since_ms, until_ms=None if since_ms is None else since_ms + int(float(seconds) * 1000)
        )

    def _by_rule(self, row: RecordRow, grounds: dict[str, Any]) -> CauseView:
        """What a rule stood on: `grounds` is the part of a decision's body that says so."""
        rule_id, _, device = str(grounds["source"]).partition("@")
        version, since_ns, read = grounds.get("rule_version"), grounds.get("since_ns"), grounds.get("read") or {}
        given: dict[str, Any] = {"rule": rule_id, "rule_version": version}
        given["since_ms"] = since_ns // 1_000_000 if since_ns else None
        site, _, name = device.partition("/")
        at = self._place_at(row, site, name)
        spec = None if at is None else at.rule(rule_id, shadow=row.kind == "shadow")
        if at is None or spec is None or spec.version != version:
            given["read"] = [_reading(Reading(text, value, f"{value}", "", []), 0, 0) for text, value in read.items()]
            return _cause("rule", grounds, **given)
        with_values, readings = filled(spec, at, read)
        begin_ms = given["since_ms"] or row.time_ms
        given |= {"when": spec.when, "with_values": with_values, "on_delay_s": spec.on_delay_s}
        given["read"] = [_reading(reading, min(begin_ms, row.time_ms), row.time_ms) for reading in readings]
        return _cause("rule", grounds, **given)

    def _by_controller(self, row: RecordRow, grounds: dict[str, Any]) -> CauseView:
        """What a controller made its demand of, and the points that it reads."""
        source, _, device = str(grounds["source"]).partition("@")
        name, since_ns, terms = source.partition(".")[0], grounds.get("since_ns"), grounds.get("read") or {}
        since_ms = since_ns // 1_000_000 if since_ns else row.time_ms
        at = self._place_at(row, *device.split("/", 1)) if "/" in device else None
        spec = None if at is None else next((spec for spec in at.profile.controllers if spec.id == name), None)
        kind = None if spec is None else KINDS.get(spec.kind)
        read = [Reading(text, value, "" if value is None else f"{value:.6g}", "", []) for text, value in terms.items()]
        words: dict[str, str] = {}
        if at is not None and spec is not None and kind is not None:
            said = term_words(spec, at.area.control.get(name, {}), terms)
            read = [*observed_by(kind.READS, at, terms), *(one for one in read if one.text not in kind.READS)]
            read = [one._replace(words=said.get(one.text, one.words)) for one in read]
            words = next(({"en": ask.en, "zh": ask.zh} for ask in asks_of(spec.kind) if ask.en == grounds.get("reason")), {})
        readings = [_reading(one, since_ms, row.time_ms) for one in read]
        return _cause("controller", grounds, controller=name, since_ms=since_ms, read=readings, words=words)

    # -- configuration ---------------------------------------------------------------------------------------------------------

    def _place_at(self, row: RecordRow, site: str, device: str) -> Place | None:
        """The device in the configuration that a decision was made under: the newest one before its journal position."""
        rows: list[RecordRow] = []
        for limit in CONFIGS_AT_ONCE:
            rows = self._records.records(kind="config", site=site, end_ms=row.time_ms + DAY_MS, limit=limit)
            if len(rows) < limit or rows[-1].position < row.position:
                break
        config = config_of([found for found in rows if found.position < row.position]) or self._current
        return None if config is None else place(config, device)

    def _spec(self) -> ActuatorSpec | None:
        for config in (self._then, self._current):
            at = None if config is None else place(config, self._subject.device)
            specs = [] if at is None else [spec for spec in at.profile.actuators if spec.name == self._subject.actuator]
            if specs:
                return specs[0]
        return None

    def _unit(self) -> str:
        spec = self._spec()
        return "" if spec is None or spec.unit == "bool" else spec.unit

    def _is_in(self, config: SiteConfig | None) -> bool:
        at = None if config is None else place(config, self._subject.device)
        if at is None:
            return False
        if self._subject.rule:
            return any(at.rule(self._subject.rule, shadow=shadow) is not None for shadow in (False, True))
        return any(spec.name == self._subject.actuator for spec in at.profile.actuators)

    def _refuse_unknown(self) -> None:
        """CallerError with what there is, when neither the configuration of then nor that of now has the subject."""
        subject, config = self._subject, self._current
        if config is None or self._is_in(config) or self._is_in(self._then):
            return
        at = place(config, subject.device)
        if at is None:
            names = [name for spec in config.devices for name in spec.names()[:100]]
            raise CallerError(f"site {subject.site!r} has no device {subject.device!r}{_near(subject.device, names)}")
        if subject.rule:
            names = [rule.id for rule in (*config.rules, *at.profile.rules) if rule.priority is not None]
            raise CallerError(f"{subject.key} has no rule {subject.rule!r}{_near(subject.rule, names)}")
        names = [spec.name for spec in at.profile.actuators]
        raise CallerError(f"{subject.key} has no actuator {subject.actuator!r}{_near(subject.actuator, names)}")


def _cause(kind: Literal["rule", "controller", "override"], grounds: dict[str, Any], **given: Any) -> CauseView:
    return CauseView(
        kind=kind, source=grounds["source"], level=LEVEL_NAMES.get(grounds.get("level", 0)), bound=grounds.get("bound"),
        value=finite(grounds.get("value")), reason=str(grounds.get("reason", "")), **given,
    )  # fmt: skip


def _reading(reading: Reading, begin_ms: int, end_ms: int) -> ReadingView:
    links = [
        f"/api/v1/sites/{source.site}/devices/{source.device}/points/{source.point}/history"
        f"?start_ms={max(0, begin_ms - int(source.length_s * 1000))}&end_ms={end_ms + 1}"
        for source in dict.fromkeys(reading.sources)
    ]
    return ReadingView(text=reading.text, value=finite(reading.value), shown=reading.words, unit=reading.unit, history=links)


def _body(row: RecordRow) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(row.body or "{}")
    return body


def config_of(rows: list[RecordRow]) -> SiteConfig | None:
    """The configuration of the first row; None without one, and when it is of a version that cannot be read."""
    try:
        return SiteConfig.model_validate(_body(rows[0])["config"]) if rows else None
    except ValidationError:
        return None


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(names[:20])}" if names else "; it has none"

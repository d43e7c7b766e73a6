"""Who must be told of which alarm, and when: alarm changes and times in, messages out. Pure; the caller keeps state and messages in
one transaction, so that a kill at any place loses nothing and tells nothing twice.

Two parts. A *ladder* per alarm walks the steps of its priority for as long as nobody acknowledges. A *box* per contact gathers what he
is to be told: it groups by area, holds P3 and P4 back in quiet hours and floods, and keeps to his rate. P1 passes all of that at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from people.roster import CALM, MS_PER_MIN, NotifyConfig

LINES_KEPT: Final = 50  # that wait for one contact, and of one message; of more the least urgent are only counted
COVERS_KEPT: Final = 20  # ids of what one line stands for
STOPPED: Final = frozenset({"ACKED", "SHLVD", "DSUPR", "OOSRV"})
GONE: Final = frozenset({"NORM", "LATCH", "SHLVD", "DSUPR", "OOSRV"})


class Change(msgspec.Struct, frozen=True):
    """One change of one alarm. cause: names it for ever, its place in the journal. to: the ISA-18.2 state it went to.

    time_ms: by the journal's clock, to be shown. since_ms: by ours, which may differ: escalation counts from it.
    """

    cause: str
    alarm: str
    site: str
    area: str
    priority: str
    event: str
    to: str
    time_ms: int
    since_ms: int
    text: dict[str, str]


class Line(msgspec.Struct):
    """What a contact is told of one alarm. change: raise, repeat or clear. covers: the steps and changes it stands for."""

    alarm: str
    site: str
    area: str
    priority: str
    change: str
    step: int
    raised_ms: int
    time_ms: int
    text: dict[str, str]
    covers: list[str]
    ripe_ms: int  # when its group is complete
    was_told: bool  # he had heard of this alarm before
    is_held: bool = False  # by quiet hours, a flood or the rate: told in one summary

    def view(self) -> dict[str, Any]:
        """What receivers see of it."""
        names = ("alarm", "site", "area", "priority", "change", "step", "raised_ms", "time_ms", "text")
        return {name: getattr(self, name) for name in names}


class Message(msgspec.Struct):
    """What goes to one contact at once. id: names it for ever. more: alarms that are only counted."""

    id: str
    contact: str
    lines: list[Line]
    more: int = 0

    @property
    def is_urgent(self) -> bool:
        """It holds a P1."""
        return any(line.priority == "P1" for line in self.lines)


class Ladder(msgspec.Struct, frozen=True):
    """How far an alarm has come, for others to read. told: contacts. next_ms, next_to: the step to come and whom it tells, contacts and
    rosters by name; None and []: none does."""

    told: list[str] = []
    step: int = 0
    next_ms: int | None = None
    next_to: list[str] = []


class _Alarm(msgspec.Struct):
    """An alarm that stands, or that somebody still has to hear the end of. The fields of `Ladder` are among its own."""

    cause: str
    site: str
    area: str
    priority: str
    text: dict[str, str]
    raised_ms: int
    since_ms: int
    is_on: bool = True
    is_open: bool = True  # nobody has acknowledged it
    step: int = 0  # the next one
    repeats: int = 0
    last_ms: int = 0
    told: list[str] = []
    next_ms: int | None = None
    next_to: list[str] = []


class _Box(msgspec.Struct):
    """What waits for a contact, and when he was last told."""

    lines: list[Line] = []
    more: int = 0
    sent_ms: list[int] = []


class Escalation:
    """All ladders and boxes. `saved` are the rows that `unsaved` gave."""

    def __init__(self, config: NotifyConfig, saved: Mapping[str, bytes]) -> None:
        self._config = config
        self.skew_ms = 0  # by which the wall clock is ahead of the times that are given: rosters and quiet hours go by it
        self._saved = dict(saved)
        self._alarms: dict[str, _Alarm] = {}
        self._boxes = {name: _Box() for name in config.contacts}
        self._floods: set[str] = set()
        self._touched: set[str] = set()
        self._newest_ms = 1 << 62  # not known yet: what was saved may be of a clock that was ahead
        self.unreadable: list[str] = []  # keys of rows of another build; forgotten: better than to tell nobody of anything
        for key, row in saved.items():
            try:
                self._restore(key, row)
            except msgspec.DecodeError:
                self.unreadable.append(key)
                self._touched.add(key)

    def _restore(self, key: str, row: bytes) -> None:
        kind, _, name = key.partition(":")
        if kind == "alarm":
            self._alarms[name] = msgspec.json.decode(row, type=_Alarm)
            self._touched.add(key)  # the steps to come may be others by now
        elif kind == "flood":
            self._floods.add(name)
        elif kind == "box" and name in self._boxes:  # of a contact that is no more nothing can be told
            self._boxes[name] = msgspec.json.decode(row, type=_Box)

    def unsaved(self) -> dict[str, bytes | None]:
        """Rows that changed since the last call, by key; None: to be deleted."""
        rows: dict[str, bytes | None] = {}
        for key in sorted(self._touched):
            kind, _, name = key.partition(":")
            if kind == "alarm" and name in self._alarms:
                self._foresee(self._alarms[name])
            thing: Any = {"alarm": self._alarms.get(name), "box": self._boxes.get(name)}.get(kind, name in self._floods or None)
            row = None if thing is None else msgspec.json.encode(thing)
            if row != self._saved.get(key):
                rows[key] = row
                self._saved.pop(key, None) if row is None else self._saved.update({key: row})
        self._touched.clear()
        return rows

    def flood(self, area: str, *, is_on: bool) -> None:
        """P3 and P4 of "site/area" are not told one by one while it is flooded."""
        self._touched.add(f"flood:{area}")
        self._floods.add(area) if is_on else self._floods.discard(area)

    def forget_alarms(self) -> None:
        """After a gap of the journal nobody knows which alarms of sites still stand: one that ended in it would be repeated for ever."""
        for name in [name for name, alarm in self._alarms.items() if alarm.site]:
            del self._alarms[name]
            self._touched.add(f"alarm:{name}")

    def take(self, change: Change, now_ms: int) -> None:
        """Move an alarm's ladder. What it causes comes out of `advance`."""
        known = self._alarms.get(change.alarm)
        self._touched.add(f"alarm:{change.alarm}")
        if change.to == "UNACK":
            self._raise(known, change, now_ms)
            return
        if known is None:
            return
        if change.to in STOPPED or (change.event != "clear" and change.to in GONE):
            known.is_open = False
            self._withdraw(change.alarm)
        if change.event == "clear" and known.is_on:
            known.is_on = False
            for name in list(self._boxes):
                if name in known.told or self._waiting(name, change.alarm) is not None:
                    self._put(name, change.alarm, known, "clear", change.cause, change.time_ms, now_ms)
        if change.to in GONE:
            del self._alarms[change.alarm]

    def _raise(self, known: _Alarm | None, change: Change, now_ms: int) -> None:
        if known is None or not known.is_open:
            told = [] if known is None else known.told
            self._alarms[change.alarm] = _Alarm(
                change.cause, change.site, change.area, change.priority, change.text, change.time_ms, change.since_ms, told=told
            )
            return
        # It came back before anybody acknowledged it: the ladder goes on, or a chattering P1 would never reach its second step.
        known.is_on, known.text = True, change.text
        for name in list(self._boxes):
            if name in known.told or self._waiting(name, change.alarm) is not None:
                self._put(name, change.alarm, known, "raise", change.cause, change.time_ms, now_ms)

    def advance(self, now_ms: int) -> list[Message]:
        """Take every step that is due, and what is then to be told. Call it also when nothing came: time alone makes steps due."""
        self._clamp(now_ms)
        for name, alarm in self._alarms.items():
            if alarm.is_open and (alarm.is_on or alarm.priority == "P1"):  # a P1 walks on when its cause is gone
                self._walk(name, alarm, now_ms)
        return [message for name in self._boxes for message in self._release(name, now_ms)]

    def _clamp(self, now_ms: int) -> None:
        """Time went back, as it does when a wrong clock is set right before a restart: nothing may wait for a time that was wrong."""
        if now_ms >= self._newest_ms:
            self._newest_ms = now_ms
            return
        self._newest_ms = now_ms
        for name, alarm in self._alarms.items():
            if max(alarm.since_ms, alarm.last_ms) > now_ms:
                alarm.since_ms, alarm.last_ms = min(alarm.since_ms, now_ms), min(alarm.last_ms, now_ms)
                self._touched.add(f"alarm:{name}")
        latest_ms = now_ms + int(self._config.group_s * 1000)
        for name, box in self._boxes.items():
            if max([0, *box.sent_ms]) > now_ms or max([0, *(line.ripe_ms for line in box.lines)]) > latest_ms:
                box.sent_ms = [sent for sent in box.sent_ms if sent <= now_ms]
                for line in box.lines:
                    line.ripe_ms = min(line.ripe_ms, latest_ms)
                self._touched.add(f"box:{name}")

    def _walk(self, name: str, alarm: _Alarm, now_ms: int) -> None:
        steps = self._config.steps(alarm.site, alarm.area, alarm.priority)
        while alarm.step < len(steps) and alarm.since_ms + steps[alarm.step].after_min * MS_PER_MIN <= now_ms:
            for contact in self._config.on_duty(steps[alarm.step].tell, now_ms + self.skew_ms):
                self._put(contact, name, alarm, "raise", f"{alarm.cause}/{alarm.step}", alarm.raised_ms, now_ms)
            alarm.step, alarm.last_ms = alarm.step + 1, now_ms
            self._touched.add(f"alarm:{name}")
        is_last = alarm.step >= len(steps) and bool(steps)
        if alarm.priority == "P1" and is_last and now_ms - alarm.last_ms >= self._config.repeat_min * MS_PER_MIN:
            alarm.repeats, alarm.last_ms = alarm.repeats + 1, now_ms
            self._touched.add(f"alarm:{name}")
            for contact in self._config.on_duty([t for step in steps for t in step.tell], now_ms + self.skew_ms):
                self._put(contact, name, alarm, "repeat", f"{alarm.cause}/repeat/{alarm.repeats}", alarm.raised_ms, now_ms)

    def _foresee(self, alarm: _Alarm) -> None:
        """When the next step is due, and whom it tells."""
        alarm.next_ms, alarm.next_to = None, []
        steps = self._config.steps(alarm.site, alarm.area, alarm.priority)
        if not steps or not alarm.is_open or not (alarm.is_on or alarm.priority == "P1"):
            return
        if alarm.step < len(steps):
            alarm.next_ms, alarm.next_to = (
                alarm.since_ms + int(steps[alarm.step].after_min * MS_PER_MIN),
                list(steps[alarm.step].tell),
            )
        elif alarm.priority == "P1":
            alarm.next_ms = alarm.last_ms + int(self._config.repeat_min * MS_PER_MIN)
            alarm.next_to = list(dict.fromkeys(name for step in steps for name in step.tell))

    # -- boxes -------------------------------------------------------------------------------------------------------------

    def _waiting(self, contact: str, alarm: str) -> Line | None:
        return next((line for line in self._boxes[contact].lines if line.alarm == alarm), None)

    def _put(self, contact: str, name: str, alarm: _Alarm, change: str, cover: str, time_ms: int, now_ms: int) -> None:
        """Give a line to a contact; a line of the same alarm that still waits becomes this one."""
        box = self._boxes[contact]
        self._touched.add(f"box:{contact}")
        waiting = self._waiting(contact, name)
        if waiting is not None:
            waiting.change, waiting.time_ms, waiting.text, waiting.step = change, time_ms, alarm.text, alarm.step
            waiting.covers = [*waiting.covers, cover][-COVERS_KEPT:]
            return
        group = [line.ripe_ms for line in box.lines if (line.site, line.area) == (alarm.site, alarm.area) and not line.is_held]
        ripe_ms = min([*group, now_ms + int(self._config.group_s * 1000)])
        line = Line(
            name, alarm.site, alarm.area, alarm.priority, change, alarm.step, alarm.raised_ms, time_ms, alarm.text, [cover],
            ripe_ms, contact in alarm.told,
        )  # fmt: skip
        box.lines.append(line)
        if len(box.lines) > LINES_KEPT:
            least = max(box.lines, key=lambda line: (line.priority, line.time_ms))
            if least.priority != "P1":
                box.lines.remove(least)
                box.more += 1

    def _withdraw(self, alarm: str) -> None:
        """Somebody has taken it in hand: who has not heard of it yet need not."""
        for contact, box in self._boxes.items():
            kept = [line for line in box.lines if line.alarm != alarm or (line.change == "clear" and line.was_told)]
            if len(kept) < len(box.lines):
                box.lines = kept
                self._touched.add(f"box:{contact}")

    def _release(self, contact: str, now_ms: int) -> Iterator[Message]:
        box = self._boxes[contact]
        if not box.lines:
            return
        urgent = [line for line in box.lines if line.priority == "P1"]
        if urgent:
            yield self._send(contact, urgent, 0)
        is_quiet = self._config.is_quiet(contact, now_ms + self.skew_ms)
        ripe = []
        for line in box.lines:
            if line.priority in CALM and (is_quiet or f"{line.site}/{line.area}" in self._floods):
                self._hold(contact, line)
            elif line.is_held or line.ripe_ms <= now_ms:
                ripe.append(line)
        while ripe:
            if not self._may_send(contact, now_ms):
                for line in ripe:
                    self._hold(contact, line)
                return
            first = ripe[0]
            part = [line for line in ripe if line.is_held] or [
                line for line in ripe if (line.site, line.area) == (first.site, first.area)
            ]
            ripe = [line for line in ripe if all(line is not sent for sent in part)]
            more, box.more = box.more, 0
            box.sent_ms.append(now_ms)
            yield self._send(contact, part, more)

    def _hold(self, contact: str, line: Line) -> None:
        if not line.is_held:
            line.is_held = True
            self._touched.add(f"box:{contact}")

    def _may_send(self, contact: str, now_ms: int) -> bool:
        box, rate = self._boxes[contact], self._config.contacts[contact].rate
        box.sent_ms = [sent for sent in box.sent_ms if sent > now_ms - rate.minutes * MS_PER_MIN]
        return len(box.sent_ms) < rate.messages

    def _send(self, contact: str, lines: list[Line], more: int) -> Message:
        box = self._boxes[contact]
        box.lines = [line for line in box.lines if all(line is not sent for sent in lines)]
        self._touched.add(f"box:{contact}")
        for line in lines:
            alarm = self._alarms.get(line.alarm)
            if alarm is not None and contact not in alarm.told:
                alarm.told.append(contact)
                self._touched.add(f"alarm:{line.alarm}")
        lines.sort(key=lambda line: (line.priority, line.time_ms))
        return Message(f"{contact}/{lines[0].covers[-1]}", contact, lines[:LINES_KEPT], more + len(lines[LINES_KEPT:]))

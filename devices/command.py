"""Commands: from the targets of arbitration to commands, their answers, and what follows when an answer does not come.

One table says how a command moves; `docs/commands.md` draws it. An actuator has at most one open command and one wake time, so all
deadlines (resend, expiry, fail to move, pacing, retry) are one heap. Wake times are always later than the engine time at which they
are set; therefore a run may be cut anywhere.

A command is named once, "epoch-position-actuator", and keeps its name over resends and restarts. Times of a device's clock decide
nothing here except that a measurement older than the command confirms nothing.
"""

import heapq
from typing import Any, Final

import numpy as np

from devices.directory import Directory
from devices.drive import NEVER, Command, Drive, Wanted, differs, load_drive, save_drive
from devices.failsafe import RETRY_NS, deadline_ns, expiry_ns, fail_safe_value
from devices.feedback import Ears
from devices.lifecycle import FAULTS, TABLE, WAITING
from devices.moment import Key, Moment, moment_at
from devices.panel import AUTO, PanelChange
from devices.permit import Permit
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Ack, Event, Start
from telemetry.site import LEVELS, ActuatorSpec
from telemetry.span import ENTRY, TIMER, CommandOut, Span
from telemetry.wire.message import ACK_STATUSES

SENDS_MAX: Final = 3
MANUAL: Final = LEVELS["manual"]
REMEMBERED_COMMANDS: Final = 2_000  # closed ids kept to recognise late answers; the oldest is forgotten and then counts as unknown
LEASE_LIFETIME_NS: Final = 15 * NS_PER_S  # devices that were without us for so long have gone local
SABOTEURS: Final = frozenset(
    {
        "ignore_expiry",
        "double_send_pulse",
        "skip_fail_safe",
        "ignore_pacing",
        "apply_late_ack",
        "ignore_panel",
        "unguarded_fail_safe",
        "trust_answers",
        "believe_old_feedback",
        "forget_pacing",
        "send_blind",
        "ignore_proof",
    }
)


# Order inside one entry. Sight comes last: what waited is sent with the limits that hold from this entry on.
_EARLY, _RECORD, _MEASURED, _TARGET, _SIGHT = range(5)


class Commands:
    """The stage. `sabotage` breaks a promise on purpose, so that a test can be seen to fail (names in SABOTEURS)."""

    rank = 70

    def __init__(self, *, sabotage: frozenset[str] = frozenset()) -> None:
        self._sabotage = sabotage & SABOTEURS
        self._directory = Directory(Plan())
        self._drives: dict[str, Drive] = {}
        self._ears = Ears(Plan())
        self._permit = Permit(self._sabotage)
        self._heap: list[tuple[int, str]] = []
        self._active: set[str] = set()  # drives that are not at rest: open, failed, or waiting for something
        self._blocked: set[str] = set()  # waiting for the end of blindness or for their device
        self._closed: dict[str, tuple[str, str]] = {}  # id -> (actuator, last state), oldest first
        self._epoch = 0
        self._last_ns = 0
        self._blind_from_ns = -1
        self._is_reconfigured = False
        self.unknown_acks = 0
        self.late_acks = 0

    def configure(self, plan: Plan) -> None:
        """Take the plan. Commands of actuators that are gone end, the others are looked at again, at the next entry."""
        self._directory = Directory(plan)
        self._ears = Ears(plan)
        self._permit.panels.configure(plan)
        self._is_reconfigured = bool(self._drives)

    def open_commands(self) -> list[tuple[str, Command]]:
        """(actuator, command) of every command that is still on its way, by actuator name."""
        return [(name, d.open) for name in sorted(self._active) if (d := self._drives[name]).open is not None]

    # -- one run -----------------------------------------------------------------------------------------------------

    def run(self, span: Span) -> None:
        """Walk everything that concerns commands through the table, in the order of the journal."""
        if not len(span.entries):
            return
        times = span.entries.time_ns
        last = int(times[-1])
        events = self._gather(span)
        if events or (self._heap and self._heap[0][0] <= last):
            events.sort(key=lambda event: event[:2])
            for key, _, payload in events:
                self._fire_before(span, key)
                self._happen(span, moment_at(span, key, self._last_ns), payload)
            self._fire_before(span, (len(times), TIMER, 0))
        self._last_ns = last
        self._blind_from_ns = span.blind_from_ns if _is_blind(span) else -1

    def _gather(self, span: Span) -> list[tuple[Key, int, Any]]:
        """(key, order inside the entry, what happens)."""
        events: list[tuple[Key, int, Any]] = []
        if self._is_reconfigured:
            self._is_reconfigured = False
            events.append(((0, ENTRY, 0), _EARLY, "configured"))
        if self._blind_from_ns >= 0 and not _is_blind(span):
            events.append(((0, ENTRY, 0), _SIGHT, "sighted"))
        is_wide = bool(events)
        for entry, record in span.entries.records:
            if isinstance(record, Ack | Start) or (
                isinstance(record, Event) and record.name in {"birth", "offline", "broker_lost"}
            ):
                events.append(((entry, ENTRY, 0), _RECORD, record))
                is_wide = is_wide or not isinstance(record, Ack)
        events += [((t.entry, t.phase, t.time_ns if t.phase == TIMER else 0), _TARGET, t) for t in span.targets]
        turned = [] if "ignore_panel" in self._sabotage else self._permit.panels.changes(span)
        events += [((entry, ENTRY, 0), _RECORD, change) for entry, change in turned]
        if len(span.entries.frames) and self._ears.is_measured(span):
            watched = set(self._drives) if is_wide else set(self._active)
            watched.update(t.actuator for t in span.targets)
            watched.update(change.actuator for _, change in turned)
            if watched:
                points = {name: number for name in watched if (number := self._directory.feedback_point(name)) is not None}
                events += [((entry, ENTRY, 0), _MEASURED, what) for entry, what in self._ears.measured(span, points)]
        if len(span.entries.frames):
            heard = self._ears.heard(span, self._permit.proven, every=is_wide)
            events += [((entry, ENTRY, 0), _RECORD, key) for entry, key in heard]
        return events

    def _fire_before(self, span: Span, key: Key) -> None:
        """Wake the actuators whose time comes before `key`."""
        times = span.entries.time_ns
        while self._heap:
            due, name = self._heap[0]
            place = int(np.searchsorted(times, due)), TIMER, due
            if due > times[-1] or place >= key:
                return
            heapq.heappop(self._heap)
            drive = self._drives.get(name)
            if drive is not None and drive.wake_ns == due:
                drive.wake_ns = NEVER
                self._advance(span, drive, moment_at(span, place, self._last_ns))

    # -- what happens --------------------------------------------------------------------------------------------------

    def _happen(self, span: Span, m: Moment, what: Any) -> None:
        if isinstance(what, PanelChange):
            self._on_panel(span, m, what)
        elif isinstance(what, tuple) and len(what) == 3:
            self._on_measured(span, m, *what)
        elif isinstance(what, Ack):
            self._on_ack(span, m, what)
        elif isinstance(what, Start):
            self._on_start(span, m, what)
        elif isinstance(what, Event):
            self._on_event(span, m, what)
        elif what == "configured":
            self._on_configured(span, m)
        elif what == "sighted":
            self._on_sighted(span, m)
        elif isinstance(what, str):
            self._on_heard(span, m, what)
        else:
            self._on_target(span, m, what)

    def _on_target(self, span: Span, m: Moment, target: Any) -> None:
        spec = self._directory.spec(target.actuator)
        if spec is None:
            return
        drive = self._drives.setdefault(target.actuator, Drive(target.actuator))
        winner = target.winner
        level = 8 if winner is None else winner.level
        evidence = None if winner is None else winner.body()
        wanted = Wanted(target.value, level, target.reason, evidence, [loser.body() for loser in target.losers], target.limits)
        drive.wanted = wanted
        if spec.kind == "pulse":
            # A dose is given when its demand begins, not when it comes to the top again because another one ended.
            is_new = winner is not None and winner.since == span.entries.first + m.entry and target.value != spec.rest
            drive.pulse = wanted if is_new else None if target.value == spec.rest else drive.pulse
        if drive.level(wanted) <= MANUAL or (
            drive.position is None and wanted.is_limited(spec)
        ):  # safety, survival and people do not wait for the retry
            drive.is_failed, drive.retry_ns = False, NEVER
        self._advance(span, drive, m)

    def _on_measured(self, span: Span, m: Moment, name: str, value: float, ts_ns: int) -> None:
        drive = self._drives.get(name)
        spec = self._directory.spec(name)
        if drive is None or spec is None:
            return
        if self._permit.panels.mode(name) != AUTO and spec.kind != "pulse":
            drive.note_measured(value, spec, m.now_ns)
        if drive.open is None or drive.open.state != "accepted":
            return
        is_new = ts_ns >= drive.open.sent_ns or "believe_old_feedback" in self._sabotage
        if is_new and abs(value - drive.open.value) <= spec.tolerance:
            drive.unmoved_since_ns = -1
            self._move(span, drive, "measured", m, measured=value)
            self._advance(span, drive, m)

    def _on_panel(self, span: Span, m: Moment, change: PanelChange) -> None:
        """In LOCAL and OFF nothing is sent and nothing is expected; back in AUTO the actuator goes on from where it is measured to stand.
        A dose under way is still answered for."""
        body = {"panel": change.mode, "from": self._permit.panels.mode(change.actuator)}
        span.decide(
            entry=m.entry, phase=m.phase, time_ns=m.time_ns, stage=self.rank, kind="mode", subject=change.actuator, body=body
        )
        self._permit.panels.turn(change)
        spec = self._directory.spec(change.actuator)
        if spec is None:
            return
        drive = self._drives.setdefault(change.actuator, Drive(change.actuator))
        if spec.kind != "pulse":
            self._move(span, drive, "supersede", m, why=f"the panel says {change.mode}")
            position, drive.travel_end_ns = drive.position, 0
            drive.forget()
            drive.position = position if body["from"] != AUTO else None  # measured by hand's work, or unknown from now on
        self._advance(span, drive, m)

    def _on_ack(self, span: Span, m: Moment, ack: Ack) -> None:
        self._permit.proven.add(ack.device)
        name = ack.command.split("-", 2)[-1].partition(".")[0]
        drive = self._drives.get(name)
        if drive is None or name.rpartition("/")[0] != ack.device or ack.status not in ACK_STATUSES:
            self.unknown_acks += 1
            return
        if drive.open is not None and drive.open.id == ack.command and drive.open.state in {"sent", "accepted"}:
            drive.silent_since_ns = -1
            if drive.open.state == "sent":
                self._accept(span, drive, m, ack)
        elif ack.command in self._closed:
            self._on_late_ack(span, drive, m, ack)
        else:
            self.unknown_acks += 1
        self._advance(span, drive, m)

    def _accept(self, span: Span, drive: Drive, m: Moment, ack: Ack) -> None:
        """The answer of the device to the open command."""
        command, spec = drive.open, self._directory.spec(drive.name)
        assert command is not None
        self._move(span, drive, ack.status, m, answer=ack.reason)
        if command.state != "accepted":
            return
        command.accepted_ns = m.now_ns
        if spec is None or spec.feedback is None or spec.kind == "pulse" or "trust_answers" in self._sabotage:
            self._close(drive, command)  # nothing measures it: the answer is all there will be
        elif drive.unmoved_since_ns < 0:
            drive.unmoved_since_ns = m.now_ns

    def _on_late_ack(self, span: Span, drive: Drive, m: Moment, ack: Ack) -> None:
        """Recorded, not applied; it only proves that the device is there."""
        self.late_acks += 1
        drive.silent_since_ns = -1 if drive.open is None or drive.open.state != "sent" else drive.open.sent_ns
        state = self._closed[ack.command][1]
        if "apply_late_ack" in self._sabotage:
            state = ack.status
        self._decide(span, m, drive.name, {"id": ack.command, "state": state, "late_answer": ack.status, "answer": ack.reason})

    def _on_event(self, span: Span, m: Moment, event: Event) -> None:
        if event.name == "broker_lost":
            self._permit.proven.clear()
        elif event.name == "offline":
            self._permit.proven.discard(event.device)
        else:
            self._permit.proven.add(event.device)
            for drive in self._of_device(event.device):
                if drive.open is None:
                    drive.position = None  # it began anew: say again where things shall stand
                drive.is_failed, drive.retry_ns = False, NEVER
                self._advance(span, drive, m)

    def _on_heard(self, span: Span, m: Moment, device: str) -> None:
        if device not in self._permit.proven:
            self._permit.proven.add(device)
            for drive in self._of_device(device):
                if drive.is_failed and drive.retry_ns == NEVER:
                    drive.is_failed = False
                self._advance(span, drive, m)

    def _on_sighted(self, span: Span, m: Moment) -> None:
        """Blindness ended. Devices that were without a lease for too long went local: every position is said again. What failed in
        blindness says nothing about its device, since we may have neither spoken nor heard: it is tried again at once."""
        is_long = m.now_ns - self._blind_from_ns >= LEASE_LIFETIME_NS
        failed = {name for name in self._active if self._blind_from_ns + RETRY_NS <= self._drives[name].retry_ns < NEVER}
        for name in sorted(self._drives if is_long else self._blocked | failed):
            drive = self._drives[name]
            if is_long and drive.open is None:
                drive.position = None
            if name in failed:
                drive.is_failed, drive.retry_ns = False, NEVER
            self._advance(span, drive, m)

    def _on_configured(self, span: Span, m: Moment) -> None:
        for name in sorted(self._drives):
            drive = self._drives[name]
            if self._directory.spec(name) is not None:
                self._advance(span, drive, m)
                continue
            self._move(span, drive, "supersede", m, why="the actuator left the configuration")
            del self._drives[name]
            self._active.discard(name)
            self._blocked.discard(name)

    def _on_start(self, span: Span, m: Moment, start: Start) -> None:
        """A new epoch. Positions are asked for anew when sight returns; an unanswered pulse is sent again under its own id when the
        device executes an id at most once, and is lost otherwise."""
        self._epoch = start.epoch
        self._permit.proven.clear()
        for name in sorted(self._drives):
            drive, spec = self._drives[name], self._directory.spec(name)
            drive.silent_since_ns = drive.unmoved_since_ns = -1
            command = drive.open
            if spec is not None and spec.kind != "pulse":
                self._move(span, drive, "supersede", m, why="restart")
                drive.forget()
                if "forget_pacing" in self._sabotage:
                    drive.switched_ns, drive.travel_end_ns = -1, 0
            elif command is not None and command.state == "sent":
                if spec is not None and self._permit.may_resend(spec):
                    command.sends, command.next_send_ns = min(command.sends, SENDS_MAX - 1), m.now_ns
                else:
                    self._move(span, drive, "restart", m, why="restart")
            self._advance(span, drive, m)

    def _of_device(self, device_key: str) -> list[Drive]:
        return [self._drives[name] for name in self._directory.names(device_key) if name in self._drives]

    # -- one actuator --------------------------------------------------------------------------------------------------

    def _advance(self, span: Span, drive: Drive, m: Moment) -> None:
        """Do all that is due for an actuator, and set when to look again."""
        spec = self._directory.spec(drive.name)
        if spec is None:
            return
        self._check_deadlines(span, drive, spec, m)
        self._want(span, drive, spec, m)
        self._push(span, drive, spec, m)
        self._set_wake(span, drive, spec, m)

    def _check_deadlines(self, span: Span, drive: Drive, spec: ActuatorSpec, m: Moment) -> None:
        command = drive.open
        if command is None or m.now_ns < self._deadline_ns(drive, command, spec):
            return
        if command.state == "accepted":
            self._move(span, drive, "deadline", m, why="FAIL_TO_MOVE")
        elif command.state in WAITING:
            self._move(
                span,
                drive,
                "deadline",
                m,
                why="never sent: " + self._permit.withheld(drive, command, spec, m, is_blind=_is_blind(span)),
            )
        else:
            self._move(span, drive, "deadline", m, why="no answer")

    def _deadline_ns(self, drive: Drive, command: Command, spec: ActuatorSpec) -> int:
        heartbeat_s = self._directory.heartbeat_s(drive.name)
        return deadline_ns(drive, command, spec, heartbeat_s=heartbeat_s, is_reachable=self._permit.is_reachable(drive, spec))

    def _want(self, span: Span, drive: Drive, spec: ActuatorSpec, m: Moment) -> None:
        """Ask for a command where the wanted value needs one."""
        wanted, command = drive.wanted, drive.open
        if spec.kind == "pulse":
            if command is not None and command.state in WAITING and wanted is not None and wanted.value == spec.rest:
                self._move(span, drive, "supersede", m, why="no longer wanted")
            if drive.pulse is not None and (drive.open is None or drive.open.state in WAITING):
                self._move(span, drive, "supersede", m, why="another dose")
                drive.open, drive.pulse = drive.request(drive.pulse, self._epoch, span.entries.first + m.entry, m.now_ns), None
            return
        if wanted is None or (drive.is_failed and m.now_ns < drive.retry_ns):
            return
        drive.is_failed, drive.retry_ns = False, NEVER
        if command is not None and command.state in WAITING:
            if command.value == wanted.value and not command.is_fail_safe:
                return
            self._move(span, drive, "supersede", m, why="another target")
        elif command is not None:
            if (
                not differs(spec, wanted.value, command.value)
                or self._permit.withheld(drive, wanted, spec, m, is_blind=_is_blind(span)) != ""
            ):
                return  # the old one is watched until the new one may go
            self._move(span, drive, "supersede", m, why="another target")
        if differs(spec, wanted.value, drive.position):
            drive.open = drive.request(wanted, self._epoch, span.entries.first + m.entry, m.now_ns)

    def _push(self, span: Span, drive: Drive, spec: ActuatorSpec, m: Moment) -> None:
        """Send what may be sent now: the first time, or again."""
        command = drive.open
        if command is None:
            return
        if command.state in WAITING:
            if not self._permit.is_permitted(drive):
                self._announce(span, drive, command, m)
                return
            self._move(span, drive, "authorise", m)
            why = self._permit.withheld(drive, command, spec, m, is_blind=_is_blind(span))
            self._move(span, drive, "hold" if why else "send", m, **({"withheld": why} if why else {}))
        elif command.state == "sent" and self._permit.may_resend(spec) and not _is_blind(span):
            is_due = command.sends < SENDS_MAX and m.now_ns >= command.next_send_ns
            if is_due and self._permit.is_reachable(drive, spec):
                self._move(span, drive, "send", m)

    def _announce(self, span: Span, drive: Drive, command: Command, m: Moment) -> None:
        """Say once that the panel keeps a command from being authorised."""
        if not command.is_announced:
            command.is_announced = True
            self._decide(span, m, drive.name, {**command.evidence(), "withheld": self._permit.panel_says(drive)})

    def _set_wake(self, span: Span, drive: Drive, spec: ActuatorSpec, m: Moment) -> None:
        command, wanted, due = drive.open, drive.wanted, NEVER
        self._blocked.discard(drive.name)
        if command is not None:
            due = self._deadline_ns(drive, command, spec)
            is_stopped = _is_blind(span) or not self._permit.is_reachable(drive, spec)
            if is_stopped:
                self._blocked.add(drive.name)
            elif not self._permit.is_permitted(drive):
                pass  # the turn of the selector wakes it
            elif command.state in WAITING:
                due = min(due, drive.may_move_ns(command.value, drive.level(command), spec))
            else:
                if command.state == "sent" and command.sends < SENDS_MAX and self._permit.may_resend(spec):
                    due = min(due, command.next_send_ns)
                if spec.kind != "pulse" and wanted is not None and differs(spec, wanted.value, command.value):
                    due = min(
                        due,
                        max(drive.retry_ns if drive.is_failed else 0, drive.may_move_ns(wanted.value, drive.level(wanted), spec)),
                    )
        elif drive.is_failed:
            due = drive.retry_ns
        due = max(due, m.now_ns + 1)
        if due != drive.wake_ns:
            drive.wake_ns = due
            if due < NEVER:
                heapq.heappush(self._heap, (due, drive.name))
        if command is not None or drive.is_failed or drive.pulse is not None or not self._permit.is_permitted(drive):
            self._active.add(drive.name)
        else:
            self._active.discard(drive.name)

    # -- the table in motion ---------------------------------------------------------------------------------------

    def _move(self, span: Span, drive: Drive, event: str, m: Moment, **evidence: Any) -> None:
        """Walk the open command one step through the table; a pair that is missing changes nothing."""
        command = drive.open
        step = TABLE.get((command.state, event)) if command is not None else None
        if command is None or step is None:
            return
        before = command.state
        command.state, effects = step
        if "publish" in effects:
            evidence |= self._publish(span, drive, command, m)
        if command.state != "authorised":  # it is sent in the same instant: one decision says both
            self._decide(span, m, drive.name, {**command.evidence(), **evidence})
        if "fault" in effects:
            fault = "FAIL_TO_MOVE" if before == "accepted" else FAULTS[command.state]
            body = {
                "fault": fault,
                "id": command.id,
                "value": command.value,
                "why": str(evidence.get("why", evidence.get("answer", ""))),
            }
            span.decide(
                entry=m.entry, phase=m.phase, time_ns=m.time_ns, stage=self.rank, kind="fault", subject=drive.name, body=body
            )
        if "close" in effects:
            self._close(drive, command)
        if "fail" in effects:
            self._fail(drive, m, is_reachable=before not in WAITING)
        if "fail_safe" in effects and not command.is_fail_safe and "skip_fail_safe" not in self._sabotage:
            self._order_fail_safe(span, drive, command, m)

    def _publish(self, span: Span, drive: Drive, command: Command, m: Moment) -> dict[str, Any]:
        spec = self._directory.spec(drive.name)
        assert spec is not None
        lasts_ns = expiry_ns(spec)
        if command.sent_ns < 0:
            command.sent_ns = m.now_ns
            drive.note_sent(command.value, spec, m.now_ns)
            if drive.silent_since_ns < 0:
                drive.silent_since_ns = m.now_ns
        command.sends += 1
        command.next_send_ns = m.now_ns + lasts_ns // SENDS_MAX
        # Whole seconds, rounded down: the broker counts in seconds and no device may act after our deadline. The entry's time
        # counts here, not the timer's, since that is when the command really leaves.
        left_s = (command.sent_ns + lasts_ns - m.at_ns) // NS_PER_S
        if "ignore_expiry" in self._sabotage:
            left_s = 86_400
        is_before_start = m.phase == TIMER and any(i == m.entry and isinstance(r, Start) for i, r in span.entries.records)
        # The broker rounds an interval up by as much as a second: a repeat with no more than that left could arrive too late.
        is_worth_it = left_s >= (1 if command.sends == 1 else 2)
        if is_worth_it and not is_before_start:  # what fired in the gap before START would leave under the old epoch
            device = drive.name.rpartition("/")[0]
            span.commands.append(
                CommandOut(device, drive.name, command.id, self._epoch, command.value, float(left_s), command.reason)
            )
        return {"sends": command.sends, "epoch": self._epoch}

    def _close(self, drive: Drive, command: Command) -> None:
        drive.open = None
        self._closed[command.id] = (drive.name, command.state)
        while len(self._closed) > REMEMBERED_COMMANDS:
            del self._closed[next(iter(self._closed))]

    def _fail(self, drive: Drive, m: Moment, *, is_reachable: bool) -> None:
        """A failed position is unknown and tried again later; a failed pulse is never tried again."""
        drive.silent_since_ns = drive.unmoved_since_ns = -1
        spec = self._directory.spec(drive.name)
        if spec is not None and spec.kind != "pulse":
            drive.position, drive.is_failed = None, True
            drive.retry_ns = m.now_ns + RETRY_NS if is_reachable else NEVER

    def _order_fail_safe(self, span: Span, drive: Drive, command: Command, m: Moment) -> None:
        spec = self._directory.spec(drive.name)
        if spec is None:
            return
        value = fail_safe_value(spec)
        if value is not None and drive.wanted is not None and "unguarded_fail_safe" not in self._sabotage:
            value = drive.wanted.guarded(value)
        command.state = TABLE[command.state, "fail_safe"][0]
        self._closed[command.id] = (drive.name, command.state)
        self._decide(span, m, drive.name, {**command.evidence(), "fail_safe": "hold" if value is None else value})
        if value is not None:
            order = Wanted(value, 0, f"fail-safe after {command.id}", None, [])
            drive.open = drive.request(order, self._epoch, span.entries.first + m.entry, m.now_ns)
            drive.open.is_fail_safe = True

    def _decide(self, span: Span, m: Moment, name: str, body: dict[str, Any]) -> None:
        span.decide(entry=m.entry, phase=m.phase, time_ns=m.time_ns, stage=self.rank, kind="command", subject=name, body=body)

    # -- configuration and state -----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Drives and commands by actuator name; wake times are part of the drives."""
        return {
            "drives": {name: save_drive(drive) for name, drive in self._drives.items()},
            "active": sorted(self._active),
            "blocked": sorted(self._blocked),
            "proven": sorted(self._permit.proven),
            "panels": self._permit.panels.snapshot(),
            "closed": [[command, name, state] for command, (name, state) in self._closed.items()],
            "epoch": self._epoch,
            "last_ns": self._last_ns,
            "blind_from_ns": self._blind_from_ns,
            "is_reconfigured": self._is_reconfigured,
            "unknown_acks": self.unknown_acks,
            "late_acks": self.late_acks,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        self._drives = {name: load_drive(fields) for name, fields in saved["drives"].items()}
        self._heap = sorted((d.wake_ns, name) for name, d in self._drives.items() if d.wake_ns < NEVER)
        self._active, self._blocked, self._permit.proven = set(saved["active"]), set(saved["blocked"]), set(saved["proven"])
        self._permit.panels.restore(saved.get("panels", {}))
        self._closed = {command: (name, state) for command, name, state in saved["closed"]}
        self._epoch, self._last_ns = saved["epoch"], saved["last_ns"]
        self._blind_from_ns, self._is_reconfigured = saved["blind_from_ns"], saved["is_reconfigured"]
        self.unknown_acks, self.late_acks = saved["unknown_acks"], saved["late_acks"]


def _is_blind(span: Span) -> bool:
    return len(span.blind) > 0 and bool(span.blind[0])

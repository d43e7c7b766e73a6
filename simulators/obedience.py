"""What a device does with commands: whom it obeys, what it refuses, and when it goes local. No I/O, no physics.

A command is executed at most once (by id), only from the highest epoch seen (fencing), only inside its expiry counted on the
device's own monotonic clock from receipt, and only while the lease lives. Every refusal is answered with its reason.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from simulators.actuator import Actuator
from telemetry.wire.message import Command, CommandAck, Lease

REMEMBERED_MAX: Final = 1024  # answered ids; the core resends one id at most three times within its expiry


class Waiting(NamedTuple):
    """A command that a switch may not execute yet."""

    command: Command
    deadline_ns: int


class Obedience:
    """Commands and lease of one device. `sabotage` breaks one promise on purpose, to prove that its tests can fail."""

    def __init__(self, actuators: Mapping[str, Actuator], *, sabotage: str = "") -> None:
        self._actuators = actuators
        self._sabotage = sabotage
        self._answers: OrderedDict[str, CommandAck] = OrderedDict()
        self._waiting: dict[str, Waiting] = {}
        self._lease_until_ns: int | None = None
        self.epoch = 0
        self.is_local = False
        self.executed: OrderedDict[str, int] = OrderedDict()  # id -> when, bounded like the answers: for tests and drawings

    def has_lease(self, now_ns: int) -> bool:
        """A core is alive, or none ever said so: a device that never saw a lease cannot miss one."""
        return self._lease_until_ns is None or now_ns < self._lease_until_ns

    def lease(self, lease: Lease, now_ns: int) -> None:
        """A core is alive. One of an older epoch is a ghost and renews nothing."""
        if lease.epoch < self.epoch or not 0 < lease.lifetime_s <= 3600:
            return
        self.epoch = lease.epoch
        self._lease_until_ns = now_ns + int(lease.lifetime_s * 1e9)
        self.is_local = False

    def receive(self, command: Command, *, received_ns: int, now_ns: int, left_s: float | None) -> list[CommandAck]:
        """Answers to a command that came in at `received_ns` and is looked at now; `left_s` = what the broker says is left of the
        message's own expiry, when that is less than the command's."""
        if command.id in self._answers and self._sabotage != "device_does_twice":
            return [self._answers[command.id]]
        if any(waiting.command.id == command.id for waiting in self._waiting.values()):
            return []
        reason = self._refusal(command, now_ns)
        if reason:
            return [self._answer(command.id, "refused", reason)]
        expires_s = command.expires_s if left_s is None else min(command.expires_s, left_s)
        deadline_ns = received_ns + int(expires_s * 1e9)
        answers = []
        older = self._waiting.pop(command.actuator, None)
        if older is not None:
            answers.append(self._answer(older.command.id, "superseded", command.id))
        self._waiting[command.actuator] = Waiting(command, deadline_ns)
        return answers + self.advance(now_ns)

    def advance(self, now_ns: int) -> list[CommandAck]:
        """Execute or expire what waits, and fall back when the lease ran out. Answers to send."""
        answers = []
        for name, (command, deadline_ns) in list(self._waiting.items()):
            if self._is_fenced(command):
                # It waited for a switch while a newer core took over.
                del self._waiting[name]
                answers.append(self._answer(command.id, "refused", f"epoch {command.epoch} below {self.epoch}"))
            elif now_ns >= deadline_ns and self._sabotage != "device_ignores_expiry":
                del self._waiting[name]
                answers.append(self._answer(command.id, "expired", "expired before it could be executed"))
            elif self._actuators[name].waits_s(command.value) <= 0:
                del self._waiting[name]
                self._actuators[name].command(command.value)
                self.executed[command.id] = now_ns
                answers.append(self._answer(command.id, "accepted", ""))
        if not self.is_local and not self.has_lease(now_ns) and self._sabotage != "device_ignores_silence":
            answers += self._fall_back()
        return answers

    def _refusal(self, command: Command, now_ns: int) -> str:
        actuator = self._actuators.get(command.actuator)
        if actuator is None:
            return f"unknown actuator {command.actuator}"
        if self._is_fenced(command):
            return f"epoch {command.epoch} below {self.epoch}"
        self.epoch = max(self.epoch, command.epoch)
        if not math.isfinite(command.value) or not actuator.spec.low <= command.value <= actuator.spec.high:
            return f"value outside {actuator.spec.low}..{actuator.spec.high}"
        if not math.isfinite(command.expires_s):
            return "expiry is not a number of seconds"
        if actuator.mode != "AUTO":
            return f"switched {'off' if actuator.mode == 'OFF' else 'to local'} at the panel"
        return "" if self.has_lease(now_ns) else "no lease"

    def _is_fenced(self, command: Command) -> bool:
        fences = self._actuators[command.actuator].spec.fences and self._sabotage != "device_ignores_epoch"
        return fences and command.epoch < self.epoch

    def start_anew(self) -> None:
        """Power is back: what waited is forgotten, drives take their fail-safe. Answered ids and the epoch outlast it."""
        self._waiting.clear()
        if self._sabotage == "device_forgets":
            self._answers.clear()
        self._take_fail_safe()

    def _fall_back(self) -> list[CommandAck]:
        self.is_local = True
        answers = [self._answer(w.command.id, "refused", "no lease") for w in self._waiting.values()]
        self._waiting.clear()
        self._take_fail_safe()
        return answers

    def _take_fail_safe(self) -> None:
        for actuator in self._actuators.values():
            if not actuator.spec.local_fallback or actuator.mode != "AUTO":
                continue
            if actuator.spec.fail_safe == "hold":
                if actuator.spec.travel_s > 0:  # what is on or off at once holds by itself, also over a power cut
                    actuator.stop()
            else:
                actuator.command(float(actuator.spec.fail_safe))

    def _answer(self, command_id: str, status: str, reason: str) -> CommandAck:
        answer = CommandAck(id=command_id, status=status, reason=reason)
        self._answers[command_id] = answer
        while len(self._answers) > REMEMBERED_MAX:
            self._answers.popitem(last=False)
        while len(self.executed) > REMEMBERED_MAX:
            self.executed.popitem(last=False)
        return answer

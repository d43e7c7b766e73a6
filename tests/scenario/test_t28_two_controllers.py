"""T28: a controller is frozen for two leases and more, another one takes over, the first wakes up and goes on as if nothing had been.

Both are the real stages and the real outbox, each on its own clock; the devices are the simulator's. What the frozen one had decided but
not published leaves when it wakes, and what lay in the network comes when it likes. Saboteur: device_ignores_epoch.
"""

import os
import random
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from devices.outbox import Outbox
from simulators.actuator import Drives, actuators
from simulators.obedience import Obedience
from telemetry.clock import ManualClock
from telemetry.plan import NS_PER_S
from telemetry.record import Ack, Event, Start
from telemetry.site import ActuatorSpec
from telemetry.span import CommandOut
from telemetry.wire import message
from tests.faults.command_world import T0, Step, World, plan_of

STEP_NS = NS_PER_S // 2
VENT = {"name": "vent", "min_step": 1, "fail_safe": 0.0}
SABOTAGE = "device_ignores_epoch" if "device_ignores_epoch" in os.environ.get("FIELDLOOM_SABOTAGE", "") else ""


@dataclass
class Controller:
    """A core: stages, outbox, and what it decided in the step in which it was frozen."""

    epoch: int
    clock: ManualClock
    wire: list[tuple[str, bytes]] = field(default_factory=list)
    pending: list[CommandOut] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(plan_of([VENT]))
        self.outbox = Outbox(self._publish, self.clock, lambda: ["farm"])
        now = self.clock.now_ns()
        self.world.run([Step(now, record=Start(self.epoch)), Step(now, record=Event("drained"))])

    def _publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> None:
        assert (qos, retain) == (1, False)
        assert expiry_s is not None
        self.wire.append((topic, payload))

    def step(self, acks: list[Ack], wanted: dict[str, float], *, is_cut: bool) -> None:
        """One step; `is_cut`: frozen between the commit and the publishing."""
        now = self.clock.now_ns()
        if self.pending:
            self.outbox.send(self.pending, self.decided_ns)
            self.pending = []
        step = Step(now)
        for name, value in wanted.items():
            step.demand("R1", name, value)
        commands = [c for _, c in self.world.run([*(Step(now, record=ack) for ack in acks), step]).commands]
        if is_cut:
            self.pending, self.decided_ns = commands, now
        else:
            self.outbox.send(commands, now)
            self.outbox.lease(self.epoch)


@dataclass
class Trial:
    """One take-over. `overlaps`: commands of the old controller executed after one of the new, or after the device knew of it."""

    seed: int
    overlaps: int = 0
    taken_over_s: float = -1.0

    def run(self) -> "Trial":
        draw = random.Random(self.seed)
        names = [f"farm/h-{i}" for i in range(2)]
        actuator = ActuatorSpec.model_validate(VENT)
        devices = {
            name: Obedience(actuators(Drives([actuator], [np.random.default_rng(self.seed)]), 0), sabotage=SABOTAGE)
            for name in names
        }
        clocks = [ManualClock(T0), ManualClock(T0)]
        frozen_at, took_at = draw.randrange(20, 60), 0
        took_at = frozen_at + draw.randrange(2, 20)  # within 10 s: the supervisor has seen it
        wakes_at = frozen_at + draw.randrange(20, 60)  # two leases and more
        old, new = Controller(1, clocks[0]), None
        network: list[tuple[int, int, str, bytes]] = []  # (arrives at step, epoch, topic, payload)
        acks: dict[int, list[Ack]] = {1: [], 2: []}
        for i in range(1, 160):
            for clock in clocks:
                clock.advance(STEP_NS)
            if i == took_at:
                new = Controller(2, clocks[1])
            for controller in (old, new):
                if controller is None or (controller is old and frozen_at < i < wakes_at):
                    continue
                heard, acks[controller.epoch] = acks[controller.epoch], []
                wanted = {f"{draw.choice(names)}/vent": float(draw.randrange(0, 100))} if draw.random() < 0.4 else {}
                controller.step(heard, wanted, is_cut=controller is old and i == frozen_at)
                for topic, payload in controller.wire:
                    network.append(
                        (i + draw.choice([0, 1, 1, 2, 30 if controller is old else 1]), controller.epoch, topic, payload)
                    )
                controller.wire = []
            due = [item for item in network if item[0] <= i]
            network = [item for item in network if item[0] > i]
            for _, epoch, topic, payload in due:
                self._deliver(devices, epoch, topic, payload, T0 + i * STEP_NS, acks)
            if new is not None and self.taken_over_s < 0 and all(d.epoch == 2 for d in devices.values()):
                self.taken_over_s = (i - took_at) * 0.5
        return self

    def _deliver(
        self, devices: dict[str, Obedience], epoch: int, topic: str, payload: bytes, now_ns: int, acks: dict[int, list[Ack]]
    ) -> None:
        if topic.endswith("/lease"):
            for device in devices.values():
                device.lease(msgspec.json.decode(payload, type=message.Lease), now_ns)
            return
        name = "/".join(topic.split("/")[1:3])
        device, command = devices[name], msgspec.json.decode(payload, type=message.Command)
        knew, before = device.epoch, len(device.executed)
        for answer in device.receive(command, received_ns=now_ns, now_ns=now_ns, left_s=None):
            acks[epoch].append(Ack(name, answer.id, answer.status))
        self.overlaps += len(device.executed) > before and command.epoch < knew


@pytest.mark.parametrize("part", range(2))
def test_old_controller_moves_nothing_after_the_take_over(part: int) -> None:
    trials = [Trial(seed).run() for seed in range(part * 20, part * 20 + 20)]
    assert [trial.seed for trial in trials if trial.overlaps] == []
    assert [trial.seed for trial in trials if not 0 <= trial.taken_over_s <= 10] == []


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1000, 6000, 250))
def test_old_controller_moves_nothing_over_5000_take_overs(first: int) -> None:
    trials = [Trial(seed).run() for seed in range(first, first + 250)]
    assert [trial.seed for trial in trials if trial.overlaps or not 0 <= trial.taken_over_s <= 10] == []

"""Alarms of commands: an actuator that does not end in what it was told is an alarm "COMMAND-actuator@site/device", by ISA-18.2.

It is raised by a fault of the command stage and stands until a later command of the actuator is confirmed (without feedback: accepted), or
somebody takes the actuator over at its panel. It runs behind the command stage, so the alarm comes in the transaction of the fault.
"""

from rules.alarm import Alarms, Happening
from rules.cohort import Cohort, Rule
from rules.condition import Conditions
from rules.flood import Floods
from telemetry.decision import Decision
from telemetry.plan import Device, Plan
from telemetry.site import COMMAND_ALARM, ActuatorSpec, RuleSpec, Text
from telemetry.span import UNREAD, Read, Span


def actuator_rules(plan: Plan) -> list[Rule]:
    """One for each actuator of each profile of each site; recordings never move."""
    rules: list[Rule] = []
    for group in plan.groups:
        if group.is_active and plan.sites[group.site].origin != "REPLAY":
            cohort = Cohort(group.site, group.profile, group.devices, group.areas, group.number, group.points, place=group.place)
            for actuator in group.profile.actuators:
                rules.append(Rule(group.site, _spec(actuator), cohort, None, actuator=actuator, number=len(rules)))
    return rules


def _spec(actuator: ActuatorSpec) -> RuleSpec:
    label = actuator.label
    return RuleSpec.model_construct(
        id=f"{COMMAND_ALARM}{actuator.name}", when="", priority=actuator.alarm, alarm_class="commands", shelve_max_s=8 * 3600.0,
        message=Text(
            en=f"{label.en or actuator.name} of {{device}} does not do what it is told",
            zh=f"{{device}} 的{label.zh or actuator.name}未按指令动作",
        ),
        consequence=Text(en="It was sent to its safe position, or stays where it is", zh="已改为安全位，或停在原处"),
        action=Text(en="Look at drive, supply and link; work it at the panel meanwhile", zh="检查驱动、电源和通信；其间在现场操作"),
    )  # fmt: skip


class CommandAlarms(Alarms):
    """The stage. Its alarms are acknowledged, shelved and commented like any other. `sabotage` breaks a promise on purpose:
    silent_faults."""

    rank = 80

    def __init__(self, *, sabotage: frozenset[str] = frozenset()) -> None:
        self._sabotage = sabotage
        super().__init__(Conditions())
        self._actuators: list[Rule] = []
        self._bound = lambda: self._actuators
        self._floods = Unflooded()

    def configure(self, plan: Plan) -> None:
        """Take the plan; alarms of actuators that are gone end at the next run."""
        self._actuators = actuator_rules(plan)
        super().configure(plan)

    @staticmethod
    def _is_ours(alarm: str) -> bool:
        return alarm.startswith(COMMAND_ALARM)

    def _from_conditions(self, span: Span) -> list[Happening]:
        """What the command stage decided in this span."""
        found: list[Happening] = []
        failed = {key for key, alarm in self._state.items() if alarm.on}
        for decision in span.decisions:
            if decision.kind not in {"fault", "command", "mode"}:
                continue
            device_key, _, actuator = decision.subject.rpartition("/")
            device = self._plan.device(device_key)
            rule = None if device is None else self._of_actuator(device, actuator)
            if device is None or rule is None:
                continue
            event, key = _event(decision, rule.actuator), (rule.key, device.number)
            if event == "raise" and "silent_faults" not in self._sabotage:
                failed.add(key)
            if event and key in failed:  # nearly every command is confirmed of an actuator that never failed
                found.append(_happening(span, decision, rule, device.number, event))
        return found

    def _of_actuator(self, device: Device, actuator: str) -> Rule | None:
        rules = self._rules.get(f"{device.site}/{COMMAND_ALARM}{actuator}@1", [])
        return next((rule for rule in rules if rule.covers(device.number)), None)


class Unflooded(Floods):
    """Alarms of commands count for no flood of their own: the alarms of an area are counted in one place."""

    def note(self, entry: int, phase: int, time_ns: int, area: str) -> None:
        """Count nothing."""


def _happening(span: Span, decision: Decision, rule: Rule, device: int, event: str) -> Happening:
    body, time_ns = decision.body, decision.time_ns
    value = float(body.get("value", float("nan")))
    read: Read = {f"{body['fault']} {body['id']}": value} if event == "raise" else UNREAD
    return Happening(decision.position - span.entries.first, decision.phase, time_ns, rule, device, event, value, time_ns, read)


def _event(decision: Decision, actuator: ActuatorSpec | None) -> str:
    """What a decision about an actuator means for its alarm; "" nothing."""
    body = decision.body
    if decision.kind == "fault":
        return "raise" if "id" in body else ""
    if decision.kind == "mode":
        return "clear" if body.get("panel", "AUTO") != "AUTO" else ""
    is_unmeasured = actuator is None or actuator.feedback is None or actuator.kind == "pulse"
    is_done = body["state"] == "confirmed" or (body["state"] == "accepted" and is_unmeasured)
    return "clear" if is_done and "late_answer" not in body else ""

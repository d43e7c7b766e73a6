"""Actuators by name "site/device/actuator": their specification and what measures them, under one configuration."""

from telemetry.plan import Plan
from telemetry.site import ActuatorSpec


class Directory:
    """Look-ups over a plan, remembered."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._specs: dict[str, ActuatorSpec | None] = {}
        self._feedback: dict[str, int | None] = {}

    def spec(self, name: str) -> ActuatorSpec | None:
        """The actuator's specification; None when it is gone or its site is a recording, which never moves."""
        if name not in self._specs:
            device_key, _, actuator = name.rpartition("/")
            device = self._plan.device(device_key)
            is_movable = device is not None and device.origin != "REPLAY"
            self._specs[name] = device.actuator(actuator) if device is not None and is_movable else None
        return self._specs[name]

    def feedback_point(self, name: str) -> int | None:
        """Number of the point that measures it; None when nothing does."""
        if name not in self._feedback:
            spec, device = self.spec(name), self._plan.device(name.rpartition("/")[0])
            feedback = None if spec is None else spec.feedback
            self._feedback[name] = None if device is None or feedback is None else device.point(feedback)
        return self._feedback[name]

    def heartbeat_s(self, name: str) -> float:
        """How often its feedback comes when nothing changes; 0 without feedback."""
        number = self.feedback_point(name)
        point = None if number is None else self._plan.point_spec(number)
        return 0.0 if point is None else point.beat_s

    def names(self, device_key: str) -> list[str]:
        """Names of a device's actuators."""
        device = self._plan.device(device_key)
        return [] if device is None else [f"{device_key}/{a.name}" for a in device.profile.actuators]

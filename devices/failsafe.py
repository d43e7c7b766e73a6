"""What happens when a command is not answered, not obeyed or expires: the declared fail-safe, and when to try again.

A pulse never has a fail-safe pulse: doing nothing is the only safe dose.
"""

from typing import Final

from devices.drive import NEVER, Command, Drive
from devices.lifecycle import WAITING
from telemetry.plan import NS_PER_S
from telemetry.site import ActuatorSpec

# After a failure the wanted position is tried again this often, so that a device that recovers without a word is found.
RETRY_NS: Final = 60 * NS_PER_S
FAIL_TO_MOVE_FACTOR: Final = 1.5  # DOMAIN 0.3: FAIL_TO_MOVE after 1.5 x travel time
MARGIN_S: Final = 5.0  # network and ramp beside the travel itself


def fail_safe_value(spec: ActuatorSpec) -> float | None:
    """The position to order after a failure; None: hold, nothing is sent."""
    if spec.kind == "pulse" or spec.fail_safe == "hold":
        return None
    return min(max(float(spec.fail_safe), spec.low), spec.high)


def move_limit_ns(spec: ActuatorSpec, heartbeat_s: float) -> int:
    """How long an accepted command may go unconfirmed. What stands there already, is only told by the next heartbeat, which may come a
    sample late: a scraper that stopped by itself just before it was told to."""
    return int((FAIL_TO_MOVE_FACTOR * spec.travel_s + heartbeat_s + MARGIN_S) * NS_PER_S)


def expiry_ns(spec: ActuatorSpec) -> int:
    """Whole seconds, rounded down, at least one: what MQTT's message expiry can say."""
    return max(1, int(spec.expiry_s)) * NS_PER_S


def deadline_ns(drive: Drive, command: Command, spec: ActuatorSpec, *, heartbeat_s: float, is_reachable: bool) -> int:
    """When the open command has waited long enough; NEVER when nothing limits its wait."""
    if command.state in WAITING:
        return command.asked_ns + expiry_ns(spec) if spec.kind == "pulse" or not is_reachable else NEVER
    if command.state == "sent":
        # Superseding does not stop the clock of a device that has not answered anything.
        since = command.sent_ns if drive.silent_since_ns < 0 else min(drive.silent_since_ns, command.sent_ns)
        return since + expiry_ns(spec)
    limit = move_limit_ns(spec, heartbeat_s)
    return min(command.accepted_ns + limit, drive.unmoved_since_ns + 3 * limit)

"""The live state of the web process: what the journal says now. Follows the journal and decides nothing.

Latest values are columns by point number; alarms, commands and rejects are small dictionaries with bounds. All calls come from the
event loop: one transaction costs some 100 us, so no lock is needed and no reader ever sees half a transaction.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from api import alarm, area, mode
from api.about import rejected_bytes, request_site, split_subject
from api.alarm import NORMAL, Alarm
from api.area import Area
from api.mode import ActuatorMode
from telemetry.calibration import Calibrator
from telemetry.decision import Decision
from telemetry.frame import Derived, Entries, Flag, Frames, Verdict
from telemetry.plan import Device, Plan, PointOwners
from telemetry.quality import REPEATED
from telemetry.record import Clock, Config, Event, Request, Start
from telemetry.site import SiteConfig, parse_site
from telemetry.transaction import Accounting, Transaction

COMMANDS_MAX: Final = 5_000  # newest commands kept; older ones are in history
REJECTS_MAX: Final = 1_000
DECISIONS_MAX: Final = 2_000
REQUESTS_MAX: Final = 5_000
RATE_WINDOW_NS: Final = 10_000_000_000
NEVER: Final = np.iinfo(np.int64).min
COMMAND_ENDS: Final = frozenset({"confirmed", "refused", "expired", "superseded", "lost", "failed_safe"})


@dataclass(slots=True)
class Command:
    """A command to an actuator and how far it came. `steps` is [state, time in ns, reason] for each state it went through."""

    id: str
    site: str
    device: str
    actuator: str
    state: str
    value: float | None
    reason: str
    changed_ns: int
    position: int
    body: dict[str, Any]
    steps: list[tuple[str, int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reject:
    """Something that was received and not stored. `site` is "" when it cannot be told."""

    position: int
    time_ns: int
    site: str
    device: str
    reason: str
    topic: str
    payload: bytes
    body: dict[str, Any]


@dataclass(slots=True)
class RequestState:
    """A request of a person or program and its answer; accepted is None while the core has not answered."""

    id: str
    site: str
    kind: str
    author: str
    time_ns: int
    accepted: bool | None = None
    reason: str = ""
    answer: dict[str, Any] = field(default_factory=dict)  # the whole of it


@dataclass(slots=True)
class Delta:
    """What transactions changed: points by number (unique), devices by number, and whole new states for the live feed."""

    points: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    alarms: list[Alarm] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    requests: list[RequestState] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)
    modes: list[ActuatorMode] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)  # configured anew


def merge(deltas: list[Delta]) -> Delta:
    """All changes as one."""
    merged = Delta(points=np.unique(np.concatenate([d.points for d in deltas])) if deltas else np.zeros(0, np.int64))
    for delta in deltas:
        for name in ("alarms", "commands", "rejects", "requests", "areas", "modes", "sites"):
            getattr(merged, name).extend(getattr(delta, name))
    return merged


@dataclass(frozen=True, slots=True)
class Parsed:
    """A transaction decoded, in a thread, for the event loop to apply."""

    last: int
    epoch: int
    engine_ns: int
    entries: Entries
    verdict: NDArray[np.uint8]
    quality: NDArray[np.uint16]
    derived: Derived
    decisions: list[Decision]
    accounting: Accounting
    configs: dict[str, SiteConfig]  # validated, by SHA-256


def parse(transaction: Transaction) -> Parsed:
    """Decode one transaction; pure, for a thread. Raises CorruptError on bad bytes."""
    admission, entries = transaction.read_admission(), transaction.read_entries()
    texts = {record.sha256: record.text for _, record in entries.records if isinstance(record, Config)}
    return Parsed(
        transaction.last,
        transaction.epoch,
        transaction.engine_ns,
        entries,
        admission.verdict,
        admission.quality,
        admission.derived,
        transaction.read_decisions(),
        transaction.read_accounting() if transaction.accounting else Accounting(),
        {sha256: parse_site(text) for sha256, text in texts.items()},
    )


class LiveState:
    """Everything the live pages show. `position` is the last journal position applied, -1 when none."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.position = -1
        self.epoch = 0
        self.version = ""
        self.engine_ns = 0
        self.heard_ns = 0  # by our own clock: when the core last wrote something new; 0 before that
        self.blind: dict[str, Any] | None = None  # None: the core sees; else the evidence of its blind time
        self.skipped = 0  # journal positions that were trimmed before we read them
        self.accounting = Accounting()
        self.value = np.zeros(0, np.float64)
        self.ts_ns = np.zeros(0, np.int64)
        self.quality = np.zeros(0, np.uint16)
        self.members: dict[int, dict[str, float]] = {}
        self.device_seen_ns = np.zeros(0, np.int64)  # engine time of the last frame that is no duplicate
        self.device_messages = np.zeros(0, np.int64)
        self.device_verdict = np.zeros(0, np.uint8)
        self.device_status: dict[str, str] = {}
        self.alarms: dict[str, Alarm] = {}
        self.shadows: dict[str, Alarm] = {}  # what shadow rules would have raised
        self.shadow_demands: dict[tuple[str, str], float] = {}  # by rule and "site/device/actuator": what they would ask for
        self.modes: dict[str, ActuatorMode] = {}  # "site/device/actuator" of which somebody or a panel spoke
        self.areas: dict[str, Area] = {}  # "site/area" that somebody or a flood spoke of
        self.commands: OrderedDict[str, Command] = OrderedDict()
        self.actuators: dict[str, str] = {}  # "site/device/actuator" -> id of its newest command
        self.rejects: deque[Reject] = deque(maxlen=REJECTS_MAX)
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_MAX)
        self.requests: OrderedDict[str, RequestState] = OrderedDict()
        self._received: deque[tuple[int, int]] = deque()
        self._indices: dict[str, _SiteIndex] = {}

    def has_value(self, point: int) -> bool:
        """True when the point has had a sample."""
        return point < len(self.ts_ns) and int(self.ts_ns[point]) != NEVER

    def seen_ns(self, device: Device) -> int:
        """Engine time of the device's last frame; NEVER before the first."""
        return int(self.device_seen_ns[device.number]) if device.number < len(self.device_seen_ns) else NEVER

    def is_silent(self, device: Device) -> bool:
        """True when it has sent nothing for three of its longest heartbeats (at least 10 s), or never."""
        seen_ns = self.seen_ns(device)
        return seen_ns == NEVER or self.engine_ns - seen_ns > device.profile.lateness() * 1e9

    def silent_count(self, site: str) -> int:
        """How many active devices of a site are silent."""
        devices = self._index(site).devices
        seen_ns = self.device_seen_ns[devices]
        late = self.engine_ns - np.maximum(seen_ns, 0) > self._index(site).lateness_ns
        return int(np.count_nonzero((seen_ns == NEVER) | late))

    def active_devices(self, site: str) -> NDArray[np.int64]:
        """Numbers of a site's active devices, in order."""
        return self._index(site).devices

    def active_points(self, site: str) -> NDArray[np.int64]:
        """Numbers of a site's active points, in order."""
        return self._index(site).points

    def _index(self, site: str) -> "_SiteIndex":
        """Numbers of a site, computed once a configuration: a page of a list must not cost a walk over 100,000 points."""
        found = self._indices.get(site)
        if found is None:
            active = [d for d in self.plan.devices if d.site == site and d.number in self.plan.active]
            lateness_ns = {id(d.profile): d.profile.lateness() * 1e9 for d in active}
            found = _SiteIndex(
                np.array([d.number for d in active], np.int64),
                np.sort(np.array([number for d in active for number in d.points], np.int64)),
                np.array([lateness_ns[id(d.profile)] for d in active], np.float64),
            )
            self._indices[site] = found
        return found

    def silent_ms(self, now_ns: int) -> int:
        """How long the core has written nothing new, by our own clock: its engine time may differ from our wall clock."""
        return max(0, now_ns - self.heard_ns) // 1_000_000

    def messages_per_s(self) -> float:
        """Messages received per second of engine time over the last 10 s; 0 before there are two readings."""
        if len(self._received) < 2:
            return 0.0
        (start_ns, start), (end_ns, end) = self._received[0], self._received[-1]
        return (end - start) * 1e9 / (end_ns - start_ns) if end_ns > start_ns else 0.0

    def apply(self, parsed: Parsed) -> Delta:
        """Take one transaction, in journal order; says what changed."""
        delta = Delta()
        calibrator = Calibrator(parsed.entries.frames)
        for index, record in parsed.entries.records:
            if isinstance(record, Config):
                calibrator.until(index, self.plan)
            self._record(record, parsed, index, delta)
        calibrator.until(len(parsed.entries), self.plan)
        self._grow()
        delta.points = np.union1d(self._samples(parsed, calibrator.frames), self._derived(parsed.derived))
        for decision in parsed.decisions:
            self._decision(decision, delta)
        self.position, self.epoch, self.engine_ns = parsed.last, parsed.epoch, parsed.engine_ns
        self.accounting = parsed.accounting
        self._count_rate(parsed)
        return delta

    def _count_rate(self, parsed: Parsed) -> None:
        """One reading a tenth of a second is enough for the rate."""
        if self._received and parsed.engine_ns - self._received[-1][0] < RATE_WINDOW_NS // 100:
            return
        self._received.append((parsed.engine_ns, parsed.accounting.received))
        while self._received[0][0] < parsed.engine_ns - RATE_WINDOW_NS:
            self._received.popleft()

    def _grow(self) -> None:
        """Make room for numbers given since the last transaction; doubles, so that growing stays cheap."""
        points, devices = len(self.plan.point_owner), len(self.plan.devices)
        if points > len(self.value):
            more = max(points, 2 * len(self.value)) - len(self.value)
            self.value = np.concatenate([self.value, np.full(more, np.nan)])
            self.ts_ns = np.concatenate([self.ts_ns, np.full(more, NEVER)])
            self.quality = np.concatenate([self.quality, np.zeros(more, np.uint16)])
        if devices > len(self.device_seen_ns):
            more = max(devices, 2 * len(self.device_seen_ns)) - len(self.device_seen_ns)
            self.device_seen_ns = np.concatenate([self.device_seen_ns, np.full(more, NEVER)])
            self.device_messages = np.concatenate([self.device_messages, np.zeros(more, np.int64)])
            self.device_verdict = np.concatenate([self.device_verdict, np.zeros(more, np.uint8)])

    def _derived(self, derived: Derived) -> NDArray[np.int64]:
        """What virtual points said; those of one point come in order of time."""
        points = derived.point
        self.value[points], self.ts_ns[points], self.quality[points] = derived.value, derived.ts_ns, derived.quality
        return points.astype(np.int64)

    def _samples(self, parsed: Parsed, frames: Frames) -> NDArray[np.int64]:
        """Move latest values forward; returns the points that moved. A frame of the future never becomes the latest value."""
        verdict = parsed.verdict
        if not len(frames):
            return np.zeros(0, np.int64)
        stored = verdict != Verdict.DUPLICATE
        devices = frames.device[stored]
        np.add.at(self.device_messages, frames.device[stored & ((frames.flags & Flag.FIRST) != 0)], 1)
        self.device_seen_ns[devices] = parsed.entries.time_ns[frames.entry[stored]]
        self.device_verdict[devices] = verdict[stored]
        usable = stored & (verdict != Verdict.FUTURE)
        owner = frames.frame_of_sample
        ts_ns = frames.ts_ns[owner]
        is_new = (parsed.quality & REPEATED) == 0
        newer = np.flatnonzero(usable[owner] & is_new & (ts_ns >= self.ts_ns[frames.point]))
        # Assignment keeps the last of equal points, so the newest must come last; a batch is nearly always in order already.
        if len(newer) > 1 and np.any(np.diff(ts_ns[newer]) < 0):
            newer = newer[np.argsort(ts_ns[newer], kind="stable")]
        points = frames.point[newer]
        self.value[points] = frames.value[newer]
        self.ts_ns[points] = ts_ns[newer]
        self.quality[points] = parsed.quality[newer]
        changed = points.astype(np.int64)
        if frames.arrays:
            changed = np.concatenate([changed, self._member_arrays(parsed, usable)])
        return np.unique(changed)

    def _member_arrays(self, parsed: Parsed, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """A point with members shows as their mean, with count, min and max beside."""
        frames, moved = parsed.entries.frames, []
        for array in frames.arrays:
            ts_ns = int(frames.ts_ns[array.frame])
            if not usable[array.frame] or ts_ns < self.ts_ns[array.point]:
                continue
            values = np.asarray(array.values, np.float64)
            values = values[np.isfinite(values)]
            mean = float(values.mean()) if len(values) else float("nan")
            self.members[array.point] = {
                "count": float(len(values)),
                "min": float(values.min()) if len(values) else float("nan"),
                "max": float(values.max()) if len(values) else float("nan"),
            }
            self.value[array.point], self.ts_ns[array.point] = mean, ts_ns
            moved.append(array.point)
        return np.array(moved, np.int64)

    def _record(self, record: Any, parsed: Parsed, index: int, delta: Delta) -> None:
        time_ns = int(parsed.entries.time_ns[index])
        match record:
            case Config():
                self.plan.apply(parsed.configs[record.sha256])
                self._indices.pop(record.site, None)
                self._end_shadows(parsed.configs[record.sha256])
                delta.sites.append(record.site)
            case Event(name="reject"):
                self._reject(record, parsed.entries.first + index, time_ns, delta)
            case Event(name="birth" | "offline" as name, device=device):
                self.device_status[device] = name
            case Request():
                self._request(record, time_ns, delta)
            case Start():
                self.version = record.version
            case Clock():
                pass  # engine time does not move with the wall; shown from decisions

    def _reject(self, event: Event, position: int, time_ns: int, delta: Delta) -> None:
        body = event.body
        topic = str(body.get("topic", ""))
        site, _, device = event.device.partition("/")
        if not site:
            parts = topic.split("/")
            site, device = (parts[1], parts[2]) if len(parts) >= 3 and parts[1] in self.plan.sites else ("", "")
        raw = rejected_bytes(body.get("payload", ""))
        rest = {k: v for k, v in body.items() if k not in ("topic", "payload", "reason")}
        reject = Reject(position, time_ns, site, device, str(body.get("reason", "")), topic, raw, rest)
        self.rejects.append(reject)
        delta.rejects.append(reject)

    def _request(self, request: Request, time_ns: int, delta: Delta) -> None:
        state = RequestState(request.id, request_site(request), request.kind, request.author, time_ns)
        self.requests[request.id] = state
        delta.requests.append(state)
        while len(self.requests) > REQUESTS_MAX:
            self.requests.popitem(last=False)

    def _decision(self, decision: Decision, delta: Delta) -> None:
        self.decisions.append(decision)
        match decision.kind:
            case "alarm":
                delta.alarms.append(self._alarm(decision, self.alarms))
            case "shadow":
                self._alarm(decision, self.shadows)
            case "shadow_demand":
                self._shadow_demand(decision)
            case "area" | "flood":
                found = self.areas[decision.subject] = area.following(self.areas.get(decision.subject), decision)
                delta.areas.append(found)
            case "mode":
                known = self.modes[decision.subject] = mode.following(self.modes.get(decision.subject), decision)
                delta.modes.append(known)
            case "command":
                delta.commands.append(self._command(decision))
            case "answer":
                request = self.requests.get(decision.subject)
                if request is not None:
                    request.accepted = bool(decision.body.get("accepted"))
                    request.reason = str(decision.body.get("reason", ""))
                    request.answer = request.answer | decision.body
                    delta.requests.append(request)
            case "blind":
                self.blind = decision.body if decision.body.get("blind") else None

    def _alarm(self, decision: Decision, standing: dict[str, Alarm]) -> Alarm:
        """Walk one alarm among those that stand; what a shadow rule would have raised stands apart."""
        found = alarm.following(standing.get(decision.subject), decision)
        if found.state == NORMAL:
            standing.pop(decision.subject, None)
        else:
            standing[decision.subject] = found
        return found

    def _shadow_demand(self, decision: Decision) -> None:
        key, value = (str(decision.body.get("rule", "")), decision.subject), decision.body.get("value")
        if value is None:
            self.shadow_demands.pop(key, None)
        else:
            self.shadow_demands[key] = float(value)

    def _end_shadows(self, config: SiteConfig) -> None:
        """A rule that is no shadow any more, or gone, says nothing to its end."""
        site, shadows = config.site, {rule.id for rule in config.rules if rule.shadow and rule.enabled}
        self.shadows = {key: a for key, a in self.shadows.items() if a.site != site or a.rule in shadows}
        self.shadow_demands = {
            (rule, actuator): value
            for (rule, actuator), value in self.shadow_demands.items()
            if actuator.partition("/")[0] != site or rule in shadows
        }

    def _command(self, decision: Decision) -> Command:
        site, device, actuator = split_subject(decision)
        body = decision.body
        command_id = str(body.get("id") or f"{decision.subject}#{decision.position}")
        command = self.commands.get(command_id)
        state, reason = str(body.get("state", "")), str(body.get("reason", ""))
        if command is None:
            command = Command(command_id, site, device, actuator, state, None, reason, 0, 0, {})
            self.commands[command_id] = command
            while len(self.commands) > COMMANDS_MAX:
                self.commands.popitem(last=False)
            self.actuators[decision.subject] = command_id
        command.state, command.reason = state, reason or command.reason
        command.value = body["value"] if body.get("value") is not None else command.value
        command.changed_ns, command.position = decision.time_ns, decision.position
        command.body = {**command.body, **body}
        if "late_answer" not in body:  # it is recorded, but moves nothing
            command.steps.append((state, decision.time_ns, reason))
        return command

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """State for a file, as of now: what it returns builds it, in a thread, since names of 100,000 points take 100 ms.

        Nested dictionaries, texts and arrays; by number, together with the plan that gave the numbers.
        """
        points, devices = len(self.plan.point_owner), len(self.plan.devices)
        small = {
            "alarms": list(self.alarms.values()),
            "commands": list(self.commands.values()),
            "rejects": list(self.rejects),
            "decisions": list(self.decisions),
            "requests": list(self.requests.values()),
            "accounting": self.accounting,
            "blind": self.blind,
            "members": list(self.members.items()),
            "shadows": list(self.shadows.values()),
            "shadow_demands": [(*key, value) for key, value in self.shadow_demands.items()],
            "areas": list(self.areas.values()),
            "modes": list(self.modes.values()),
        }
        plan = Plan(sites=dict(self.plan.sites), devices=list(self.plan.devices), point_owner=PointOwners(self.plan.point_owner))
        saved = {
            "epoch": self.epoch,
            "version": self.version,
            "engine_ns": self.engine_ns,
            "skipped": self.skipped,
            "status": dict(self.device_status),
            "small": msgspec.msgpack.encode(small),
            "value": self.value[:points].copy(),
            "ts_ns": self.ts_ns[:points].copy(),
            "quality": self.quality[:points].copy(),
            "device_seen_ns": self.device_seen_ns[:devices].copy(),
            "device_messages": self.device_messages[:devices].copy(),
            "device_verdict": self.device_verdict[:devices].copy(),
        }
        return lambda: {**saved, "plan": plan.snapshot()}

    def restore(self, position: int, saved: dict[str, Any]) -> None:
        """Take a snapshot made at `position`."""
        small = msgspec.msgpack.decode(saved["small"], type=_Small)
        self.plan, self.position = Plan.from_snapshot(saved["plan"]), position
        self.epoch, self.version, self.engine_ns, self.skipped = (
            saved["epoch"],
            saved["version"],
            saved["engine_ns"],
            saved["skipped"],
        )
        self.device_status = dict(saved["status"])
        for name in ("value", "ts_ns", "quality", "device_seen_ns", "device_messages", "device_verdict"):
            setattr(self, name, np.array(saved[name]))
        self.alarms = {a.subject: a for a in small.alarms}
        self.commands = OrderedDict((c.id, c) for c in small.commands)
        self.actuators = {f"{c.site}/{c.device}/{c.actuator}": c.id for c in small.commands}
        self.rejects.extend(small.rejects)
        self.decisions.extend(small.decisions)
        self.requests = OrderedDict((r.id, r) for r in small.requests)
        self.shadows = {a.subject: a for a in small.shadows}
        self.shadow_demands = {(rule, actuator): value for rule, actuator, value in small.shadow_demands}
        self.modes = {m.key: m for m in small.modes}
        self.areas = {f"{a.site}/{a.name}": a for a in small.areas}
        self.accounting, self.members, self.blind = small.accounting, dict(small.members), small.blind


class _SiteIndex(NamedTuple):
    """Active devices and points of a site, ascending; lateness_ns (devices,)."""

    devices: NDArray[np.int64]
    points: NDArray[np.int64]
    lateness_ns: NDArray[np.float64]


class _Small(msgspec.Struct):
    alarms: list[Alarm]
    commands: list[Command]
    rejects: list[Reject]
    decisions: list[Decision]
    requests: list[RequestState]
    accounting: Accounting
    blind: dict[str, Any] | None
    members: list[tuple[int, dict[str, float]]]
    shadows: list[Alarm] = []
    shadow_demands: list[tuple[str, str, float]] = []
    areas: list[Area] = []
    modes: list[ActuatorMode] = []

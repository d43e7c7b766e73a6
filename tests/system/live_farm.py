"""A farm with a house of every kind, live: Mosquitto, core and simulated devices as processes, and what the journal says of it."""

import asyncio
import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import yaml

from app.demo import clock_told
from app.faults import order_fault
from app.settings import Settings
from app.site_files import SHIPPED, load_site
from simulators.fleet import at_speed
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Config, Request
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.disk import small_disk
from tests.faults.process import Process, wait_until
from tests.system.core_process import ROOT, CoreProcess

SAMPLE_PLANT_S: Final = 10.0
HEARTBEAT_S: Final = 2.0  # of the wall: what does not move confirms a command so late
HOUSES: Final = {"nursery": {"weather-1", "climate-1", "germ-1", "sun-1"}, "pig-farm": {"pigs-1", "pigs-2", "pigs-3"}}
DISK_MB: Final = 192


def write_site(directory: Path) -> Path:
    """The demo's houses of every kind as one site "farm"."""
    documents = {name: yaml.safe_load((ROOT / "sites" / name / "site.yaml").read_text("utf-8")) for name in HOUSES}
    devices = [device for name, document in documents.items() for device in document["devices"] if device["name"] in HOUSES[name]]
    areas = {area["name"]: area for document in documents.values() for area in document["areas"]}
    profiles = sorted({device["profile"] for device in devices})
    placed = [areas[name] for name in dict.fromkeys(device["area"] for device in devices)]
    site = documents["nursery"] | {"site": "farm", "profiles": profiles, "devices": devices, "areas": placed}
    (directory / "profiles").mkdir(parents=True)
    (directory / "site.yaml").write_text(yaml.safe_dump(site), "utf-8")
    for name in profiles:
        profile = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text("utf-8"))
        for point in profile["points"]:
            point["heartbeat_s"] = min(point["heartbeat_s"], HEARTBEAT_S)
        (directory / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(profile), "utf-8")
    return directory


def without_rules(site: SiteConfig) -> SiteConfig:
    """The same site with nothing that watches it."""
    return site.model_copy(update={"profiles": {n: p.model_copy(update={"rules": []}) for n, p in site.profiles.items()}})


class LiveFarm:
    """The running farm. Times are wall times [ns]; its plants live `speed` times as fast."""

    def __init__(self, directory: Path, broker: RealBroker, core: CoreProcess, *, speed: float) -> None:
        self.broker, self.core, self.speed = broker, core, speed
        self.faults: dict[tuple[str, str], int] = {}  # (device, fault) -> when it was ordered
        self.decisions: list[Decision] = []
        self._samples: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._plan, self._after, self._asked = Plan(), -1, 0
        words = ["simulate", str(directory), "--speed", str(speed), "--sample-s", str(round(SAMPLE_PLANT_S / speed, 3))]
        self.fleet = Process([sys.executable, "-m", "app.cli", *words], log=core.directory / "fleet.log", env=core.env, cwd=ROOT)
        self._settings = Settings(data_dir=core.data, mqtt_host=broker.host, mqtt_port=broker.port)

    # -- what is done to it --------------------------------------------------------------------------------------------------

    def fail(self, where: str, fault: str, *, strength: float | None = None, for_s: float | None = None) -> None:
        """As `fieldloom fault` does."""
        self.faults.setdefault((where.split("/", maxsplit=1)[0], fault), time.time_ns())
        asyncio.run(order_fault(self._settings, f"farm/{where}", fault, strength=strength, for_s=for_s, passwords=None))

    def override(self, actuator: str, value: float) -> None:
        """Somebody sets it by hand for longer than the test lasts."""
        self._asked += 1
        body = {"actuator": f"farm/{actuator}", "value": value, "seconds": 3600, "reason": "inspection"}
        self.core.ask(Request(f"hand-{self._asked}", "override", "ann", body))

    # -- what the journal says -----------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take what is new in the journal; a sample that came twice counts once."""
        for transaction in self.core.transactions(self._after):
            entries = transaction.read_entries()
            for _, record in entries.records:
                if isinstance(record, Config):
                    self._plan.apply(SiteConfig.model_validate_json(record.text))
            frames = entries.frames
            times = frames.ts_ns[frames.frame_of_sample].tolist()
            for point, value, ts_ns in zip(frames.point.tolist(), frames.value.tolist(), times, strict=True):
                self._samples[self._plan.point_name(point)].append((ts_ns, value))
            self.decisions += transaction.read_decisions()
            self._after = transaction.last

    def measured(self, point: str, *, from_ns: int = 0, to_ns: int = 1 << 62) -> np.ndarray:
        """Values of "device/point" with device times between the two, in their order."""
        self.read()
        return np.array([value for ts_ns, value in sorted(set(self._samples[f"farm/{point}"])) if from_ns <= ts_ns < to_ns])

    def newest(self, point: str, *, from_ns: int = 0) -> float:
        """The newest value of "device/point" since then; NaN when there is none."""
        values = self.measured(point, from_ns=from_ns)
        return float(values[-1]) if len(values) else float("nan")

    def raised(self, alarm: str) -> list[int]:
        """When "RULE@device" was raised."""
        self.read()
        rule, device = alarm.split("@")
        subject = f"{rule}@farm/{device}"
        return [d.time_ns for d in self.decisions if d.kind == "alarm" and d.subject == subject and d.body.get("event") == "raise"]

    def standing(self) -> set[str]:
        """Alarms that are not normal."""
        self.read()
        states = {d.subject: str(d.body["to"]) for d in self.decisions if d.kind == "alarm" and d.body.get("event") != "comment"}
        return {subject for subject, state in states.items() if state in {"UNACK", "ACKED"}}

    # -- waiting -------------------------------------------------------------------------------------------------------------

    def plant_s(self, since_ns: int, to_ns: int | None = None) -> float:
        """How long the plants lived since then, up to now without `to_ns`."""
        return ((time.time_ns() if to_ns is None else to_ns) - since_ns) / NS_PER_S * self.speed

    def wait_plant(self, since_ns: int, seconds: float) -> None:
        """Until the plants have lived so long since then."""
        wait_until(lambda: self.plant_s(since_ns) >= seconds, deadline_s=seconds, what=f"{seconds} s of the plants")

    def alarm_within(self, alarm: str, fault: str, seconds: float) -> None:
        """The alarm comes within so many seconds of the plants after the fault of its device was ordered, and not before."""
        ordered = self.faults[alarm.split("@")[1], fault]
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self.raised(alarm) != [], deadline_s=2 * seconds / self.speed + 2.0, what=alarm)
        assert self.raised(alarm) != [], (alarm, self.standing())
        after_s = self.plant_s(ordered, self.raised(alarm)[0])
        assert 0.0 <= after_s <= seconds, (alarm, after_s)

    def reaches(self, point: str, low: float, high: float, *, within_s: float, from_ns: int = 0) -> None:
        """The newest measured value of "device/point" since then comes between two others within so many seconds of the wall."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: low <= self.newest(point, from_ns=from_ns) <= high, deadline_s=within_s, what=point)
        assert low <= self.newest(point, from_ns=from_ns) <= high, (point, self.newest(point), self.standing())


@contextlib.contextmanager
def live_farm(directory: Path, *, speed: float, watched: bool = True) -> Iterator[LiveFarm]:
    """The farm while the block runs, all its devices heard. `watched` False: without its rules."""
    site_place = write_site(directory / "site")
    with contextlib.ExitStack() as stack:
        data = directory / "core" / "data"
        with contextlib.suppress(pytest.skip.Exception):  # who may not mount, has no small disk to fill
            stack.enter_context(small_disk(data, DISK_MB))
        (data / "run").mkdir(parents=True, exist_ok=True)
        clock = stack.enter_context(clock_told(data, speed))
        site = load_site(site_place)
        told = at_speed(site if watched else without_rules(site), speed, clock)
        broker = stack.enter_context(RealBroker(directory / "broker"))
        core = stack.enter_context(CoreProcess(directory / "core", broker))
        core.configure(told).start().wait_configured("farm")
        farm = LiveFarm(site_place, broker, core, speed=speed)
        stack.enter_context(farm.fleet)
        names = [name for device in site.devices for name in device.names()]
        points = [f"{name}/{site.profiles[d.profile].points[0].name}" for d in site.devices for name in d.names()]
        wait_until(lambda: all(len(farm.measured(point)) for point in points), what=f"samples of {names}")
        yield farm


def is_small_disk(data: Path) -> bool:
    """Whether a file system of its own can be filled there."""
    return data.is_mount()

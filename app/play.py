"""`fieldloom play`: a recording of others becomes an MQTT device, and the service is asked what it stored.

`--at original` keeps the data's times. Rows go out without boot and seq: a recording has no deliveries to number, and so (point,
ts) in history decides what is new; playing twice changes nothing. Nothing is believed: what was stored is read back and compared.
`--at now` lets the recording begin now in a simulated site of its own, `speed` times faster, for the live lane to decide on.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import aiomqtt
import numpy as np

from app.documents import Document, Reading
from app.lanes import LaneResult, write_lane
from app.playable import now_site
from app.recorded import NS_PER_MS, Api, Trace, lane_columns, make_trace, read_device, wait_for_history
from app.serving import device_passwords
from app.settings import Settings
from app.site_files import load_site
from app.tables import slow_progress
from app.wiring import build_engine
from ingest.mapping import ROWS_PER_MESSAGE, Mapping, Report, Row, read_rows
from rules.lane import run_lane
from simulators.fleet import at_speed, retrieve_disconnection
from store.journal_reader import JournalReader
from store.uniqueness import same_value
from telemetry import quality, topic
from telemetry.decision import Decision
from telemetry.errors import CallerError, ConfigError, EnvironmentFault
from telemetry.record import Event
from telemetry.site import DeviceSpec, Profile, SiteConfig
from telemetry.transaction import Transaction
from telemetry.wire import message as wire

PATIENCE_S: Final = 30.0  # without any progress of the service
SPEED: Final = 300.0  # five-minute data at one row a second
FILE_BYTES_MAX: Final = 1 << 30
POLL_S: Final = 0.05
ROWS_PER_STEP: Final = 1_000  # of the progress bar
MS: Final = 1_000  # in a second
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Recording:
    """A file, read: rows in file order, and the site and device they are played as."""

    site: SiteConfig
    device: DeviceSpec
    name: str  # of the device; a line of the site may stand for several
    points: list[str]
    rows: list[Row]
    report: Report

    @property
    def key(self) -> str:
        """ "site/device"."""
        return f"{self.site.site}/{self.name}"

    @property
    def range_ms(self) -> tuple[int, int]:
        """From the first time to behind the last one."""
        times = [row.ts_ms for row in self.rows]
        return min(times), max(times) + 1

    def traces(self) -> dict[str, Trace]:
        """Samples by point in time order; of a time that stands twice the first row comes first."""
        made: dict[str, tuple[list[int], list[float]]] = {point: ([], []) for point in self.points}
        for row in sorted(self.rows, key=lambda row: row.ts_ms):  # stable
            for point, value in row.values.items():
                made[point][0].append(row.ts_ms)
                made[point][1].append(value)
        return {point: make_trace(*columns) for point, columns in made.items()}


def load_recording(file: Path, mapping_file: Path, device: str | None) -> Recording:
    """The recording, checked against mapping and site. Raises CallerError or ConfigError with what to change."""
    document, mapping = load_mapping(mapping_file)
    directory = mapping_file.resolve().parent.parent  # site/mappings/x.yaml
    if not (directory / "site.yaml").is_file():
        raise CallerError(f"{mapping_file} must lie in the `mappings` folder of its site; there is no {directory / 'site.yaml'}")
    site = load_site(directory)
    if site.site != mapping.site:
        raise CallerError(f"{mapping_file} is for site {mapping.site!r}, but lies in the directory of {site.site!r}")
    name = device or mapping.device
    spec = next((spec for spec in site.devices if name in spec.names()), None)
    if spec is None:
        known = ", ".join(n for spec in site.devices for n in spec.names())
        raise CallerError(f"site {site.site!r} has no device {name!r}; it has {known}")
    points = check_points(document, mapping, site.profiles[spec.profile])
    if file.stat().st_size > FILE_BYTES_MAX:
        raise CallerError(f"{file} is larger than {FILE_BYTES_MAX >> 30} GiB; cut it into parts, they may be played one by one")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CallerError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    report, rows = Report(), []
    with slow_progress(f"reading {file.name}", text.count("\n")) as advance:
        for row in read_rows(text, mapping, report):
            rows.append(row)
            if not len(rows) % ROWS_PER_STEP:
                advance(report.rows)
    return Recording(site, spec, name, points, rows, report)


def check_points(document: Document, mapping: Mapping, profile: Profile) -> list[str]:
    """The points that the columns mean, in the file's order. Raises ConfigError when the profile lacks one or one stands twice."""
    reading, seen = Reading(), set[str]()
    known = [point.name for point in profile.points if point.is_measured]
    for label, column in mapping.columns.items():
        point = column if isinstance(column, str) else column.point
        if point not in known:
            near = get_close_matches(point, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
            reading.note(document, ("columns", label), f"profile {profile.name!r} has no point {point!r}{meant}")
        elif point in seen:
            reading.note(document, ("columns", label), f"point {point!r} is mapped twice")
        seen.add(point)
    if reading.problems:
        raise ConfigError(reading.problems)
    return [column if isinstance(column, str) else column.point for column in mapping.columns.values()]


def load_mapping(file: Path) -> tuple[Document, Mapping]:
    """A mapping file. Raises ConfigError with every mistake and its line."""
    reading = Reading()
    document = reading.load(file)
    mapping = None
    if document is not None and not isinstance(document.value, dict):
        reading.note(document, (), "expected a mapping file with site, device, time and columns (docs/recordings.md)")
    elif document is not None:
        mapping = reading.validate(document, Mapping, document.value)
    if document is None or mapping is None:
        raise ConfigError(sorted(reading.problems, key=lambda problem: problem.line))
    return document, mapping


# -- the way in ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """Where a played device connects, and its password."""

    host: str
    port: int
    username: str
    password: str | None
    tls: Any = None


def broker_login(settings: Settings, key: str, passwords: Path | None = None) -> BrokerLogin:
    """As simulated devices log in: user and client "site/device". Raises CallerError when our own broker does not know it."""
    password = device_passwords(settings, passwords)(key)
    if settings.mqtt_host:
        return BrokerLogin(settings.mqtt_host, settings.mqtt_port, key, password, settings.mqtt_tls_context())
    config = settings.data_dir / "broker" / "mosquitto.conf"
    if not config.is_file():
        raise CallerError("no broker to play to; set FIELDLOOM_MQTT_HOST and FIELDLOOM_MQTT_PORT, or start `fieldloom demo`")
    if password is None:
        raise CallerError(f"the broker of {settings.data_dir} has no password for {key!r}; set FIELDLOOM_MQTT_HOST to one that has")
    port = next(int(line.split()[1]) for line in config.read_text("utf-8").splitlines() if line.startswith("listener "))
    return BrokerLogin("127.0.0.1", port, key, password)


def make_client(login: BrokerLogin) -> aiomqtt.Client:
    """A client for one device."""
    return aiomqtt.Client(
        login.host,
        login.port,
        username=login.username,
        password=login.password,
        identifier=login.username,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        tls_context=login.tls,
        timeout=PATIENCE_S,
    )


@contextlib.asynccontextmanager
async def connected(login: BrokerLogin) -> Any:
    """A connected client; a lost or refusing broker becomes one sentence."""
    client = make_client(login)
    try:
        async with client:
            try:
                yield client
            finally:
                retrieve_disconnection(client)
    except (aiomqtt.MqttError, OSError) as error:
        raise EnvironmentFault(
            f"the broker at {login.host}:{login.port} refused or left {login.username!r} ({error}); "
            "check FIELDLOOM_MQTT_HOST, FIELDLOOM_MQTT_PORT and --passwords, then play again: what is stored stays"
        ) from error


def row_messages(rows: Sequence[Row]) -> list[bytes]:
    """Payloads of ROWS_PER_MESSAGE rows each, without boot and seq."""
    groups = (rows[k : k + ROWS_PER_MESSAGE] for k in range(0, len(rows), ROWS_PER_MESSAGE))
    return [wire.encode(wire.Message(rows=[wire.Row(p=dict(row.values), ts=row.ts_ms) for row in group])) for group in groups]


async def publish_rows(recording: Recording, login: BrokerLogin, sabotage: frozenset[str]) -> None:
    """All rows at QoS 1, each message after the one before was taken by the broker."""
    where = topic.topic(recording.site.site, recording.name, "telemetry")
    payloads = row_messages(recording.rows[:-1] if "drop_row" in sabotage else recording.rows)
    async with connected(login) as client:
        with slow_progress(f"playing {recording.key}", len(payloads)) as advance:
            for done, payload in enumerate(payloads, start=1):
                await client.publish(where, payload, qos=1)
                advance(done)


# -- what the service made of it -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What the journal says about a device since the play began."""

    samples: int = 0
    marked: Counter[str] = field(default_factory=Counter)  # stored, with a doubt
    rejected: Counter[str] = field(default_factory=Counter)  # samples by reason
    alarms: list[Decision] = field(default_factory=list)
    position: int = -1

    @property
    def seen(self) -> int:
        """Samples whose fate is known."""
        return self.samples + sum(self.rejected.values())

    def take(self, transaction: Transaction, key: str, numbers: Sequence[int]) -> None:
        """Count one transaction."""
        entries, admission = transaction.read_entries(), transaction.read_admission()
        own = np.isin(entries.frames.point, numbers)
        found = int(own.sum())
        if found:
            self.samples += found
            marks = admission.quality[own]
            for bit, name in quality.REASON_NAMES.items():
                self.marked[name] += int(((marks & bit) != 0).sum())
            self.position = transaction.last
        for _, record in entries.records:
            if isinstance(record, Event) and record.name == "reject" and record.device == key:
                self.rejected[str(record.body.get("reason"))] += int(record.body.get("samples", 0))
                self.position = transaction.last
        self.alarms += [d for d in transaction.read_decisions() if d.kind == "alarm" and d.subject.endswith(f"@{key}")]


def check_local(settings: Settings) -> None:
    """The journal is the witness of what core took. Raises CallerError when it is not here."""
    if not (settings.data_dir / "journal").is_dir():
        raise CallerError(f"there is no journal in {settings.data_dir}; set FIELDLOOM_DATA_DIR to the service's, on its machine")


def last_position(settings: Settings) -> int:
    """Of the journal; -1 when it is empty."""
    with contextlib.closing(JournalReader(settings.data_dir / "journal")) as reader:
        last = reader.last()
    return -1 if last is None else last.last


def follow(settings: Settings, key: str, numbers: Sequence[int], *, after: int, samples: int) -> Tally:
    """Read the journal until it accounts for `samples`. Raises EnvironmentFault when it gets nothing new for PATIENCE_S."""
    tally, since = Tally(), time.monotonic()
    with contextlib.closing(JournalReader(settings.data_dir / "journal")) as reader, slow_progress("journaled", samples) as advance:
        while tally.seen < samples:
            before = tally.seen
            for transaction in reader.read(after, rows_max=50_000):
                tally.take(transaction, key, numbers)
                after = transaction.last
            if tally.seen > before:
                since = time.monotonic()
                advance(tally.seen)
            elif time.monotonic() - since > PATIENCE_S:
                raise EnvironmentFault(
                    f"core took {tally.seen:,} of {samples:,} samples and no more for {PATIENCE_S:.0f} s; does it run, and may "
                    "this device publish? see `fieldloom status`; what is stored stays, play again"
                )
            else:
                time.sleep(POLL_S)
    return tally


@dataclass(slots=True)
class Fates:
    """What became of every sample: samples = added + repeated + changed + lost + rejected."""

    added: int = 0
    repeated: int = 0  # was there already, with the same value
    changed: int = 0  # another value was there; the first one stays
    lost: int = 0  # neither stored nor rejected: must be 0
    rejected: int = 0

    def compare(self, given: Trace, before: Trace, after: Trace) -> None:
        """Book one point's samples by what history held before and holds now."""
        first = np.ones(len(given.ts_ms), np.bool_)
        first[1:] = given.ts_ms[1:] != given.ts_ms[:-1]
        at = np.searchsorted(after.ts_ms, given.ts_ms)
        inside = at < len(after.ts_ms)
        stored = np.zeros(len(first), np.bool_)
        stored[inside] = after.ts_ms[at[inside]] == given.ts_ms[inside]
        same = np.zeros(len(first), np.bool_)
        same[stored] = same_value(after.value[at[stored]], given.value[stored])
        new = first & ~np.isin(given.ts_ms, before.ts_ms)
        self.added += int((stored & same & new).sum())
        self.repeated += int((stored & same & ~new).sum())
        self.changed += int((stored & ~same).sum())
        self.lost += int((~stored).sum())


def put_in_force(api: Api, site: SiteConfig) -> bool:
    """Apply the site through the API when the one in force is another; True when it was."""
    with contextlib.suppress(CallerError):  # 404: not there yet
        if api.get(f"/sites/{site.site}/config")["sha256"] == site.sha256():
            return False
    client = api.client()
    client.post(f"/sites/{site.site}/config", site.model_dump(mode="json"))
    client.wait_in_force(site.site, site.sha256())
    return True


def point_numbers(api: Api, recording: Recording) -> list[int]:
    """The core's numbers of the device's points."""
    found = api.get(f"/sites/{recording.site.site}/points", device=recording.name, limit=1000)
    return [int(item["number"]) for item in found["items"]]


def read_back(api: Api, site: SiteConfig, device: str, points: list[str], range_ms: tuple[int, int]) -> dict[str, Trace]:
    """A device's samples as history has them."""
    with slow_progress(f"reading {device} back", len(points)) as advance:
        return read_device(api, site.site, device, points, *range_ms, advance)


def decide(api: Api, settings: Settings, site: SiteConfig) -> tuple[LaneResult, list[Decision]]:
    """Run the site's lane over everything that history has of it, and keep its decision log; returns its alarms too.

    All devices, since rules read across them (a compartment the weather mast); from the first sample to the last.
    """
    engine = build_engine()
    engine.configure(site)
    traces = {}
    for spec in site.devices:
        points = [point.name for point in site.profiles[spec.profile].points if point.is_measured]
        for name in spec.names():
            traces[name] = read_back(api, site, name, points, (0, time.time_ns() // NS_PER_MS + DAY_MS))
    columns, sizes = lane_columns(engine.plan, site.site, traces)
    decisions = list(run_lane(engine, columns, sizes))
    result = write_lane(settings.data_dir, site.site, decisions)
    return result, [d for d in decisions if d.kind == "alarm"]


# -- the command ---------------------------------------------------------------------------------------------------------------


async def run_play(
    settings: Settings,
    file: Path,
    *,
    mapping: Path,
    at: str = "original",
    device: str | None = None,
    speed: float | None = None,
    passwords: Path | None = None,
) -> int:
    """`fieldloom play`; the exit code: 1 when a sample was neither stored nor rejected."""
    if at != "now" and speed is not None:
        raise CallerError("--speed goes with --at now; at original the data keep their own times")
    recording = await asyncio.to_thread(load_recording, file, mapping, device)
    if not recording.rows:
        raise CallerError(f"{file} has no row with a time and a value")
    if at == "now":
        return await play_now(settings, recording, speed or SPEED, passwords)
    return await play_original(settings, recording, passwords)


async def play_original(settings: Settings, recording: Recording, passwords: Path | None) -> int:
    """Keep the data's times."""
    from app.played import print_alarms, print_report

    site = recording.site
    if site.origin != "REPLAY":
        raise CallerError(f"site {site.site!r} has origin {site.origin}; old times belong into a REPLAY site: set origin: REPLAY")
    login = broker_login(settings, recording.key, passwords)
    check_local(settings)
    given, reported = recording.traces(), recording.report
    with contextlib.closing(Api(settings)) as api:
        applied = await asyncio.to_thread(put_in_force, api, site)
        numbers = await asyncio.to_thread(point_numbers, api, recording)
        before = await asyncio.to_thread(read_back, api, site, recording.name, recording.points, recording.range_ms)
        after_position = last_position(settings)
        await publish_rows(recording, login, settings.sabotage)
        tally = await asyncio.to_thread(follow, settings, recording.key, numbers, after=after_position, samples=reported.samples)
        where = (site.site, recording.name, recording.points[0])
        await asyncio.to_thread(wait_for_history, api, *where, tally.position, patience_s=PATIENCE_S)
        after = await asyncio.to_thread(read_back, api, site, recording.name, recording.points, recording.range_ms)
        fates = Fates()
        for point in recording.points:
            fates.compare(given[point], before[point], after[point])
        fates.rejected = min(fates.lost, sum(tally.rejected.values()))
        fates.lost -= fates.rejected
        print_report(recording, tally, fates, applied=applied)
        result, alarms = await asyncio.to_thread(decide, api, settings, site)
    print_alarms(site, recording.key, result, alarms)
    return 1 if fates.lost else 0


def shifted_site(site: SiteConfig, speed: float) -> SiteConfig:
    """The simulated copy of a recorded site, its delays and rates as fast as its data."""
    return now_site(at_speed(site, speed))


async def play_now(settings: Settings, recording: Recording, speed: float, passwords: Path | None) -> int:
    """Let the recording begin now, `speed` times faster; device times are the wall's."""
    from app.played import print_now

    if not speed > 0:
        raise CallerError(f"speed must be above 0, not {speed:g}")
    site = SiteConfig.model_validate(shifted_site(recording.site, speed).model_dump(mode="json"))
    key = f"{site.site}/{recording.name}"
    login = broker_login(settings, key, passwords)
    check_local(settings)
    with contextlib.closing(Api(settings)) as api:
        await asyncio.to_thread(put_in_force, api, site)
        shifted = Recording(site, recording.device, recording.name, recording.points, recording.rows, recording.report)
        numbers = await asyncio.to_thread(point_numbers, api, shifted)
    after_position = last_position(settings)
    sent = await publish_paced(shifted, login, speed)
    tally = await asyncio.to_thread(follow, settings, key, numbers, after=after_position, samples=sent)
    print_now(shifted, tally, sent)
    return 0 if tally.seen == sent else 1


async def publish_paced(recording: Recording, login: BrokerLogin, speed: float) -> int:
    """One message a row at its moment, numbered; Ctrl-C ends it early. Returns how many samples were sent."""
    where = topic.topic(recording.site.site, recording.name, "telemetry")
    rows = sorted(recording.rows, key=lambda row: row.ts_ms)
    begin_s, boot, sent = time.time(), int(time.time()), 0
    async with connected(login) as client:
        with slow_progress(f"playing {recording.key}", len(rows)) as advance:
            for seq, row in enumerate(rows):
                due_s = begin_s + (row.ts_ms - rows[0].ts_ms) / MS / speed
                try:
                    await asyncio.sleep(max(0.0, due_s - time.time()))
                except asyncio.CancelledError:
                    _end_of_interrupt()
                    break
                payload = wire.Message(boot=boot, seq=seq, ts=int(due_s * MS), p=dict(row.values))
                await client.publish(where, wire.encode(payload), qos=1)
                sent += len(row.values)
                advance(seq + 1)
    return sent


def _end_of_interrupt() -> None:
    """Ctrl-C ends the playing, not the report."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

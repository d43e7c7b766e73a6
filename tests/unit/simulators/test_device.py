import msgspec
import numpy as np
import pytest

from simulators.device import FaultAnswer, FaultOrder, Incoming, Options, SimulatedDevice, fault_topic
from simulators.fleet import DEMO, DEMO_START_S, at_speed, build_devices
from telemetry.wire import message as wire
from tests.unit.simulators.shipped import load_site

S = 1_000_000_000
START_NS = 1_800_000_000 * S
SITE = load_site("nursery")
VENTS = ("vent_lee", "vent_wind")


class Service:
    """The other end, in memory: keeps what arrives, gives receipts and leases, and can be away."""

    def __init__(self, device: SimulatedDevice, *, speed: float = 1.0) -> None:
        self.device, self.now_ns, self.speed = device, START_NS, speed
        self.rows: dict[int, tuple[str, wire.Message]] = {}
        self.repeats = 0
        self.acks: list[wire.CommandAck] = []
        self.statuses: list[wire.Status] = []
        self.latest: dict[str, float] = {}
        self.answers: dict[str, str] = {}
        self.gives_receipts = self.gives_leases = self.takes = True
        self.epoch = 5
        self._number = 0
        self._inbox: list[Incoming] = []
        self._take(device.connected())

    def command(self, actuator: str, value: float, **changes) -> str:
        self._number += 1
        fields = {"id": f"c{self._number}", "epoch": self.epoch, "actuator": actuator, "value": value, "expires_s": 30.0} | changes
        self._inbox.append(Incoming(self.device.topic("command"), wire.encode(wire.Command(**fields))))
        return fields["id"]

    def order(self, fault: str, part: str = "", strength: float | None = None, for_s: float | None = None) -> str:
        """Have the device fail; what it says against it."""
        order = FaultOrder(f"f{len(self.answers) + 1}", fault, part, strength, for_s)
        incoming = Incoming(fault_topic(self.device.site, self.device.name), wire.encode(order))
        self._take(self.device.step(self.now_ns, [incoming]))
        return self.answers[order.id]

    def run(self, seconds: float, step_s: float = 1.0) -> None:
        for tick in range(round(seconds / step_s)):
            self.now_ns += round(step_s * S)
            if self.gives_leases and tick % round(5 / step_s) == 0:
                self._inbox.append(Incoming(f"fl/{self.device.site}/lease", wire.encode(wire.Lease(self.epoch, 15.0))))
            if self.gives_receipts and self.rows:
                covered = -1
                while covered + 1 in self.rows:
                    covered += 1
                if covered >= 0:
                    receipt = wire.Receipt(self.device.options.boot, covered)
                    self._inbox.append(Incoming(self.device.topic("receipt"), wire.encode(receipt)))
            inbox, self._inbox = self._inbox, []
            self._take(self.device.step(self.now_ns, inbox if self.device.is_connected else []))

    def _take(self, outgoing) -> None:
        for item in outgoing if self.takes else []:
            channel = item.topic.rsplit("/", 1)[1]
            if channel == "ack":
                self.acks.append(msgspec.json.decode(item.payload, type=wire.CommandAck))
            elif channel == "status":
                assert item.retain
                self.statuses.append(msgspec.json.decode(item.payload, type=wire.Status))
            elif channel == "answer":
                answer = msgspec.json.decode(item.payload, type=FaultAnswer)
                self.answers[answer.id] = answer.problem
            else:
                message = wire.decode_message(item.payload, [])
                assert isinstance(message, wire.Message)
                self.repeats += message.seq in self.rows
                self.rows.setdefault(message.seq, (channel, message))
                self.latest |= message.p


def compartment(*, speed=1.0, sample_s=10.0, seed=1, scenario=DEMO, **options) -> SimulatedDevice:
    chosen = Options(boot=77, plant_start_s=DEMO_START_S, speed=speed, sample_s=sample_s, **options)
    return build_devices(SITE, seed=seed, options=chosen, scenario=scenario, only=frozenset({"climate-1"}))[0]


def test_vents_really_open_and_temperature_really_falls():
    service = Service(compartment(speed=60, sample_s=1.0), speed=60)
    service.run(60)
    hot = service.latest["air_temp_c"]
    assert hot > 24.5, "the demo's morning warms a closed house past the vent set point within a minute at 60x"
    for vent in VENTS:
        service.command(vent, 100)
    service.run(20)
    assert [ack.status for ack in service.acks] == ["accepted", "accepted"]
    assert service.latest["vent_lee_pct"] == pytest.approx(100, abs=2)
    assert service.latest["air_temp_c"] < hot - 3
    assert service.device.actuators["vent_lee"].moves == 1


def test_stuck_vent_is_seen_by_its_feedback_and_by_the_climate():
    service = Service(compartment(speed=60, sample_s=1.0), speed=60)
    for vent in VENTS:
        service.device.actuators[vent].stuck = True
        service.command(vent, 100)
    service.run(60)
    assert [ack.status for ack in service.acks] == ["accepted", "accepted"]
    assert service.latest["vent_lee_target_pct"] == 100
    assert service.latest["vent_lee_pct"] == pytest.approx(0, abs=2)
    assert service.latest["air_temp_c"] > 25


def test_feedback_lags_the_command_by_the_travel_time():
    service = Service(compartment(sample_s=1.0))
    service.run(5)
    service.command("vent_lee", 60)
    seen = []
    for _ in range(20):
        service.run(10)
        seen.append(service.latest["vent_lee_pct"])
    assert seen[0] < 6
    assert seen[8] == pytest.approx(30, abs=2.5)
    assert seen[-1] == pytest.approx(60, abs=2)


def test_heating_warms_the_pipes_and_the_house_on_a_cold_night():
    night = DEMO_START_S + 17 * 3600
    devices = [
        build_devices(SITE, seed=1, options=Options(boot=1, plant_start_s=night, speed=60.0), only=frozenset({"climate-1"}))[0]
        for _ in range(2)
    ]
    cold, warm = (Service(device) for device in devices)
    for _ in range(2):
        warm.command("mixing_valve", 100)
        warm.command("circulation_pump", 1)
        for service in (cold, warm):
            service.run(30)
    assert warm.latest["pipe_supply_c"] > cold.latest["pipe_supply_c"] + 20
    assert warm.latest["air_temp_c"] > cold.latest["air_temp_c"] + 2
    assert warm.latest["heat_kwh"] > 10


def test_same_seed_same_bytes_other_seed_other_house():
    def record(seed):
        device = compartment(seed=seed)
        service = Service(device)
        service.command("vent_lee", 40)
        service.run(300)
        return [wire.encode(message) for _, message in service.rows.values()]

    assert record(1) == record(1)
    assert record(1) != record(2)


def test_heartbeat_that_was_late_once_leaves_the_next_in_time():
    """Sampling keeps its grid: what was told 5 ms late is told again 59.995 s later, not after 70 s."""
    device = compartment()
    device.connected()
    told_s = []
    for second in range(0, 200, 10):
        now_ns = START_NS + second * S + (5_000_000 if second == 60 else 0)
        messages = [wire.decode_message(o.payload, []) for o in device.step(now_ns) if o.topic.endswith("/telemetry")]
        told_s += [second for message in messages if isinstance(message, wire.Message) and "boiler_bool" in message.p]
    assert told_s == [0, 60, 120, 180]


def test_report_by_exception_and_heartbeat():
    service = Service(compartment(sample_s=1.0))
    service.run(1)
    (_, first) = service.rows[0]
    assert set(first.p) == {point.name for point in SITE.profiles["multispan"].points}
    service.run(180)
    steady = [m for _, m in service.rows.values() if "box_fan_bool" in m.p]
    assert len(steady) == 4, "a value that never changes is said once a minute"
    assert [m.ts for _, m in service.rows.values()] == sorted(m.ts for _, m in service.rows.values())


@pytest.mark.days
def test_every_reading_is_inside_the_physical_range_of_its_point_through_a_day():
    service = Service(compartment(speed=240, sample_s=5.0))
    specs = {point.name: point for point in SITE.profiles["multispan"].points}
    for hour in range(6):
        service.command("vent_lee", 100.0 * (hour % 2))
        service.run(60, step_s=5.0)
    for _, message in service.rows.values():
        for name, value in message.p.items():
            assert specs[name].low <= value <= specs[name].high, name


def test_nothing_is_lost_over_link_losses_given_receipts():
    service = Service(compartment(sample_s=1.0))
    random = np.random.default_rng(4)
    for _ in range(12):
        service.run(int(random.integers(1, 40)))
        # What was on its way when the link broke is gone, though the device thinks it sent it.
        service.takes = False
        service.run(int(random.integers(0, 5)))
        service.device.disconnected()
        service.run(int(random.integers(0, 60)))
        service.takes = True
        service._take(service.device.connected())
    service.run(60)
    device = service.device
    assert sorted(service.rows) == list(range(device.counters.sampled))
    assert device.backlog.given_up == 0
    assert len(device.backlog) <= 1
    channels = [channel for channel, _ in service.rows.values()]
    assert {"telemetry", "backfill"} == set(channels)
    stamps = [service.rows[seq][1].ts for seq in sorted(service.rows)]
    assert stamps == sorted(stamps), "the backlog keeps its own times"


def test_backlog_goes_to_backfill_and_live_samples_do_not_wait_for_it():
    service = Service(compartment(sample_s=1.0))
    service.device.disconnected()
    service.run(300)
    service._take(service.device.connected())
    service.run(1)
    newest = max(service.rows)
    assert service.rows[newest][0] == "telemetry"
    assert service.rows[0][0] == "backfill"
    assert len(service.rows) < 100, "drained in bursts"
    service.run(20)
    assert sorted(service.rows) == list(range(service.device.counters.sampled))


def test_device_that_gives_up_declares_what_is_lost():
    service = Service(compartment(sample_s=10.0))
    service.gives_receipts = False
    service.run(150)
    lost = [status.lost_to for status in service.statuses if status.lost_to is not None]
    assert lost
    assert lost[0] == 0
    assert service.repeats >= 3


def test_service_that_stopped_costs_nothing_but_room():
    service = Service(compartment(sample_s=10.0))
    service.run(20)
    service.gives_receipts = service.gives_leases = service.takes = False
    service.run(1200)
    service.takes = service.gives_leases = service.gives_receipts = True
    service.run(120)
    assert sorted(service.rows) == list(range(service.device.counters.sampled))
    assert service.device.backlog.given_up == 0


def test_birth_will_and_boot():
    service = Service(compartment())
    assert service.statuses[0] == wire.Status(state="online", boot=77)
    assert msgspec.json.decode(service.device.will().payload, type=wire.Status) == wire.Status(state="offline", boot=77)
    assert service.device.will().retain


def test_receipt_of_another_boot_covers_nothing():
    service = Service(compartment())
    service.gives_receipts = False
    service._inbox.append(Incoming(service.device.topic("receipt"), wire.encode(wire.Receipt(boot=76, seq=1000))))
    service.run(1)
    assert len(service.device.backlog) == 1


def test_lost_lease_moves_to_fail_safe_measured_at_the_drives():
    service = Service(compartment(sample_s=1.0))
    for name, value in (("vent_lee", 100), ("mixing_valve", 50)):
        service.command(name, value)
    service.run(100)
    assert service.latest["mixing_valve_pct"] == pytest.approx(50, abs=2)
    service.gives_leases = False
    service.run(20)
    held = service.latest["vent_lee_pct"]
    service.run(120)
    assert service.latest["mixing_valve_pct"] == pytest.approx(0, abs=2)
    assert service.latest["circulation_pump_bool"] == 1
    assert service.latest["vent_lee_pct"] == pytest.approx(held, abs=2)
    assert 30 < held < 45, "stopped on its way"


def test_local_frost_thermostat_heats_a_device_that_lost_its_service():
    service = Service(compartment(sample_s=1.0))
    service.run(5)
    service.gives_leases = False
    plant = service.device.place.houses
    plant.state = plant.state._replace(air_c=np.array([2.0]), mass_c=np.array([2.0]))
    service.run(100)
    assert service.latest["mixing_valve_pct"] == pytest.approx(30, abs=2)


def test_retained_and_malformed_messages_move_nothing():
    service = Service(compartment())
    device = service.device
    retained = wire.encode(wire.Command(id="r", epoch=9, actuator="vent_lee", value=50, expires_s=30))
    service._inbox += [
        Incoming(device.topic("command"), retained, retained=True),
        Incoming(f"fl/{device.site}/lease", wire.encode(wire.Lease(99, 15.0)), retained=True),
        Incoming(device.topic("command"), b"{"),
        Incoming(device.topic("command"), b'{"id":"x","epoch":1,"actuator":"vent_lee","value":NaN,"expires_s":1}'),
        Incoming(device.topic("receipt"), b"\xff\xfe"),
        Incoming("fl/other/device/command", retained),
    ]
    service.run(1)
    assert [(ack.id, ack.status) for ack in service.acks] == [("r", "refused")]
    assert device.counters.malformed == 3
    assert device.obedience.epoch == 5
    assert device.actuators["vent_lee"].target == 0


def test_expired_repeated_and_fenced_commands_over_the_wire():
    service = Service(compartment())
    service.run(5)
    service.command("vent_lee", 50, expires_s=0.0)
    service.command("vent_lee", 60, epoch=4)
    again = service.command("vent_lee", 70)
    service.command("vent_lee", 70, id=again)
    service.run(1)
    assert [ack.status for ack in service.acks] == ["expired", "refused", "accepted", "accepted"]
    assert list(service.device.obedience.executed) == [again]


def test_wrong_wall_clock_changes_stamps_but_no_expiry():
    service = Service(compartment(wall_offset_s=-3600.0))
    service.command("vent_lee", 50)
    service.run(1)
    assert service.acks[0].status == "accepted"
    assert service.rows[0][1].ts == START_NS // 1_000_000 + 1000 - 3_600_000


def test_device_without_receipts_keeps_nothing():
    device = compartment()
    profile = device.profile.model_copy(update={"receipts": False})
    plain = SimulatedDevice("nursery", "climate-1", profile, device.place, options=device.options)
    service = Service(plain)
    service.run(30)
    assert service.device.counters.sent == 3
    assert len(plain.backlog) == 0


def test_weather_mast_reports_the_weather_of_its_site():
    options = Options(boot=1, plant_start_s=DEMO_START_S)
    mast = build_devices(SITE, seed=1, options=options, only=frozenset({"weather-1"}))[0]
    service = Service(mast)
    service.run(60)
    assert 300 < service.latest["rad_w_m2"] < 700
    assert 0 < service.latest["wind_speed_m_s"] < service.latest["wind_gust_m_s"]


def test_demo_is_calm_then_stormy_then_calm_within_four_minutes_at_60x():
    options = Options(boot=1, plant_start_s=DEMO_START_S, speed=60.0, sample_s=1.0)
    service = Service(build_devices(SITE, seed=1, options=options, only=frozenset({"weather-1"}))[0])
    gusts = []
    for _ in range(240):
        service.run(1)
        gusts.append(service.latest["wind_gust_m_s"])
    assert max(gusts[:60]) < 10
    assert max(gusts) > 17
    assert max(gusts[-15:]) < 13


def test_profile_without_physics_still_lives():
    profile = SITE.profiles["weather_station"].model_copy(update={"name": "unknown_kind"})
    site = SITE.model_copy(update={"profiles": {**SITE.profiles, "weather_station": profile}})
    device = build_devices(site, seed=1, options=Options(boot=1, plant_start_s=0.0), only=frozenset({"weather-1"}))[0]
    service = Service(device)
    service.run(20)
    assert set(service.latest) == {point.name for point in profile.points}


def test_service_of_faster_plants_gets_shorter_delays_and_wider_rate_gates():
    slow, fast = SITE.profiles["multispan"], at_speed(SITE, 60).profiles["multispan"]
    assert (slow.points[0].rate_per_min, fast.points[0].rate_per_min) == (3, 180)
    assert (slow.actuators[0].travel_s, fast.actuators[0].travel_s) == (300, 5)
    assert [(r.on_delay_s, r.off_delay_s) for r in fast.rules] == [(r.on_delay_s / 60, r.off_delay_s / 60) for r in slow.rules]
    assert [p.heartbeat_s for p in fast.points] == [p.heartbeat_s for p in slow.points]
    assert at_speed(SITE, 1.0).sha256() == SITE.sha256()


# -- faults of the wire --------------------------------------------------------------------------------------------------------


def faulty(fault, part="", strength=None, for_s=None, **options) -> Service:
    service = Service(compartment(sample_s=1.0, **options))
    service.run(10)
    assert service.order(fault, part, strength, for_s) == ""
    return service


def test_late_messages_come_out_of_order_and_all_arrive():
    service = faulty("late", strength=20.0)
    before = service.device.counters.sampled
    service.run(60)
    arrived = list(service.rows)
    assert arrived != sorted(arrived)
    assert service.order("late", strength=0.0) == ""
    service.run(25)
    assert set(range(before + 60)) <= set(service.rows)


def test_duplicates_come_twice():
    service = faulty("duplicate")
    repeats, rows = service.repeats, len(service.rows)
    service.run(20)
    assert service.repeats - repeats == len(service.rows) - rows > 15


def test_skewed_clock_stamps_otherwise_until_it_is_right_again():
    service = faulty("clock_skew", strength=3600.0, for_s=10.0)
    service.run(20)
    stamps = np.array([service.rows[seq][1].ts for seq in sorted(service.rows)])
    ahead = (stamps - START_NS // 1_000_000 - 1000 * np.arange(1, len(stamps) + 1)) // 1000
    assert set((ahead // 100).tolist()) == {0, 36}
    assert max(ahead[0], ahead[-1]) < 100


def test_lost_commands_are_not_answered_and_not_done():
    service = faulty("command_lost", "vent_lee")
    service.command("vent_lee", 50)
    service.command("vent_wind", 50)
    service.run(5)
    assert [ack.id for ack in service.acks] == ["c2"]
    assert [service.device.actuators[vent].target for vent in VENTS] == [0, 50]


def test_gateway_without_a_way_out_sends_all_within_half_a_minute_of_its_return():
    service = faulty("burst", for_s=300.0)
    rows = len(service.rows)
    service.run(298)
    assert len(service.rows) == rows, "nothing comes out"
    assert service.device.obedience.is_local, "and no lease comes in"
    service.run(10)
    part_way = len(service.rows)
    service.run(25)
    assert rows < part_way < len(service.rows)
    assert sorted(service.rows) == list(range(service.device.counters.sampled))
    assert service.device.backlog.given_up == 0


def test_power_dip_is_a_new_boot_with_drives_at_their_fail_safe():
    service = faulty("power_dip", for_s=60.0)
    device = service.device
    service.command("mixing_valve", 80)
    service.run(1)
    rows = len(service.rows)
    assert not device.wants_link
    service.run(50)
    assert len(service.rows) == rows, "silent"
    service.rows.clear()
    service.run(15)
    assert device.wants_link
    assert device.options.boot == 78
    assert min(service.rows) == 0
    assert service.rows[0][1].boot == 78
    assert set(service.rows[0][1].p) == {point.name for point in SITE.profiles["multispan"].points}
    assert device.actuators["mixing_valve"].target == 0
    assert device.actuators["boiler"].position == 1, "what holds goes on with the power"


def test_fault_orders_are_answered_and_a_retained_or_wrong_one_does_nothing():
    service = Service(compartment())
    service.run(1)
    assert "no fault 'sutck'" in service.order("sutck", "air_temp_c")
    assert "has no point" in service.order("stuck", "air_c")
    assert "say for how long" in service.order("power_dip")
    retained = wire.encode(FaultOrder("r", "dead", "air_temp_c"))
    service._inbox += [
        Incoming(fault_topic("nursery", "climate-1"), retained, retained=True),
        Incoming(fault_topic("nursery", "climate-2"), retained),
        Incoming(fault_topic("nursery", "climate-1"), b'{"id":"x"}'),
    ]
    service.run(20)
    assert service.latest["air_temp_c"] > 15
    assert list(service.answers) == ["f1", "f2", "f3"]
    assert service.device.counters.malformed == 1
    assert service.order("dead", "air_temp_c") == ""
    service.run(20)
    assert service.latest["air_temp_c"] == 0


def test_panel_switch_refuses_commands_over_the_wire():
    service = Service(compartment())
    service.run(1)
    for fault, reason in (("panel_local", "switched to local at the panel"), ("panel_off", "switched off at the panel")):
        assert service.order(fault, "vent_lee") == ""
        service.command("vent_lee", 50)
        service.run(1)
        assert (service.acks[-1].status, service.acks[-1].reason) == ("refused", reason)
        assert service.order(fault, "vent_lee", 0.0) == ""
    service.command("vent_lee", 50)
    service.run(1)
    assert service.acks[-1].status == "accepted"

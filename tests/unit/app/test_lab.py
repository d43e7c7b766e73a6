"""The lab: determinism, kills without consequence, closed loops that close, commands executed once."""

from collections import Counter
from pathlib import Path

import pytest

from app.commands.look import _journaled
from app.lab import Lab
from app.site_files import load_site
from simulators.actuator import Actuator
from simulators.fault import Injection
from simulators.fleet import DEMO_START_S
from simulators.weather import Scenario
from telemetry.decision import LogHash
from telemetry.errors import CallerError
from telemetry.site import SiteConfig

NURSERY = Path(__file__).parents[3] / "sites" / "nursery"
HOT = Scenario(mean_temp_c=22.0, daily_range_k=12.0, dew_point_c=8.0, sky="clear")


@pytest.fixture(scope="module")
def site() -> SiteConfig:
    """The nursery with its weather mast and one house."""
    whole = load_site(NURSERY)
    kept = [device for device in whole.devices if device.name in {"weather-1", "climate-1"}]
    return whole.model_copy(update={"devices": kept})


def run(site: SiteConfig, **options: object) -> Lab:
    lab = Lab(site, **{"hours": 1.0, "seed": 3, **options})  # type: ignore[arg-type]
    lab.run()
    return lab


@pytest.fixture(scope="module")
def plain(site: SiteConfig) -> Lab:
    return run(site)


def result(lab: Lab) -> tuple[int, str]:
    return lab.log_hash.count, lab.log_hash.hexdigest()


def test_equal_seeds_give_equal_hashes_and_other_seeds_other_ones(site: SiteConfig, plain: Lab) -> None:
    assert plain.log_hash.count > 20
    assert result(run(site)) == result(plain)
    assert result(run(site, seed=4)) != result(plain)


def test_kills_do_not_change_the_hash(site: SiteConfig, plain: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two entries of one call, before a commit, after a commit; snapshots often, so that both halves of recovery work."""
    monkeypatch.setattr("app.lab.SNAPSHOT_EVERY", 150)
    killed = run(site, kills=15, kill_directory=tmp_path)
    assert (killed.kills_done, killed.differing) == (15, 0)
    assert result(killed) == result(plain)
    assert list(tmp_path.glob("*.snap")), "recovery began at a snapshot, not at the beginning"


@pytest.mark.days
def test_vents_open_when_it_is_hot_and_the_house_stays_cooler_than_without(site: SiteConfig) -> None:
    """A warm clear morning: the vents open, as measured, and the house stays cooler than one that nobody controls."""
    nobody = {"rules": [], "controllers": []}
    uncontrolled = site.model_copy(update={"profiles": {n: p.model_copy(update=nobody) for n, p in site.profiles.items()}})
    assert not any(rule.demand for rule in site.rules)
    controlled, alone = run(site, hours=2.5, scenario=HOT), run(uncontrolled, hours=2.5, scenario=HOT)
    assert most(controlled, "vent_lee_pct") > 50
    assert most(alone, "vent_lee_pct") < 5
    assert most(controlled, "air_temp_c") < most(alone, "air_temp_c") - 5
    assert accepted(controlled, "vent_lee")


def most(lab: Lab, point: str) -> float:
    device = lab.engine.plan.device("nursery/climate-1")
    assert device is not None
    number = device.point(point)
    assert number is not None
    return float(lab.extremes.most[number])


def accepted(lab: Lab, actuator: str) -> bool:
    return any(d.kind == "command" and d.subject.endswith(actuator) and d.body["state"] == "confirmed" for d in lab.decisions)


def test_no_command_is_executed_twice_though_every_one_arrives_twice(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: Counter[str] = Counter()
    command = Actuator.command

    def counted(self: Actuator, value: float) -> None:
        moves[self.spec.name] += 1
        command(self, value)

    monkeypatch.setattr(Actuator, "command", counted)
    lab = run(site, redeliver=True)
    sent = {d.body["id"] for d in lab.decisions if d.kind == "command" and d.body["state"] == "sent"}
    executed = [command for device in lab.devices for command in device.device.obedience.executed]
    assert len(executed) > 5
    assert set(executed) <= sent
    assert sum(moves.values()) == len(executed) == len(set(executed))


def test_every_sample_of_the_devices_is_stored_and_receipted(plain: Lab) -> None:
    from app.core import admit_of

    accounting = admit_of(plain.engine).accounting
    assert accounting.is_balanced()
    assert (accounting.rejected, accounting.duplicate, accounting.gaps) == (0, 0, 0)
    sampled = sum(device.device.counters.sampled for device in plain.devices)
    assert accounting.stored >= sampled > 2 * 300
    assert all(len(device.device.backlog) < 10 for device in plain.devices), "receipts empty the devices' stores"


FAULTS = (
    Injection("wetted", "climate-1", "air_rh_pct", at_s=DEMO_START_S + 300),
    Injection("power_dip", "climate-1", at_s=DEMO_START_S + 600, for_s=90),
    Injection("late", "weather-1", strength=60.0, at_s=DEMO_START_S + 60),
    Injection("broker_restart", "weather-1", at_s=DEMO_START_S + 1200, for_s=60),
    Injection("broker_restart", "climate-1", at_s=DEMO_START_S + 1200, for_s=60),
)


def test_faults_happen_and_the_record_of_the_run_says_what_was_decided(site: SiteConfig, tmp_path: Path) -> None:
    lab = run(site, hours=0.5, faults=FAULTS, record=tmp_path)
    assert most(lab, "air_rh_pct") == 100
    assert lab.devices[1].device.options.boot == 2, "power came back"
    events = [d.body for d in lab.decisions if d.kind == "blind"]
    assert [body["blind"] for body in events[-2:]] == [True, False], "no broker, then sight again"
    assert all(device.device.is_connected for device in lab.devices)
    lab.journal.close()
    log_hash = LogHash()
    for decisions in _journaled(tmp_path / "journal"):
        log_hash.add(decisions)
    assert (log_hash.count, log_hash.hexdigest()) == result(lab)
    again = run(site, hours=0.5, faults=FAULTS)
    assert result(again) == result(lab)


def test_only_simulated_sites(site: SiteConfig) -> None:
    with pytest.raises(CallerError, match="set origin: SIMULATED"):
        Lab(site.model_copy(update={"origin": "LIVE"}))

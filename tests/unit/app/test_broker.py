"""The embedded broker: starts, keeps its secrets, says what is missing; the shipped configuration is the same text."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import app.broker
from app.broker import (
    ACCESS_FILES,
    SERVICE,
    SIM_CONSOLE,
    Broker,
    BrokerAddress,
    acl_text,
    find_mosquitto,
    password_line,
    production_config,
    provision,
)
from app.serving import device_passwords
from app.settings import Settings
from app.site_files import load_site
from telemetry.errors import CallerError, EnvironmentFault

ROOT = Path(__file__).parents[3]


def test_shipped_configuration_is_the_template():
    assert (ROOT / "mosquitto.conf").read_text() == production_config()


def test_start_stop_and_private_files(tmp_path):
    broker = Broker(tmp_path / "broker", ["north/hut"])
    address = broker.start()
    try:
        assert set(address.passwords) == {SERVICE, "north/hut"}
        for name in ("devices.passwords", "devices.acl", "core.passwords", "core.acl", "mosquitto.conf"):
            assert stat.S_IMODE((tmp_path / "broker" / name).stat().st_mode) == 0o600
        stored = "".join(path.read_text() for path in (tmp_path / "broker").glob("*.passwords"))
        assert stored.count(":$") == 2
        assert not any(password in stored for password in address.passwords.values())
        broker.stop()
        assert not broker.running
        assert broker.start() == address
    finally:
        broker.stop()


def test_ports_of_the_last_time_are_kept_unless_somebody_has_them(tmp_path):
    first = Broker(tmp_path / "broker", ["north/hut"])
    before = first.start()
    first.stop()
    again = Broker(tmp_path / "broker", ["north/hut"])
    after = again.start()
    again.stop()
    assert (after.port, after.device_port) == (before.port, before.device_port)
    assert after.passwords != before.passwords
    assert "Failed to associate" not in again.log_path.read_text()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", before.device_port))
        taken.listen()
        other = Broker(tmp_path / "broker", ["north/hut"])
        assert before.device_port not in (other.start().port, other.address.device_port)
        other.stop()


def test_a_missing_mosquitto_is_said_with_the_fix(monkeypatch):
    monkeypatch.setattr(app.broker.shutil, "which", lambda *_args, **_kwargs: None)
    with pytest.raises(EnvironmentFault, match="apt install mosquitto"):
        find_mosquitto()


@pytest.mark.parametrize("name", ["north", "north/+", "#/x", "north/hut\ntopic readwrite #", "a/b/c", "north/%u"])
def test_names_that_would_open_the_acl_are_refused(name):
    with pytest.raises(CallerError, match="site/device"):
        acl_text([name])


def test_passwords_with_line_breaks_are_refused():
    with pytest.raises(ValueError, match="line break"):
        password_line("a/b", "x\ny:z")


def logs_in(address: BrokerAddress, user: str, password: str) -> bool:
    port = address.port if user == SERVICE else address.device_port
    login = ["-h", address.host, "-p", str(port), "-u", user, "-P", password]
    command = ["mosquitto_pub", *login, "-t", f"fl/{user}/telemetry", "-m", "x"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def test_a_broker_of_ones_own_keeps_the_passwords_of_known_devices(tmp_path: Path) -> None:
    """Adding a device changes nobody's password; Mosquitto itself takes what was written."""
    first = provision(tmp_path, ["farm/a", "farm/b"])
    assert sorted(first) == ["farm/a", "farm/b", SERVICE]
    config = (tmp_path / "mosquitto.conf").read_text()
    assert config == production_config(str(tmp_path), str(tmp_path / "certs"))
    (tmp_path / "mosquitto.conf").write_text(config + "# mine\n")
    second = provision(tmp_path, ["farm/a", "farm/c"], service_password="chosen")
    assert list(second) == ["farm/c"]
    assert (tmp_path / "mosquitto.conf").read_text().endswith("# mine\n")
    assert "farm/b" not in "".join((tmp_path / name).read_text() for name in ACCESS_FILES)
    broker = Broker(tmp_path / "run", ["farm/x"])
    broker.address = broker._configure()
    for name in ACCESS_FILES:
        shutil.copy(tmp_path / name, tmp_path / "run" / name)
        if os.geteuid() == 0:  # Mosquitto as root stays root here
            shutil.chown(tmp_path / "run" / name, "root", "root")
    address = broker.start()
    try:
        assert logs_in(address, "farm/a", first["farm/a"])
        assert logs_in(address, "farm/c", second["farm/c"])
        assert not logs_in(address, "farm/a", second["farm/c"])
        assert not logs_in(address, "farm/b", first["farm/b"])
        assert logs_in(address, SERVICE, "chosen")
        assert not logs_in(address, SERVICE, first[SERVICE])
    finally:
        broker.stop()


def test_the_command_prints_new_users_for_devices_and_programs(tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "app.cli", "broker", str(tmp_path / "broker"), "sites/nursery"]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)

    file = tmp_path / "passwords.tsv"
    file.write_text(run().stdout)
    users = [line.split("\t")[0] for line in file.read_text().splitlines()]
    site = load_site(ROOT / "sites" / "nursery")
    names = [*(name for device in site.devices for name in device.names()), *site.programs]
    assert users == [SERVICE, *sorted(f"nursery/{name}" for name in names), SIM_CONSOLE]
    again = run()
    assert (again.stdout, "0 of them new" in again.stderr) == ("", True)
    password_of = device_passwords(Settings(data_dir=tmp_path), file)
    assert len(password_of("nursery/climate-1") or "") == 32
    assert password_of("nursery/nobody") is None
    file.write_text("nursery/climate-1 secret\n")
    with pytest.raises(CallerError, match=r"passwords\.tsv:1: expected user, a tab"):
        device_passwords(Settings(data_dir=tmp_path), file)

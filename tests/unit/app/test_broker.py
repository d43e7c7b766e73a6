"""The embedded broker: starts, keeps its secrets, says what is missing; the shipped configuration is the same text."""

import socket
import stat
from pathlib import Path

import pytest

import app.broker
from app.broker import SERVICE, Broker, acl_text, find_mosquitto, production_config, write_passwords
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


def test_passwords_with_line_breaks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="line break"):
        write_passwords(tmp_path / "passwords", {"a/b": "x\ny:z"})

"""The doctor finds what is wrong with an installation and names the fix. Every fault here is a real one."""

import gc
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from app.broker import SERVICE, Broker, BrokerAddress, find_mosquitto
from app.doctor import examine
from app.supervisor import answers
from people.delivery import DeliveryJournal, Outgoing, PathTest, Work
from telemetry.record import Config
from telemetry.site import SiteConfig
from tests.faults.disk import small_disk
from tests.faults.process import free_port, wait_until
from tests.faults.web_process import CoreStub


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose core has just written; settings point to it."""
    for name in os.environ:
        if name.startswith("FIELDLOOM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELDLOOM_DATA_DIR", str(tmp_path / "data"))
    CoreStub.begin(tmp_path / "data").journal.close()
    return tmp_path / "data"


def findings(verdict: str) -> dict[str, str]:
    return {finding.subject: finding.text for finding in examine() if finding.verdict == verdict}


def test_a_sound_installation_has_nothing_bad(data: Path) -> None:
    assert findings("bad") == {}
    assert findings("good").keys() >= {
        "python",
        "packages",
        "settings",
        "data directory",
        "broker",
        "files",
        "journal",
        "core",
        "safety",
    }


def test_notifications_are_looked_at_from_file_to_newest_test(data: Path, tmp_path: Path) -> None:
    assert "in the log only" in findings("warn")["notifications"]
    file = tmp_path / "notify.yaml"
    file.write_text("channels: {post: {kind: fax}}\ncontacts: {}\npolicies: []\n")
    assert f"{file.name}:1: channels.post" in "".join(f.text for f in examine() if f.subject == "notifications")
    file.write_text(
        "channels: {sms: {kind: command, argv: [/bin/false]}}\ncontacts: {wang: {via: [{channel: sms}]}}\n"
        "policies: [{steps: {P1: [{tell: [wang]}]}}]\n"
    )
    assert "never tested" in findings("warn")["notifications"]
    with closing(DeliveryJournal(data / "notify.sqlite")) as deliveries:
        out = Outgoing("wang/1", "wang", "sms", "", "en", True, [""], {"id": "wang/1", "contact": "wang", "lines": [], "more": 0})
        test = PathTest("notify.test-1", 1, 1, 1, 1, "failed", "not arrived: sms (wang)")
        deliveries.keep(Work(outgoing=[out], tests=[test]), 1)
        assert findings("bad")["notifications"] == "the newest test of the alarm path failed: not arrived: sms (wang)"
        deliveries.keep(Work(tests=[test._replace(state="passed")]), 1)
        assert findings("good")["notifications"] == "1 channels, 1 contacts"
        deliveries.failed("sms", deliveries.due("sms", 1)[0], 1, "no modem")
    assert findings("bad")["notifications"] == "channel sms: 1 failures in a row: no modem"


def test_wrong_settings_are_told_one_by_one(data: Path, tmp_path: Path) -> None:
    (tmp_path / "fieldloom.toml").write_text("web_prot = 1\nmqtt_port = 'x'\n")
    found = [finding for finding in examine() if finding.verdict == "bad"]
    assert [finding.text.split(": ")[1] for finding in found] == ["web_prot", "mqtt_port"]


def test_a_full_disk_is_told(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        monkeypatch.setenv("FIELDLOOM_DATA_DIR", str(disk / "data"))
        assert "256 MB are needed to start; free some" in findings("bad")["data directory"]


def test_a_missing_mosquitto_is_told_with_the_package(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("app.broker._PATH", str(tmp_path))
    assert "apt install mosquitto" in findings("bad")["broker"]


@pytest.fixture
def broker(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerAddress]:
    """Mosquitto as shipped; settings log in at the service's listener."""
    server = Broker(tmp_path / "broker", ["farm/a"])
    address = server.start()
    for name, value in (
        ("HOST", address.host),
        ("PORT", address.port),
        ("USERNAME", SERVICE),
        ("PASSWORD", address.passwords[SERVICE]),
    ):
        monkeypatch.setenv(f"FIELDLOOM_MQTT_{name}", str(value))
    yield address
    server.stop()


def test_a_broker_is_logged_in_to_as_core_does(broker: BrokerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings("good")["broker"] == f"127.0.0.1:{broker.port} lets fieldloom in"
    monkeypatch.setenv("FIELDLOOM_MQTT_PASSWORD", "wrong")
    assert "check FIELDLOOM_MQTT_USERNAME and FIELDLOOM_MQTT_PASSWORD" in findings("bad")["broker"]


def test_the_devices_listener_is_no_place_for_core(broker: BrokerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDLOOM_MQTT_PORT", str(broker.device_port))
    assert "that FIELDLOOM_MQTT_PORT is the core's own listener" in findings("bad")["broker"]


def test_a_listener_that_makes_client_ids_of_user_names_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that somebody set up by hand: core's two sessions would throw each other out for ever."""
    port = free_port()
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuse_username_as_clientid true\n")
    monkeypatch.setenv("FIELDLOOM_MQTT_HOST", "127.0.0.1")
    monkeypatch.setenv("FIELDLOOM_MQTT_PORT", str(port))
    monkeypatch.setenv("FIELDLOOM_MQTT_USERNAME", "core")
    with subprocess.Popen([str(find_mosquitto()), "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL) as broker:
        try:
            wait_until(lambda: answers(port), what="the broker listens")
            assert "makes client ids of user names" in findings("bad")["broker"]
        finally:
            broker.terminate()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves the socket of a failed handshake open
def test_a_broker_that_is_not_there_or_speaks_no_tls_is_told(
    broker: BrokerAddress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FIELDLOOM_MQTT_TLS", "true")
    assert "TLS fails" in findings("bad")["broker"]
    monkeypatch.setenv("FIELDLOOM_MQTT_CA_FILE", str(tmp_path / "ca.crt"))
    assert findings("bad")["broker"] == f"settings: mqtt_ca_file: there is no file {tmp_path / 'ca.crt'}"
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    assert "TLS fails" in findings("bad")["broker"]
    monkeypatch.setenv("FIELDLOOM_MQTT_TLS", "false")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        monkeypatch.setenv("FIELDLOOM_MQTT_PORT", str(taken.getsockname()[1]))
        assert "cannot be reached" in findings("bad")["broker"]
    gc.collect()  # paho's sockets, while their warning is ignored


@pytest.mark.parametrize("name", ["web.sqlite", "inbox.sqlite", "notify.sqlite"])
def test_a_damaged_database_is_told_with_what_is_lost_without_it(data: Path, name: str) -> None:
    (data / name).write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    assert "put back a copy, or move it aside" in findings("bad")[name]


def test_a_journal_that_lost_its_end_is_told(data: Path) -> None:
    for file in (data / "journal").glob("*.sqlite-wal"):
        file.unlink()
    for file in (data / "journal").glob("*.sqlite"):
        file.write_bytes(file.read_bytes()[:8192])
    assert "put back a copy" in findings("bad")["journal"]


def test_a_clock_behind_the_journal_is_told(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CoreStub.begin(tmp_path / "ahead", ahead_s=3 * 86_400).journal.close()
    monkeypatch.setenv("FIELDLOOM_DATA_DIR", str(tmp_path / "ahead"))
    assert "this machine's is 3 days behind the journal" in findings("bad")["clock"]


def test_files_of_somebody_else_are_told(data: Path) -> None:
    """As root everything is ours to write: the doctor is asked as nobody."""
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    data.parent.chmod(0o755)
    for directory in data.parents:
        if directory != Path("/") and not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    data.chmod(0o777)
    root = Path(__file__).parents[3]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    python = str(root / ".venv" / "bin" / "python")
    environment = os.environ | {"PYTHONPATH": str(root), "HOME": "/nonexistent"}
    if subprocess.run([*nobody, python, "-c", "import app"], cwd="/", env=environment, capture_output=True, check=False).returncode:
        pytest.skip("nobody may not read the program here")
    command = [*nobody, python, "-m", "app.cli", "doctor"]
    done = subprocess.run(command, cwd=data.parent, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert "not yours to write: " in done.stdout, done.stderr
    assert done.returncode == 1


def test_rules_in_force_that_cannot_run_are_noted(data: Path) -> None:
    rule = {"id": "GALE", "when": "weather.wind_m_s > 17"}
    profile = {"name": "small", "points": [{"name": "a_c", "unit": "C", "low": 0, "high": 9}], "rules": [rule]}
    site = SiteConfig.model_validate(
        {
            "site": "farm",
            "areas": [{"name": "h"}],
            "devices": [{"name": "d", "profile": "small", "area": "h"}],
            "profiles": {"small": profile},
        }
    )
    stub = CoreStub.begin(data.parent / "other")
    stub.write(records=[Config("farm", site.sha256(), site.canonical())])
    stub.journal.close()
    os.environ["FIELDLOOM_DATA_DIR"] = str(data.parent / "other")  # monkeypatch of `data` puts it back
    assert "rule GALE cannot run: no link 'weather'" in findings("warn")["site farm"]


def test_a_page_open_to_the_network_without_tls_is_noted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDLOOM_WEB_HOST", "0.0.0.0")
    assert "without TLS" in findings("warn")["safety"]

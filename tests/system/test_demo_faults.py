"""What can stand in the way of a demo: each ends it with one clear sentence that says what to do, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app.broker
import app.demo
from app.demo import run_demo
from app.settings import Settings
from store.place import owned
from telemetry.errors import ConfigError, EnvironmentFault
from tests.faults.disk import small_disk
from tests.faults.process import wait_until
from tests.faults.web_process import CoreStub

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]


def demo(data_dir: Path, *words: str, **environment: object) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FIELDLOOM_")}
    given = {"FIELDLOOM_DATA_DIR": str(data_dir), "FIELDLOOM_WEB_PORT": "0"} | {k: str(v) for k, v in environment.items()}
    command = [sys.executable, "-m", "app.cli", "demo", "--quiet", *words]
    return subprocess.run(command, cwd=ROOT, env=kept | given, capture_output=True, text=True, timeout=60, check=False)


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    assert done.returncode == code, done.stderr
    for words in says:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert done.stdout == ""


def test_a_port_in_use_is_told_with_the_option(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_sentence(demo(tmp_path / "data", "--port", str(port)), 1, f"port {port}", "in use", "--port")


def test_a_configured_port_in_use_is_not_exchanged_in_silence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_sentence(demo(tmp_path / "data", FIELDLOOM_WEB_PORT=port), 1, f"port {port}", "in use", "FIELDLOOM_WEB_PORT")


@pytest.mark.parametrize(("host", "says"), [("no.such.host.invalid", "is no address"), ("192.0.2.7", "has no address 192.0.2.7")])
def test_a_web_address_of_another_machine_is_told(tmp_path: Path, host: str, says: str) -> None:
    assert_one_sentence(demo(tmp_path / "data", FIELDLOOM_WEB_HOST=host), 1, says, "correct FIELDLOOM_WEB_HOST")


def test_a_broker_that_does_not_answer_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = demo(tmp_path / "data", FIELDLOOM_MQTT_HOST="127.0.0.1", FIELDLOOM_MQTT_PORT=1)
    assert_one_sentence(done, 1, "broker at 127.0.0.1:1 cannot be reached (Connection refused)", "or correct FIELDLOOM_MQTT_HOST")
    assert not (tmp_path / "data" / "inbox.sqlite").exists()


@pytest.mark.parametrize("name", ["journal", "web.sqlite", "inbox.sqlite"])
def test_a_damaged_file_is_told_with_the_way_on(tmp_path: Path, name: str) -> None:
    """Exit code 3, and one sentence that names the file. The journal: its entries are gone, but what was durable is known."""
    data = tmp_path / "data"
    stub = CoreStub.begin(data)
    stub.journal.close()
    for file in [data / name] if name != "journal" else (data / "journal").glob("*.sqlite*"):
        file.write_bytes(b"not a database" * 700)
    done = demo(data)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    assert name in sentence
    assert "put back a copy" in sentence


def test_a_damaged_history_ends_it_with_its_own_sentence(tmp_path: Path) -> None:
    """It is web that finds out: what its last words were is what the user reads, without the log around them."""
    data = tmp_path / "data"
    CoreStub.begin(data).journal.close()
    (data / "history.duckdb").write_bytes(b"not a database" * 700)
    (data / "log").mkdir()
    (data / "log" / "web.log").write_text("fieldloom: what an earlier run said\n")
    done = demo(data)
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("fieldloom: web ended at once: ")
    assert "is damaged; put back a copy, or move it aside" in sentence


def test_a_clock_behind_the_journal_is_told_and_the_demo_runs(tmp_path: Path) -> None:
    stub = CoreStub.begin(tmp_path / "data", ahead_s=7200)
    stub.journal.close()
    command = [sys.executable, "-m", "app.cli", "demo", "--quiet"]
    environment = os.environ | {"FIELDLOOM_DATA_DIR": str(tmp_path / "data"), "FIELDLOOM_WEB_PORT": "0", "LC_ALL": "C.UTF-8"}
    out = tmp_path / "out"
    with out.open("wb") as stream, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream) as process:
        try:
            wait_until(lambda: b"is ready after" in out.read_bytes(), deadline_s=60, what="the demo is ready")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "clock is 2 h behind" in out.read_text()
    assert "set the time" in out.read_text()


def test_a_data_directory_in_use_names_the_process(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with owned(tmp_path / "run", "fieldloom"):
        assert_one_sentence(demo(tmp_path), 1, f"process {os.getpid()}", "stop it first")


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk:
        assert_one_sentence(demo(disk / "data"), 1, "MB are free", "256 MB are needed", "free some")


def test_broken_settings_are_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "fieldloom.toml"
    file.write_text("log_level = 'info'\nweb_prot = 3\n")
    done = demo(tmp_path / "data", FIELDLOOM_CONFIG=file)
    assert_one_sentence(done, 2, f"{file}:2: web_prot: is not a setting", "did you mean web_port?", "correct and try again")


def run_here(data_dir: Path) -> int:
    settings = Settings(data_dir=data_dir, web_port=0, mqtt_host="")
    return asyncio.run(run_demo(settings, speed=60.0, seed=1, quiet=True))


def test_a_missing_mosquitto_is_told_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(app.broker, "_PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"is not installed.*apt install mosquitto.*FIELDLOOM_MQTT_HOST"):
        run_here(tmp_path / "data")


def test_a_broken_site_file_is_told_with_every_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "sites" / "nursery" / "site.yaml").read_text("utf-8")
    (tmp_path / "site.yaml").write_text(text.replace("area: house-1,", "area: house-9,").replace("latitude: 36.7", "latitude: 367"))
    monkeypatch.setattr(app.demo, "DEMO_SITES", (tmp_path,))
    with pytest.raises(ConfigError) as caught:
        run_here(tmp_path / "data")
    said = [str(problem) for problem in caught.value.problems]
    assert any("site.yaml:8: latitude:" in line for line in said), said
    assert any("area 'house-9' does not exist" in line for line in said), said


def test_a_child_that_cannot_start_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The broker's program is there and ends at once: everything is stopped again, and its last line is what the user reads."""
    broken = tmp_path / "mosquitto"
    broken.write_text("#!/bin/sh\necho 'Error: Unable to open config file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(app.demo, "find_mosquitto", lambda: broken)
    assert run_here(tmp_path / "data") == 1
    assert "broker ended at once: Error: Unable to open config file" in capsys.readouterr().err

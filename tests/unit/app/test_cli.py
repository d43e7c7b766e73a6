"""The command line: one sentence and an exit code for every expected failure."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import place_kernels
from app.demo import free_port
from app.serving import LineLogger
from store.influx_history import InfluxHistory
from store.influx_server import InfluxV1
from store.journal import Journal
from store.journal_reader import JournalReader
from store.place import owned
from store.projection import Projector
from telemetry.clock import EngineClock
from telemetry.errors import EnvironmentFault
from tests.faults.process import DEADLINE_S
from tests.faults.web_process import CoreStub, web_process

ROOT = Path(__file__).parents[3]


def fieldloom(*words: str, **environment: object) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FIELDLOOM_")}
    given = {f"FIELDLOOM_{name.upper()}": str(value) for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=kept | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory whose journal holds two configurations."""
    stub = CoreStub.begin(tmp_path)
    stub.journal.close()
    return tmp_path


def test_check_prints_every_mistake_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("site: Farm\nprofiles: [nothing]\nareas: []\ndevices: []\n")
    done = fieldloom("check", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/site.yaml:1: site:" in done.stdout
    assert f"{tmp_path}/site.yaml:2: profiles.0:" in done.stdout
    assert fieldloom("check", "sites/nursery").returncode == 0


async def test_why_answers_from_the_journal_from_web_and_from_the_history(tmp_path: Path) -> None:
    async def printed(*words: str, **environment: object) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(fieldloom, "why", *words, data_dir=tmp_path, **environment)

    core = CoreStub.begin(tmp_path)
    raised = {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "rule_version": 1, "value": 39.5}
    core.write(decisions=[("alarm", "HOT@north/house-1", raised | {"read": {"air_temp_c": 39.5}, "since_ns": core.clock.now_ns()})])
    journal = await printed("HOT@north/house-1")
    assert "Alarm active, not acknowledged (UNACK, P2) since " in journal.stdout, journal.stderr
    assert "Rule HOT, version 1: air_temp_c (39.5 °C) > 38" in journal.stdout
    async with web_process(tmp_path, core) as web:
        served = {"url": web.base_url, "token": web.token("ann", "viewer", None)}
        async with asyncio.timeout(DEADLINE_S):
            while "(39.5 °C)" not in (await printed("HOT@north/house-1", "--at", "0s", **served)).stdout:
                pass  # until the history has it
        unknown = await printed("HOTT@north/house-1", **served)
    assert (unknown.returncode, "did you mean HOT" in unknown.stderr) == (1, True)
    history = await printed("HOT@north/house-1")
    assert history.stdout.partition("\n")[2].partition("It began")[0] == journal.stdout.partition("\n")[2].partition("It began")[0]
    assert (await printed("north/house-1/roof_vent")).stdout.endswith("Nobody asked: rest position 0 %.\n")
    core.journal.close()


async def test_rules_are_listed_and_compared(tmp_path: Path) -> None:
    core = CoreStub.begin(tmp_path)
    raised = {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "rule_version": 1, "value": 39.5}
    core.write(decisions=[("alarm", "HOT@north/house-1", raised)])
    async with web_process(tmp_path, core) as web:
        served = {"url": web.base_url, "token": web.token("ann", "viewer", None), "data_dir": tmp_path}
        async with asyncio.timeout(DEADLINE_S):
            while "1 " not in (listed := (await asyncio.to_thread(fieldloom, "rules", "list", "north", **served)).stdout):
                pass  # until web has seen the alarm
        same = await asyncio.to_thread(fieldloom, "rules", "diff", "north", "south", **served)
        other = await asyncio.to_thread(fieldloom, "rules", "diff", "north", "sites/nursery", **served)
        unknown = await asyncio.to_thread(fieldloom, "rules", "list", "east", **served)
    core.journal.close()
    assert listed.splitlines()[0] == "north"
    assert listed.splitlines()[2].split()[:5] == ["HOT", "1", "enabled", "P2", "1"]
    assert same.stdout == "No rule differs.\n"
    assert other.stdout.startswith("removed HOT\n")
    assert "added WS-SILENT (weather_station)\n" in other.stdout
    assert (unknown.returncode, "There is no such site" in unknown.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vent",), "write RULE@site/device or site/device/actuator"),
        (("HOT@north/house-9",), "site 'north' has no device 'house-9'"),
        (("HOT@north/house-1", "--at", "yesterday"), "'yesterday' is not a"),
        (("HOT@nowhere/house-1",), "nothing is recorded of a site 'nowhere'"),
    ],
)
def test_why_refuses_in_one_sentence(data_dir: Path, words: tuple[str, ...], said: str) -> None:
    done = fieldloom("why", *words, data_dir=data_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_decision_log_of_a_journal_has_one_hash(data_dir: Path) -> None:
    journal = fieldloom("decisions", "--journal", "--hash", data_dir=data_dir)
    assert journal.returncode == 0, journal.stderr
    assert journal.stdout.split()[1:3] == ["decisions", "sha256"]
    assert journal.stdout == fieldloom("decisions", "--hash", data_dir=data_dir).stdout
    refused = fieldloom("decisions", "--recompute", "history", "--history", data_dir=data_dir)
    assert (refused.returncode, "choose one of --journal, --history, --lane and --recompute" in refused.stderr) == (1, True)


async def test_decision_log_of_the_history_is_that_of_the_journal_with_web_and_without(tmp_path: Path) -> None:
    async def printed(*words: str) -> subprocess.CompletedProcess[str]:
        done = await asyncio.to_thread(fieldloom, "decisions", *words, data_dir=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    core = CoreStub.begin(tmp_path)
    odd = {"温度": [1 / 3, -0.0, 5e-324, None], "text": "太热 🌡\u2028", "empty": {}}
    for k in range(50):
        core.write(decisions=[("command", f"north/house-{k % 2}/roof_vent", {}), ("alarm", "HOT@north/house-1", odd)])
    journal = await printed("--journal")
    assert journal.stdout.count("\n") == 100
    async with web_process(tmp_path, core) as web:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "web.ready").write_text(web.base_url)  # as `serve web` tells its address
        async with asyncio.timeout(DEADLINE_S):
            while "behind" in (stored := await printed("--history")).stderr:
                pass
        assert (stored.stdout, stored.stderr) == (journal.stdout, "")
        assert (await printed("--history", "--hash")).stdout == (await printed("--journal", "--hash")).stdout
    core.write(decisions=[("alarm", "HOT@north/house-1", {"to": "NORM"})])
    core.journal.close()
    from_file = await printed("--history")  # web is down
    assert from_file.stdout == journal.stdout
    assert "1 behind the journal" in from_file.stderr


def test_decision_log_beside_influxdb_needs_no_server(tmp_path: Path) -> None:
    core = CoreStub.begin(tmp_path)
    for k in range(3):
        core.write(decisions=[("alarm", f"HOT@north/house-{k % 2}", {"k": k / 3})])
    history = InfluxHistory(tmp_path / "history.sqlite", InfluxV1("http://127.0.0.1:1", "unused"))
    reader, projector = JournalReader(tmp_path / "journal"), Projector(history, now_s=lambda: 0.0)
    while projector.follow(reader):
        pass
    projector.flush()
    for part in (history, reader, core.journal):
        part.close()
    stored = fieldloom("decisions", "--history", data_dir=tmp_path, history="influx", influx_url="http://127.0.0.1:1")
    assert (stored.returncode, stored.stderr) == (0, "")
    assert stored.stdout == fieldloom("decisions", data_dir=tmp_path).stdout
    assert stored.stdout.count("\n") == 3
    refused = fieldloom("decisions", "--recompute", "history", data_dir=tmp_path, history="influx", influx_url="http://127.0.0.1:1")
    assert (refused.returncode, "use --recompute journal, or a history in DuckDB" in refused.stderr) == (1, True)


def test_status_of_a_journal_adds_up(data_dir: Path) -> None:
    done = fieldloom("status", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert "received" in done.stdout


@pytest.mark.parametrize(
    ("words", "settings", "code", "says"),
    [
        (["status"], {}, 1, "nothing was ever journaled"),
        (["query", "nowhere"], {}, 1, "write site/device/point"),
        (["decisions", "--history"], {}, 1, "there is no history in"),
        (["decisions", "--history"], {"url": "http://127.0.0.1:1", "token": "x"}, 1, "no web process answers"),
        (["serve", "core"], {}, 1, "no broker is configured"),
        (["serve"], {}, 1, "no broker is configured"),
        (["status"], {"web_port": "many"}, 2, "FIELDLOOM_WEB_PORT"),
        (["apply", "sites/nursery"], {}, 1, "no session table"),
        (["status"], {"data_dir": "/proc/nothing"}, 1, "fieldloom:"),
    ],
)
def test_failures_are_one_sentence(tmp_path: Path, words: list[str], settings: dict[str, str], code: int, says: str) -> None:
    done = fieldloom(*words, **({"data_dir": tmp_path} | settings))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_second_core_is_refused_with_the_reason(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", clock=EngineClock(lambda: 1, lambda: 1))
    try:
        done = fieldloom("serve", "core", data_dir=tmp_path, mqtt_host="127.0.0.1", mqtt_port=1)
    finally:
        journal.close()
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_notify_is_refused(tmp_path: Path) -> None:
    """Two would tell everybody everything twice."""
    (tmp_path / "run").mkdir()
    with owned(tmp_path / "run", "notify"):
        done = fieldloom("serve", "notify", data_dir=tmp_path)
    assert done.returncode == 1
    assert "notify runs already as process" in done.stderr


def test_a_mistake_in_who_is_told_is_told_before_anything_starts_and_ends_notify_alone_later(tmp_path: Path) -> None:
    """Under supervision exit code 2 would end all: control does not stop for a misspelt contact."""
    file = tmp_path / "notify.yaml"
    file.write_text("channels: {}\ncontacts: {}\npolicies: [{steps: {P1: [{tell: [nobody]}]}}]\n")
    settings = {"data_dir": tmp_path, "notify_file": file, "mqtt_host": "127.0.0.1", "mqtt_port": 1, "web_port": 0}
    whole = fieldloom("serve", **settings)
    assert (whole.returncode, f"{file}:3: policies.0.steps.P1.0.tell.0: there is neither" in whole.stderr) == (2, True), (
        whole.stderr
    )
    alone = fieldloom("serve", "notify", **settings)
    assert alone.returncode == 1
    assert "see `fieldloom notify check`" in alone.stderr
    assert fieldloom("notify", "check", **settings).returncode == 2


def test_an_interrupt_while_the_program_loads_leaves_no_traceback() -> None:
    """Python tells each module that it has loaded; the command's own modules come after these."""
    argv = [sys.executable, "-X", "importtime", "-m", "app.cli", "lab", "sites/nursery"]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith(" pydantic_core\n"):
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in said


def test_a_port_in_use_is_told_or_avoided() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault, match="--port"):
            free_port("127.0.0.1", port, must=True)
        assert free_port("127.0.0.1", port, must=False) != port


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frobnicate"], "no such command 'frobnicate'; see `fieldloom --help`"),
        (["status", "--nope"], "no such option: --nope; see `fieldloom status --help`"),
        (
            ["login", "--role", "king"],
            "'--role': 'king' is not one of 'viewer', 'operator', 'engineer', 'admin'; see `fieldloom login --help`",
        ),
        (["tail", "--count", "1x"], "'--count'"),
        (["play"], "missing argument 'file'"),
        (["lab", "/nowhere"], "'/nowhere' does not exist"),
        (["serve", "everything"], "'everything' is not one of 'core', 'notify', 'web'"),
        (["demo", "--port", "70000"], "'--port'"),
    ],
)
def test_wrong_words_are_one_sentence_that_names_the_help(words: list[str], says: str) -> None:
    done = fieldloom(*words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("fieldloom: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("writable", "kept"),
    [
        (("rules",), "rules/__pycache__/kernels"),
        (("home",), "home/.cache/fieldloom/kernels"),
        (("data",), "data/kernels"),
        ((), "fieldloom-kernels-"),
    ],
)
def test_kernels_are_kept_where_something_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: tuple[str, ...], kept: str
) -> None:
    """A service user without a home, and a program that somebody else installed: numba would refuse to load."""
    (tmp_path / "data").mkdir()
    places = {"rules": ROOT / "rules", "home": tmp_path / "home", "data": tmp_path / "data"}
    monkeypatch.setattr(
        "app.cli.os.access",
        lambda path, _mode: Path(path) in [places[name] for name in writable] or "fieldloom-kernels-" in str(path),
    )
    monkeypatch.setenv("HOME", str(places["home"]))
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FIELDLOOM_DATA_DIR", str(places["data"]))
    place_kernels()
    first = os.environ["NUMBA_CACHE_DIR"]
    assert kept in str(Path(first).parent)
    place_kernels()
    assert os.environ["NUMBA_CACHE_DIR"] == first, "a child process keeps them where its parent does"


@pytest.mark.parametrize("package", ["rules", "ingest"])
def test_kernels_of_another_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """A function is compiled into those of other files, whose own text did not change."""
    for name in ("rules", "ingest"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("app.cli.__file__", str(tmp_path / "app" / "cli.py"))
    places = []
    for text in ("", "\n", ""):
        (tmp_path / package / "__init__.py").write_text(text)
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
        place_kernels()
        places.append(Path(os.environ["NUMBA_CACHE_DIR"]))
    assert places[0] == places[2] != places[1]
    assert {place.parent for place in places} == {tmp_path / "kernels"}


def test_a_log_line_that_the_disk_does_not_take_is_lost_and_nothing_else() -> None:
    with Path("/dev/full").open("w") as full:
        logger = LineLogger(full)
        logger.error("commit failed")
        with contextlib.suppress(OSError):  # what is left in the buffer
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # there is room again
        logger.info("goes on")
    logger.info("closed")

"""Settings: order of sources, all mistakes at once, secrets masked."""

from pathlib import Path

import pytest

from app.settings import Settings, load_settings
from telemetry.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "fieldloom.toml"
    path.touch()
    monkeypatch.setenv("FIELDLOOM_CONFIG", str(path))
    return path


def problems() -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    return [str(problem) for problem in caught.value.problems]


def test_environment_beats_file_beats_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("web_port = 9001\nmqtt_port = 1999\n")
    monkeypatch.setenv("FIELDLOOM_WEB_PORT", "9002")
    settings = load_settings()
    assert (settings.web_port, settings.mqtt_port, settings.gather_ms) == (9002, 1999, 4.0)
    assert load_settings(web_port=9003).web_port == 9003


def test_every_mistake_is_reported_at_once_with_its_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('web_port = 99999\nmisspelt = 1\nhistory = "csv"\n')
    monkeypatch.setenv("FIELDLOOM_COMMIT_ROWS", "many")
    found = problems()
    assert len(found) == 4
    assert any(f"{file}:1: web_port" in line for line in found)
    assert any(f"{file}:2: misspelt: is not a setting" in line for line in found)
    assert any(f"{file}:3: history" in line for line in found)
    assert any("environment: FIELDLOOM_COMMIT_ROWS" in line for line in found)


def test_a_file_that_is_not_toml_is_named_with_its_line(file: Path) -> None:
    file.write_text("web_port = 1\nthis is not toml\n")
    assert problems()[0].startswith(f"{file}:2:")


def test_settings_cannot_be_changed_once_read(file: Path) -> None:
    del file
    with pytest.raises(ValueError, match="frozen"):
        load_settings().web_port = 1  # type: ignore[misc]


def test_secrets_never_show(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del file
    for name in ("MQTT_PASSWORD", "INFLUX_TOKEN"):
        monkeypatch.setenv(f"FIELDLOOM_{name}", "canary-secret")
    monkeypatch.setenv("FIELDLOOM_MQTT_USERNAME", "core")
    settings = load_settings()
    assert "canary-secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    monkeypatch.setenv("FIELDLOOM_WEB_PORT", "wrong")
    assert "canary-secret" not in "\n".join(problems())


@pytest.mark.parametrize("version", ["1", "2"])
def test_version_of_influxdb_is_taken_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    del file
    monkeypatch.setenv("FIELDLOOM_INFLUX_VERSION", version)
    assert load_settings().influx_version == int(version)


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("http://127.0.0.1:8086", True), ("https://tsdb.example.org/behind/proxy/", True), ("http://[::1]:8086", True),
        ("influx:8086", False), ("http://me:secret@host:8086", False), ("http://host/?u=me", False),
    ],
)  # fmt: skip
def test_address_of_influxdb_has_no_secret_in_it(file: Path, monkeypatch: pytest.MonkeyPatch, url: str, is_good: bool) -> None:
    del file
    monkeypatch.setenv("FIELDLOOM_INFLUX_URL", url)
    if is_good:
        assert load_settings().influx_url == url
    else:
        assert "without user, password or query" in problems()[0]
        assert "secret@" not in problems()[0]


def test_saboteurs_are_a_list_of_words(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del file
    monkeypatch.setenv("FIELDLOOM_SABOTAGE", "open_acl, skip_crc")
    assert load_settings().sabotage == frozenset({"open_acl", "skip_crc"})


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_an_unknown_variable_is_an_error_with_the_one_that_was_meant(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("web_prot = 1\n")
    monkeypatch.setenv("FIELDLOOM_WEB_PROT", "9")
    monkeypatch.setenv("FIELDLOOM_ZZZ", "9")
    monkeypatch.setenv("FIELDLOOM_TEST_INFLUX_URL", "http://127.0.0.1:1")  # another reader's
    assert problems() == [
        "environment: FIELDLOOM_WEB_PROT: is not a setting; did you mean FIELDLOOM_WEB_PORT?",
        "environment: FIELDLOOM_ZZZ: is not a setting; see docs/operations.md",
        f"{file}:1: web_prot: is not a setting; did you mean web_port?",
    ]


def test_what_was_given_is_told_unless_it_is_secret(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("mqtt_password = 77\n")
    monkeypatch.setenv("FIELDLOOM_DISK_FREE_MB", "3")
    environment, secret = problems()
    assert environment == "environment: FIELDLOOM_DISK_FREE_MB: must be greater than or equal to 64 (it is '3')"
    assert "mqtt_password" in secret
    assert "77" not in secret


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a = = 1", "cannot be read"),
        (b"[web]\nport = 1", "is not a setting"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(file: Path, content: bytes | None, says: str) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    (problem,) = problems()
    assert problem.startswith(str(file))
    assert says in problem


def test_a_file_saved_with_a_byte_order_mark_is_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfweb_port = 3333\n")
    assert load_settings().web_port == 3333


def test_an_empty_variable_counts_as_not_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose file hands on variables that nobody set as empty ones."""
    file.write_text("web_port = 9001\n")
    monkeypatch.setenv("FIELDLOOM_NOTIFY_FILE", "")
    monkeypatch.setenv("FIELDLOOM_WEB_PORT", "")
    settings = load_settings()
    assert (settings.notify_file, settings.web_port) == (None, 9001)

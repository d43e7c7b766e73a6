"""notify.yaml: every mistake at once with its line, secrets checked where they stand and never shown."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from app.notify_file import load_notify, reveal
from app.settings import load_settings
from app.site_files import load_site
from people.roster import NotifyConfig, Secret
from telemetry.errors import ConfigError

GOOD = """\
zone: Asia/Shanghai
channels:
  post: {kind: mail, host: smtp.example.com, username: alarm, password: {file: smtp.password}, sender: alarm@example.com}
  group: {kind: dingtalk, url: {env: ROBOT_URL}, secret: {env: ROBOT_SECRET}}
  sms: {kind: command, argv: [/usr/local/bin/send-sms, "{address}"], test: false}
contacts:
  wang: {language: zh, via: [{channel: post, address: wang@example.com}, {channel: sms, address: "+8613800001111"}]}
  everybody: {via: [{channel: group}]}
rosters:
  duty:
    weekly:
      - {days: [mon, tue], start: 20:00, end: "06:00", contact: wang}
    overrides:
      - {day: 2026-10-01, until: 2026-10-07, contact: everybody}
    otherwise: wang
policies:
  - steps:
      P1: [{tell: [duty, everybody]}, {after_min: 5, tell: [wang]}]
quiet: {start: 22:00, end: "06:30"}
self_test: {at: "10:00", days: [mon], tell: [wang]}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDLOOM_CONFIG", str(tmp_path / "fieldloom.toml"))
    (tmp_path / "fieldloom.toml").touch()
    monkeypatch.setenv("ROBOT_URL", "https://example.com/robot?key=canary-secret")
    monkeypatch.setenv("ROBOT_SECRET", "canary-secret")
    password = tmp_path / "smtp.password"
    password.write_text("canary-secret\n")
    password.chmod(0o600)
    path = tmp_path / "notify.yaml"
    path.write_text(GOOD)
    return path


def load() -> NotifyConfig:
    return load_notify(load_settings())


def problems() -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load()
    found = [str(problem) for problem in caught.value.problems]
    assert "canary-secret" not in "".join(found)
    return found


def test_file_beside_the_settings_is_taken(file: Path) -> None:
    config = load()
    assert config.quiet is not None
    assert (config.quiet.start, config.quiet.end) == (22 * 60, 6 * 60 + 30), "22:00 without quotes is a number in YAML"
    assert config.rosters["duty"].weekly[0].start == 20 * 60
    assert reveal(Secret(file="smtp.password"), file.parent) == "canary-secret"


def test_examples_of_the_document_hold(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text("utf-8")
    whole, siren = (
        yaml.safe_load(textwrap.dedent(part)) for part in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    )
    assert list(NotifyConfig.model_validate(whole).problems()) == []
    house = {"name": "house", "points": [{"name": "air_temp_c", "unit": "C", "low": -30, "high": 60}]}
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "house.yaml").write_text(yaml.safe_dump(house))
    siren["devices"].append({"name": "house-1", "profile": "house", "area": "fattening"})
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"v": 1, "site": "pigs", "profiles": ["siren", "house"], **siren}))
    assert len(load_site(tmp_path).rules) == 1


def test_without_a_file_the_log_is_told(file: Path) -> None:
    file.unlink()
    assert list(load().channels) == ["log"]


def test_named_file_must_exist(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDLOOM_NOTIFY_FILE", str(file.with_name("other.yaml")))
    assert problems() == [f"{file.with_name('other.yaml')}: (whole file): does not exist"]


def test_every_name_that_means_nothing_is_told_with_its_line(file: Path) -> None:
    file.write_text(
        GOOD.replace("channel: group}", "channel: grup}")
        .replace("otherwise: wang", "otherwise: wong")
        .replace("duty, every", "dty, every")
    )
    assert problems() == [
        f"{file}:8: contacts.everybody.via.0.channel: there is no channel 'grup'",
        f"{file}:15: rosters.duty.otherwise: there is no contact 'wong'",
        f"{file}:18: policies.0.steps.P1.0.tell.0: there is neither a contact nor a roster 'dty'",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("kind: mail", "kind: fax", 3, "fax"),
        ("host: smtp.example.com, ", "", 3, "channels.post.host: is missing"),
        ("username: alarm, ", "", 3, "username and password go together"),
        ("username: alarm", "security: none, username: alarm", 3, "over TLS only"),
        ("address: wang@example.com", "address: wang", 7, "needs an e-mail address"),
        ("address: wang@example.com", 'address: "@"', 7, "needs an e-mail address"),
        ("{kind: dingtalk", "{kind: wecom", 4, "has no signature"),
        ("url: {env: ROBOT_URL}", "url: https://example.com/robot", 4, "channels.group.url"),
        ("{env: ROBOT_SECRET}", "{env: FIELDLOOM_ROBOT}", 4, "names beginning with FIELDLOOM_ are settings"),
        ("{env: ROBOT_URL}", "https://example.com/?key=canary-secret", 4, "channels.group.url"),
        ("{env: ROBOT_SECRET}", "canary-secret", 4, "channels.group.secret"),
        ("{file: smtp.password}", "canary-secret", 3, "channels.post.password"),
        ("{env: ROBOT_SECRET}", "{}", 4, "either {env: NAME} or {file: /path}"),
        ("{env: ROBOT_SECRET}", "{env: NOBODY_SET_IT}", 4, "the environment has no NOBODY_SET_IT"),
        ("file: smtp.password", "file: nowhere", 3, "make it, with mode 0600"),
        ("start: 20:00", "start: 25:00", 12, "must be a time of day such as \"06:30\""),
        ("after_min: 5", "after_min: 0", 17, "after_min must rise"),
        ("steps:\n", "site: farm\n    steps:\n", 17, "the last policy must name no site"),
        ("until: 2026-10-07", "until: 2026-09-07", 14, "until must not be before day"),
        ("Asia/Shanghai", "Asia/Shanghigh", 1, "no time zone"),
        ("quiet:", "quite:", 19, "is not a known field"),
    ],
)  # fmt: skip
def test_mistakes_have_their_line_and_fix(file: Path, old: str, new: str, line: int, says: str) -> None:
    file.write_text(GOOD.replace(old, new, 1))
    found = problems()
    assert any(f"{file}:{line}: " in problem and says in problem for problem in found), found


def test_secret_that_others_can_read_is_refused(file: Path) -> None:
    (file.parent / "smtp.password").chmod(0o644)
    [problem] = problems()
    assert problem.startswith(f"{file}:3: channels.post.password: ")
    assert problem.endswith(f"chmod 600 {file.parent / 'smtp.password'}")

"""Scenarios: their notation, what is told when something differs, and that those that are shipped hold every figure of their rules."""

import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.mutations import mutants, survivors
from app.scenario_run import judge, run_cases
from app.scenarios import load_all, load_site_suites, shipped_files, window
from app.series import Part, length_ns, length_words, parse_series
from app.site_files import SHIPPED, load_site
from telemetry.errors import CallerError, ConfigError
from telemetry.site import RuleSpec

MIN = 60_000_000_000
SITES = Path(__file__).parents[3] / "sites"
FILES = {path.stem: path for path in shipped_files()}


# -- notation ----------------------------------------------------------------------------------------------------------------------


def test_a_series_is_read_part_by_part() -> None:
    parts = parse_series("20 for 10 min, ramp to 40 in 5 min, gap 3 min, bad for 1 min, rise 12 in 1 h, RUN", {"RUN": 2.0})
    assert parts == [
        Part(0, 10 * MIN, "value", 20, 20),
        Part(10 * MIN, 15 * MIN, "value", 20, 40),
        Part(15 * MIN, 18 * MIN, "gap", 40, 40),
        Part(18 * MIN, 19 * MIN, "bad", 40, 40),
        Part(19 * MIN, 79 * MIN, "value", 40, 52),
        Part(79 * MIN, None, "value", 2, 2),
    ]
    assert parts[1].at(12 * MIN + MIN // 2) == 30


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("20 for ten minutes", "is not understood"),
        ("20, 30 for 1 min", "does not say how long"),
        ("ramp to 5", "does not say how long"),
        ("HOT for 1 min", "neither a number nor a state"),
        ("20 for 1 fortnight", "no length of time"),
        ("", "is not understood"),
    ],
)
def test_a_wrong_series_is_told_with_its_fix(text: str, told: str) -> None:
    with pytest.raises(CallerError, match=told):
        parse_series(text, {})


def test_lengths_and_moments() -> None:
    assert length_ns("1 h 2 min 3.5 s") == 3_723_500_000_000
    assert length_words(3_723_000_000_000) == "1 h 2 min 3 s"
    assert window("13 min .. 14 min") == (13 * MIN, 14 * MIN)


# -- what is told ------------------------------------------------------------------------------------------------------------------

FILE = """\
profile: weather_station
scenarios:
  - {name: one, rule: WS-SILENT, series: {wind_speed_m_s: 3, frames: "sent for 5 min, gap for 10 min"}, ACTIVE}
"""


def differences(tmp_path: Path, active: str, text: str = FILE) -> list[str]:
    path = tmp_path / "one.yaml"
    path.write_text(text.replace("ACTIVE", active))
    (suite,) = load_all([path], SHIPPED)
    return judge(suite.cases[0], run_cases(suite.cases, suite.sites)[0])


def test_what_differs_is_told_with_times_and_the_expression(tmp_path: Path) -> None:
    assert differences(tmp_path, "active: 7 min") == []
    (told,) = differences(tmp_path, "active: 8 min")
    assert told.startswith("WS-SILENT (silent(3 min), after 0 s): expected on at 8 min, comes on at 7 min")
    (told,) = differences(tmp_path, "active: never")
    assert "comes on at 7 min, which is not expected" in told
    (told,) = differences(tmp_path, "active: [7 min, 9 min]")
    assert "expected off at 9 min, stays on" in told


def test_an_alarm_that_nobody_expects_is_a_difference(tmp_path: Path) -> None:
    text = FILE.replace("rule: WS-SILENT", "rule: WS-WIND-FROZEN")
    (told,) = differences(tmp_path, "lasts: 15 min", text)
    assert told.startswith("WS-SILENT")
    assert "not expected" in told


def test_mistakes_of_a_file_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "profile: weather_station\nscenarios:\n"
        "  - {name: a, rule: WS-SILENT, series: {temp: 3}}\n"
        "  - {name: b, rule: WS-SILENCE, series: {temp_c: 3 for 1 min}}\n"
        "  - {name: c, rule: WS-SILENT, series: {temp_c: 3 for ever}}\n"
        "  - {name: d, rule: WS-SILENT, row: NONE, series: {temp_c: 3 for 1 min}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_all([path], SHIPPED)
    told = [(problem.line, problem.message) for problem in caught.value.problems]
    assert [line for line, _ in told] == [3, 4, 5, 6]
    for (_, message), part in zip(
        told, ["no point 'temp'", "no rule 'WS-SILENCE'", "not understood", "no row 'NONE'"], strict=True
    ):
        assert part in message


MEMBERS = """\
profile: ring_frame
scenarios:
  - {name: one, rule: SP-SLIP, every: 10 s, series: {machine_state: RUN, spindle_rpm: "17500 for 3 min", GIVEN}, ACTIVE}
"""


@pytest.mark.parametrize(
    ("given", "active"),
    [
        ("spindle_rpm 1824: 16000", "30 s"),
        ("spindle_rpm 5-8: 17500 for 1 min, spindle_rpm 7: 16000 for 1 min", "30 s"),
        ("spindle_rpm 7: '16000 for 20 s, bad for 1 min, 16000 for 20 s, 17500'", "1 min 30 s"),
        ("spindle_rpm 7: '16000 for 20 s, gap for 1 min, 16000'", "1 min 50 s"),
        ("spindle_rpm 7: 17200", "never"),
    ],
)
def test_single_members_read_what_their_series_says(tmp_path: Path, given: str, active: str) -> None:
    told = differences(tmp_path, f"active: {active}", MEMBERS.replace("GIVEN", given))
    assert [line for line in told if "expected on" in line or "not expected" in line] == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("spindle_rpm 0: 1", "counted from 1"),
        ("spindle_rpm 1825: 1", "has 1824 members"),
        ("spindle_rpm 8-7: 1", "has 1824 members"),
        ("spindle_rpm x: 1", "counted from 1"),
        ("build_pct 1: 1", "has no members"),
        ("spindle_breaks 1: 1", "a series 'spindle_breaks'"),
    ],
)
def test_a_wrong_member_is_told_with_its_fix(tmp_path: Path, given: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        differences(tmp_path, "active: never", MEMBERS.replace("GIVEN", given))


# -- of a site ---------------------------------------------------------------------------------------------------------------------


def test_a_site_has_scenarios_of_its_own_rules(tmp_path: Path) -> None:
    site = tmp_path / "nursery"
    shutil.copytree(SITES / "nursery", site)
    (site / "rules").mkdir()
    (site / "rules" / "own.yaml").write_text(
        "- {id: OWN, area: house-2, profile: multispan, when: air_temp_c > 31, priority: P4, message: {en: hot, zh: 热}}\n"
    )
    (site / "scenarios" / "own.yaml").write_text(
        "scenarios:\n"
        '  - {name: warm, rule: OWN, device: climate-2, series: {air_temp_c: "30 for 5 min, 32 for 1 min"}, active: 5 min}\n'
        '  - {name: elsewhere, rule: MS-T-HH, device: climate-1, series: {air_temp_c: "30 for 5 min, 32 for 1 min"}}\n'
    )
    suites = load_site_suites(load_site(site), site)
    found = [
        judge(case, seen) for suite in suites for case, seen in zip(suite.cases, run_cases(suite.cases, suite.sites), strict=True)
    ]
    assert len(found) == 4
    assert found == [[]] * 4


def test_the_command_tells_what_failed_and_writes_junit(tmp_path: Path) -> None:
    path, junit = tmp_path / "one.yaml", tmp_path / "junit.xml"
    path.write_text(FILE.replace("ACTIVE", "active: 8 min"))
    done = CliRunner().invoke(app, ["rules", "test", str(path), "--junit", str(junit)])
    assert done.exit_code == 1
    assert "0 of 1 scenarios pass" in done.output
    assert f"{path}:3: one: WS-SILENT: one" in done.output
    suite = ET.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    path.write_text(FILE.replace("ACTIVE", "active: 7 min"))
    assert CliRunner().invoke(app, ["rules", "test", str(path)]).exit_code == 0


# -- those that are shipped --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_shipped_scenarios_pass(name: str) -> None:
    (suite,) = load_all([FILES[name]], SHIPPED)
    seen = run_cases(suite.cases, suite.sites)
    assert {case.title: told for case, one in zip(suite.cases, seen, strict=True) if (told := judge(case, one))} == {}


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_shipped_alarm_has_its_three_scenarios_and_its_row(name: str) -> None:
    (suite,) = load_all([FILES[name]], SHIPPED)
    missing = []
    for rule in suite.cases[0].profile.rules:
        if rule.priority is None:
            continue
        cases = [case for case in suite.cases if rule.id in case.scenario.rules]
        raised = any(case.expected[rule.id] for case in cases)
        almost = any(not case.expected[rule.id] for case in cases)
        cleared = any(off is not None for case in cases for _, off in case.expected[rule.id])
        if not (raised and almost and cleared and all(case.scenario.row for case in cases)):
            missing.append(rule.id)
    assert missing == []


# -- changed figures ---------------------------------------------------------------------------------------------------------------


def test_every_figure_of_a_rule_is_changed_and_switches_are_not() -> None:
    rule = RuleSpec(
        id="R", when="x > 10 and on_bool > 0.5 and silent(4 min)", clear="x < 8", on_delay_s=60, off_delay_s=0, priority="P1"
    )
    changes = [mutant.change for mutant in mutants(rule)]
    assert changes == [
        "", "when: 10 -> 8", "when: 10 -> 12", "when: 4 min -> 120 s", "clear: 8 -> 6.4", "clear: 8 -> 9.6", "on_delay_s: 60 -> 30",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["weather_station", "spinning_hall", "agv_fleet"])
def test_scenarios_notice_every_changed_figure(name: str) -> None:
    count, alive = survivors(load_all([FILES[name]], SHIPPED))
    assert count > 0
    assert alive == []


def test_a_figure_that_no_scenario_holds_survives() -> None:
    (suite,) = load_all([FILES["agv_fleet"]], SHIPPED)
    fewer = [case for case in suite.cases if not (case.scenario.rules == ["AGV-QUEUE"] and case.scenario.name == "almost")]
    _, alive = survivors([replace(suite, cases=fewer)])
    assert alive == ["agv_fleet: AGV-QUEUE: when: 600 -> 480: survives"]


@pytest.mark.torture
@pytest.mark.parametrize("name", FILES)
def test_all_scenarios_notice_every_changed_figure(name: str) -> None:
    assert survivors(load_all([FILES[name]], SHIPPED))[1] == []

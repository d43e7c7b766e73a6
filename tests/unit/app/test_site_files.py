"""Site directories: the shipped ones load, and every mistake is told at once with its line."""

from pathlib import Path

import pytest

from app.site_files import load_site, notes
from telemetry.errors import ConfigError, Problem

SITES = Path(__file__).parents[3] / "sites"

SITE = """\
site: farm
profiles: [small]
areas:
  - {name: house}
devices:
  - {name: a, profile: small, area: house}
rules:
  - {id: HOT, profile: small, when: air_temp_c > 30, priority: P2}
"""
PROFILE = """\
name: small
points:
  - {name: air_temp_c, unit: C, low: -10, high: 60}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "rules").mkdir()
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "profiles" / "small.yaml").write_text(PROFILE)
    return tmp_path


def mistakes(directory: Path) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_site(directory)
    return caught.value.problems


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SITES.glob("*/site.yaml")))
def test_shipped_sites_load(name: str) -> None:
    assert load_site(SITES / name).site == name


def test_rules_of_the_directory_are_added_in_order_of_file_names(directory: Path) -> None:
    (directory / "rules" / "b.yaml").write_text("- {id: B, when: air_temp_c > 1}\n")
    (directory / "rules" / "a.yaml").write_text("rules:\n  - {id: A, when: air_temp_c > 1}\n")
    assert [rule.id for rule in load_site(directory).rules] == ["HOT", "A", "B"]


def test_every_mistake_in_every_file_is_reported_at_once(directory: Path) -> None:
    wrong = SITE.replace("area: house}", "area: hous}").replace("  - {name: house}", "  - {name: house, colour: red}")
    (directory / "site.yaml").write_text(wrong + "zones: x\n")
    (directory / "profiles" / "small.yaml").write_text(PROFILE.replace("low: -10", "low: cold"))
    (directory / "rules" / "r.yaml").write_text("- {id: A, when: air_temp_c >}\n- {id: A, when: 1 > 0}\n")
    found = {(Path(p.file).name, p.line, p.path) for p in mistakes(directory)}
    assert ("site.yaml", 4, "areas.0.colour") in found
    assert ("site.yaml", 6, "devices.0.area") in found
    assert ("site.yaml", 9, "zones") in found
    assert ("small.yaml", 3, "points.0.low") in found
    assert ("r.yaml", 1, "0.when") in found
    assert ("r.yaml", 2, "1.id") in found


def test_a_rule_that_names_no_point_of_its_profile(directory: Path) -> None:
    (directory / "site.yaml").write_text(SITE.replace("air_temp_c > 30", "air_temperature > 30"))
    (problem,) = mistakes(directory)
    assert (problem.line, problem.path) == (8, "rules.0.when")
    assert "air_temperature" in problem.message


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("site: [unclosed\n", 2, "expected"),
        ("site: a\nsite: b\n", 2, "stands twice"),
        ("just words\n", 1, "expected a mapping"),
        ("site: !!python/object/apply:os.system [id]\n", 1, "could not determine a constructor"),
    ],
)
def test_broken_yaml_is_told_with_its_line(directory: Path, text: str, line: int, word: str) -> None:
    (directory / "site.yaml").write_text(text)
    found = mistakes(directory)
    assert any(problem.line == line and word in problem.message for problem in found), found


def messages(directory: Path) -> list[str]:
    return [str(problem).removeprefix(f"{directory}/") for problem in mistakes(directory)]


def test_names_that_stand_twice_are_told_beside_other_mistakes(directory: Path) -> None:
    """A model with a mistake in one field says nothing of the rest: names are checked on the file itself."""
    twice = SITE.replace("  - {name: house}", "  - {name: house}\n  - {name: house}") + "latitude: north\n"
    rules = "  - {id: HOT, profile: small, when: air_temp_c > 30, priority: P9}\n"
    (directory / "site.yaml").write_text(
        twice.replace("devices:\n", "devices:\n  - {name: a, profile: small, area: house}\n").replace(
            "latitude", f"{rules}latitude"
        )
    )
    points = "  - {name: air_temp_c, unit: C, low: -10, high: 60}\n"
    (directory / "profiles" / "small.yaml").write_text(
        PROFILE + points + "actuators:\n  - {name: vent, feedback: vent_pct, travel_s: -1}\n"
    )
    found = messages(directory)
    assert "site.yaml:5: areas.1.name: area 'house' is declared twice" in found
    assert "site.yaml:8: devices.1.name: device 'a' is declared twice" in found
    assert any("rule 'HOT' is declared twice (first in" in line for line in found), found
    assert any("site.yaml:12: latitude: must be a valid number (it is 'north')" in line for line in found), found
    assert "profiles/small.yaml:4: points.1.name: point 'air_temp_c' is declared twice" in found
    assert "profiles/small.yaml:6: actuators.0.feedback: no point 'vent_pct' in this profile" in found


def test_misspelt_fields_zones_units_and_points_name_what_was_meant(directory: Path) -> None:
    (directory / "site.yaml").write_text(
        SITE.replace("profile: small, area", "profle: small, area") + "orgin: LIVE\nzone: Asia/Shangai\n"
    )
    (directory / "profiles" / "small.yaml").write_text(PROFILE.replace("unit: C", "unit: Celsius"))
    found = messages(directory)
    assert "site.yaml:6: devices.0.profle: is not a known field; did you mean profile?" in found
    assert "site.yaml:9: orgin: is not a known field; did you mean origin?" in found
    assert "site.yaml:10: zone: no time zone 'Asia/Shangai', did you mean Asia/Shanghai?" in found
    assert "profiles/small.yaml:3: points.0.unit: unit 'Celsius' is not known: write 'C' for 'Celsius'" in found


def test_variants_of_one_value_are_one_mistake(directory: Path) -> None:
    (directory / "profiles" / "small.yaml").write_text(PROFILE + "actuators:\n  - {name: vent, fail_safe: shut}\n")
    assert messages(directory) == [
        "profiles/small.yaml:5: actuators.0.fail_safe: must be a valid number or must be 'hold' (it is 'shut')"
    ]


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("weather.temp_c > 3", "no link 'weather' in the rule's area"),
        ("air_temp_c", "a condition is expected here"),
        ("mast.nope > 3", "no point 'nope'"),
        ("air_temp_c > mast.wind_m_s", "mixes units: C and m/s"),
        ("silent(3 min)", "hysteresis needs a comparison"),
    ],
)
def test_a_rule_that_the_engine_could_not_bind_is_a_mistake(directory: Path, when: str, says: str) -> None:
    site = SITE.replace("{name: house}", "{name: house, links: {mast: m}}").replace("[small]", "[small, mast]")
    site = site.replace("rules:", "  - {name: m, profile: mast, area: house}\nrules:").replace(
        "when: air_temp_c > 30", f"hysteresis: 1, when: {when}"
    )
    (directory / "site.yaml").write_text(site)
    (directory / "profiles" / "mast.yaml").write_text("name: mast\npoints:\n  - {name: wind_m_s, unit: m/s, low: 0, high: 60}\n")
    (problem,) = mistakes(directory)
    assert (Path(problem.file).name, problem.line) == ("site.yaml", 9)
    assert says in problem.message


def test_rules_that_cannot_run_or_meet_no_device_are_noted(directory: Path) -> None:
    site = SITE.replace("{name: house}", "{name: house}\n  - {name: shed}") + "  - {id: IDLE, area: shed, when: air_temp_c > 1}\n"
    (directory / "site.yaml").write_text(site)
    (directory / "profiles" / "small.yaml").write_text(PROFILE + "rules:\n  - {id: GALE, when: weather.wind_m_s > 17}\n")
    assert notes(load_site(directory)) == [
        "rule GALE cannot run: no link 'weather' in the rule's area",
        "rule IDLE: no device is in its scope",
    ]


def test_a_tab_a_text_in_another_encoding_and_an_empty_file_are_told_plainly(directory: Path) -> None:
    (directory / "rules" / "tab.yaml").write_text("rules:\n\t- {id: A}\n")
    (directory / "rules" / "latin.yaml").write_bytes("- {id: Ä}\n".encode("latin-1"))
    (directory / "rules" / "empty.yaml").write_text("")
    assert messages(directory) == [
        "rules/empty.yaml:1: (whole file): expected a list of rules",
        "rules/latin.yaml: (whole file): is not UTF-8 text (byte 7); save it as UTF-8",
        "rules/tab.yaml:2: YAML: is indented with a tab; YAML takes blanks only",
    ]


def test_a_missing_directory_and_a_missing_profile_say_what_is_there(directory: Path, tmp_path: Path) -> None:
    assert mistakes(tmp_path / "nowhere")[0].message == "does not exist"
    (directory / "site.yaml").write_text(SITE.replace("[small]", "[small, large]"))
    (problem,) = mistakes(directory)
    assert "multispan" in problem.message


def test_nesting_bombs_end_as_one_mistake(directory: Path) -> None:
    for depth in (60, 5_000, 3_000_000):
        (directory / "site.yaml").write_text("a: " + "[" * depth)
        (problem,) = mistakes(directory)
        assert "nested" in problem.message


POINTS_WRONG = """\
name: small
points:
  - {name: air_temp_c, unit: C, low: -10, high: 60}
  - {name: x_c, unit: C, low: 0, high: 9, expression: y_c + 1}
  - {name: y_c, unit: C, low: 0, high: 9, redundant: [x_c, air_temp_c], tolerance: 1}
  - {name: z_kpa, unit: kPa, low: 0, high: 9, expression: air_temp_c * 2}
"""


def test_what_cannot_be_computed_is_told_with_its_line(directory: Path) -> None:
    (directory / "profiles" / "small.yaml").write_text(POINTS_WRONG)
    circle = "virtual point 'x_c' is computed of itself: farm/small/x_c -> farm/small/y_c -> farm/small/x_c"
    assert messages(directory) == [
        f"profiles/small.yaml:4: points.1: line 1, column 1: {circle}",
        f"profiles/small.yaml:5: points.2: line 1, column 1: {circle}",
        "profiles/small.yaml:6: points.3: line 1, column 1: this gives C, and kPa is wanted",
    ]


def test_wrong_calibrations_are_told_with_their_lines(directory: Path) -> None:
    day = "date: 2026-03-01, expires: 2027-03-01, by: li"
    (directory / "site.yaml").write_text(
        SITE
        + "calibrations:\n"
        + f"  - {{device: b, point: air_temp_c, offset: 1, {day}}}\n"
        + f"  - {{device: a, point: air_tmp_c, offset: 1, {day}}}\n"
        + f"  - {{device: a, point: air_temp_c, offset: 1, {day}}}\n"
        + f"  - {{device: a, point: air_temp_c, gain: 1.1, {day}}}\n"
        + "  - {device: a, point: air_temp_c, gain: 1.1, date: 2026-03-01, by: li}\n"
    )
    found = messages(directory)
    assert "site.yaml:10: calibrations.0.device: device 'b' does not exist" in found
    assert "site.yaml:11: calibrations.1.point: point 'air_tmp_c' does not exist" in found
    assert "site.yaml:13: calibrations.3.point: a/air_temp_c is calibrated twice; keep the newer line" in found
    assert any(text.startswith("site.yaml:14: calibrations.4.expires") for text in found)
    assert not any("calibration of" in text for text in found)


def test_a_site_with_points_of_every_kind_loads(directory: Path) -> None:
    profile = POINTS_WRONG.replace("y_c + 1", "air_temp_c + 1").replace("unit: kPa", "unit: C")
    (directory / "profiles" / "small.yaml").write_text(profile)
    line = "  - {device: a, point: air_temp_c, offset: 1, date: 2026-03-01, expires: 2027-03-01, by: li}\n"
    (directory / "site.yaml").write_text(SITE + "calibrations:\n" + line)
    site = load_site(directory)
    assert site.calibrations[0].expires == "2027-03-01", "YAML reads a bare day as a date"
    assert [rule.id for rule in site.profiles["small"].rules] == ["SENSORS-y_c"]
    assert notes(site) == []


def test_controllers_are_checked_in_profiles_and_where_their_devices_stand(directory: Path) -> None:
    profile = directory / "profiles" / "small.yaml"
    profile.write_text(f"{PROFILE}controllers:\n  - {{id: climate, kind: pig_house, parameters: {{co2_max_ppm: 20000}}}}\n")
    site = SITE.replace("{name: house}", "{name: house, control: {climate: {co2_mx_ppm: 2500}, climte: {}}}")
    (directory / "site.yaml").write_text(site)
    found = {(Path(problem.file).name, problem.line, problem.path): problem.message for problem in mistakes(directory)}
    assert "co2_max_ppm" in found["small.yaml", 5, "controllers.0"]
    assert "no parameter 'co2_mx_ppm'" in found["site.yaml", 4, "areas.0.control.climate"]
    assert "no device of this area has a controller 'climte'" in found["site.yaml", 4, "areas.0.control.climte"]
    profile.write_text(f"{PROFILE}controllers:\n  - {{id: climate, kind: pig_house}}\n")
    (directory / "site.yaml").write_text(SITE.replace("{name: house}", "{name: house, control: {climate: {co2_max_ppm: 2500}}}"))
    assert load_site(directory).areas[0].control == {"climate": {"co2_max_ppm": 2500}}

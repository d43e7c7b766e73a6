"""Site directories: the shipped ones load, and every mistake is told at once with its line."""

from pathlib import Path

import pytest

from app.site_files import load_site
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


def test_a_missing_directory_and_a_missing_profile_say_what_is_there(directory: Path, tmp_path: Path) -> None:
    assert mistakes(tmp_path / "nowhere")[0].message == "does not exist"
    (directory / "site.yaml").write_text(SITE.replace("[small]", "[small, large]"))
    (problem,) = mistakes(directory)
    assert "multispan" in problem.message


def test_nesting_bombs_end_as_one_mistake(directory: Path) -> None:
    (directory / "site.yaml").write_text("a: " + "[" * 5000)
    assert len(mistakes(directory)) == 1

"""Files of faults: every mistake is told with its line and the fix, and what is right becomes injections."""

from pathlib import Path

import pytest

from app.faults import load_faults
from app.site_files import load_site
from simulators.fault import Injection
from simulators.fleet import DEMO_START_S
from telemetry.errors import ConfigError

SITE = load_site(Path(__file__).parents[3] / "sites" / "nursery")


def load(tmp_path: Path, *lines: str) -> list[Injection]:
    file = tmp_path / "faults.yaml"
    file.write_text("faults:\n" + "".join(f"  - {line}\n" for line in lines), encoding="utf-8")
    return load_faults(file, SITE, DEMO_START_S)


def told(tmp_path: Path, *lines: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *lines)
    return [(problem.line, problem.path.rpartition(".")[2], problem.message) for problem in caught.value.problems]


def test_what_where_when_how_strong_and_how_long(tmp_path: Path) -> None:
    (found,) = load(tmp_path, "{what: bias, where: nursery/climate-1/air_temp_c, at: 2 h, for: 1 h 30 min, strength: -3}")
    assert found == Injection("bias", "climate-1", "air_temp_c", -3.0, DEMO_START_S + 7200, 5400.0)


def test_codes_of_the_handbook_and_stars_in_names(tmp_path: Path) -> None:
    found = load(tmp_path, "{what: F17, where: 'nursery/*', at: 60, for: 10 s}", "{what: F13, where: nursery/climate-?/vent_lee}")
    assert [(i.fault, i.device, i.at_s - DEMO_START_S) for i in found] == [
        *(("drive_stuck", f"climate-{number}", 0.0) for number in (1, 2, 3)),
        *(("broker_restart", name, 60.0) for device in SITE.devices for name in device.names()),
    ]


@pytest.mark.parametrize(
    ("text", "after_h"),
    [('"09:00"', 0), ('"13:30"', 4.5), ('"08:00"', 23), ("2026-04-11 09:00", 24), ("2026-04-10T05:00+00:00", 4), ("0.5 h", 0.5)],
)
def test_times_of_day_and_moments_are_those_of_the_site(tmp_path: Path, text: str, after_h: float) -> None:
    (found,) = load(tmp_path, f"{{what: dead, where: nursery/climate-1/co2_ppm, at: {text}}}")
    assert found.at_s == pytest.approx(DEMO_START_S + after_h * 3600)


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("{what: wet, where: nursery/climate-1/air_temp_c}", "what", "no fault 'wet'; there are stuck"),
        ("{what: dead, where: nursery/climate-1/air_c}", "where", "multispan has no point 'air_c'; there are air_temp_c"),
        ("{what: dead, where: nursery/climate-1}", "what", "name the point"),
        ("{what: dead, where: farm/climate-1/air_temp_c}", "where", "expected nursery/device"),
        ("{what: dead, where: nursery/climate-9/air_temp_c}", "where", "has no device 'climate-9'; it has weather-1, climate-1"),
        ("{what: late, where: nursery/climate-1, at: 5 hours}", "at", "is no length of time; write such as `90 s`"),
        ('{what: late, where: nursery/climate-1, at: "25:00"}', "at", "is no time; write such as"),
        ("{what: late, where: nursery/climate-1, at: 2026-04-01 09:00}", "at", "is before the begin, 2026-04-10 09:00"),
        ("{what: late, where: nursery/climate-1, for: long}", "for", "is no length of time"),
        ("{what: late, where: nursery/climate-1, for: 0}", "what", "must be longer than nothing"),
        ("{what: late, where: nursery/climate-1, strength: much}", "strength", "must be a valid number"),
        ("{what: late, where: nursery/climate-1, srength: 1}", "srength", "is not a known field"),
        ("{where: nursery/climate-1}", "what", "is missing"),
        ("late", "1", "must be"),
    ],
)
def test_every_mistake_has_its_line_and_its_fix(tmp_path: Path, line: str, field: str, message: str) -> None:
    ((number, where, found),) = told(tmp_path, "{what: late, where: nursery/climate-1}", line)
    assert (number, where) == (3, field)
    assert message in found


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    assert [line for line, _, _ in told(tmp_path, "{what: x, where: nursery/climate-1}", "{what: late, where: x}", "{what: 3}")] == [
        2, 3, 4, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "faults: no list\n", "- {what: late}\n", "faults: []\nmore: 1\n"])
def test_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a mapping with `faults`"):
        load_faults(file, SITE, 0.0)

"""What people read: both languages, the most urgent first, how many more, and no line that a name has forged."""

from typing import Any

import pytest

from people import wording

LINE = {"alarm": "HOT@farm/house-1", "site": "farm", "area": "a", "priority": "P2", "change": "raise", "step": 1,
        "raised_ms": 1_767_225_600_000, "time_ms": 1_767_225_660_000, "text": {"en": "Too hot", "zh": "过热"}}  # fmt: skip


def message(*changes: dict[str, Any], more: int = 0) -> dict[str, Any]:
    return {"id": "1", "contact": "wang", "lines": [LINE | change for change in changes], "more": more}


@pytest.mark.parametrize(
    ("made", "en", "zh"),
    [
        (message({}), "P2 Too hot", "P2 过热"),
        (message({"change": "clear"}), "P2 cleared Too hot", "P2 解除 过热"),
        (message({}, {"change": "clear"}), "P2: 2 alarms farm/a", "P2：2 条报警 farm/a"),
        (message({"change": "clear"}, {"change": "clear", "area": "b"}), "P2: 2 alarms cleared", "P2：2 条报警已解除"),
        (message({}, more=37), "P2: 38 alarms farm/a", "P2：38 条报警 farm/a"),
        (message({"text": {}}), "P2 HOT@farm/house-1", "P2 HOT@farm/house-1"),
        (message({"change": "test"}), "Test of the alarm path: no alarm", "报警通道测试：并非真实报警"),
    ],
)
def test_title(made: dict[str, Any], en: str, zh: str) -> None:
    assert (wording.title(made, "en"), wording.title(made, "zh")) == (en, zh)
    assert wording.title(made, "both") == f"{zh} / {en}"


def test_text_has_a_line_per_alarm_and_local_times() -> None:
    made = message({}, {"change": "clear"}, {"change": "repeat"}, *[{}] * 10, more=5)
    lines = wording.text(made, "en", "Asia/Shanghai").splitlines()
    assert lines[:3] == [
        "P2 Too hot [HOT@farm/house-1, farm/a] raised 01-01 08:00:00",
        "P2 Too hot [HOT@farm/house-1, farm/a] cleared 01-01 08:01:00 (raised 01-01 08:00:00)",
        "P2 Too hot [HOT@farm/house-1, farm/a] still not acknowledged, raised 01-01 08:00:00",
    ]
    assert (len(lines), lines[-1]) == (11, "and 8 more")
    assert wording.text(made, "zh", "Asia/Shanghai").splitlines()[-1] == "另有 8 条"


def test_names_forge_no_lines() -> None:
    made = message({"text": {"en": "a\r\nP1 fire\x1b[2J\u202e"}})
    assert wording.text(made, "en", "UTC").splitlines() == ["P2 a P1 fire [2J [HOT@farm/house-1, farm/a] raised 01-01 00:00:00"]

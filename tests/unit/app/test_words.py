"""What operators read exists in both languages."""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.routes.history import BucketRow, RawRow
from app import narrator, status, why, words
from app.commands import alarms, notify, rules
from app.demo import STOP_ORDER
from app.words import ZH, language, say, text_of
from people.measures import TARGETS

APP = Path(words.__file__).parent
TABLES = (
    narrator.EVENT_WORDS,
    narrator.ALARM_WORDS,
    narrator.COMMAND_WORDS,
    why.STATE_WORDS,
    why.BOUND_WORDS,
    why.LEVEL_WORDS,
    rules.WORDS,
)


def said() -> Iterator[str]:
    """Every literal that app/ passes to `say`, and the words of its tables."""
    for file in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    yield str(first.value)
    for table in TABLES:
        yield from table.values()
    yield from (label for label, *_ in alarms.FIGURES)
    yield from (*TARGETS, *alarms.LISTS)
    yield from (
        narrator.SERVICE,
        *narrator.ACTUATOR_MODES,
        *status.SUMS,
        *status.LABELS,
        *status.MARKS,
        *STOP_ORDER,
        " s",
        " min",
        " h",
        " days",
    )
    yield from (*status.FATES, *notify.STATES, *notify.CHANGES)
    yield from ({*BucketRow.model_fields, *RawRow.model_fields} - {"t_ms"})


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_everything_that_is_said_is_translated() -> None:
    assert sorted(set(said()) - set(ZH)) == []


def test_nothing_is_translated_that_is_never_said() -> None:
    assert sorted(set(ZH) - set(said())) == []


def test_a_translation_fills_in_the_same_places() -> None:
    assert [text for text, zh in ZH.items() if places(text) != places(zh)] == []
    assert [text for text, zh in ZH.items() if not re.search("[\u4e00-\u9fff]", zh)] == []


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
    ],
)
def test_the_locale_chooses_the_language(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], chosen: str) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language() == chosen
    assert say("core") == {"en": "core", "zh": "核心"}[chosen]
    assert text_of({"en": "hot", "zh": "过热"}) == {"en": "hot", "zh": "过热"}[chosen]
    assert text_of({"en": "hot"}) == "hot"

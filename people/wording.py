"""What a message says, in Chinese and English: a title of one line, and a text of a line per alarm. Pure."""

from datetime import datetime
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

LINES_SHOWN: Final = 10
Language = Literal["en", "zh", "both"]
_CHANGES: Final = {
    "en": {"raise": "raised", "repeat": "still not acknowledged, raised", "clear": "cleared", "test": "test"},
    "zh": {"raise": "触发", "repeat": "仍未确认，触发于", "clear": "解除", "test": "测试"},
}


def title(message: dict[str, Any], language: Language) -> str:
    """One line: worst priority, what happened, and how many."""
    if language == "both":
        return f"{title(message, 'zh')} / {title(message, 'en')}"
    lines, count = message["lines"], len(message["lines"]) + message["more"]
    first = lines[0]
    if first["change"] == "test":
        return {"en": "Test of the alarm path: no alarm", "zh": "报警通道测试：并非真实报警"}[language]
    if count > 1:
        is_over = all(line["change"] == "clear" for line in lines)
        what = {"en": " cleared" if is_over else "", "zh": "已解除" if is_over else ""}[language]
        words = {"en": f"{first['priority']}: {count} alarms{what}", "zh": f"{first['priority']}：{count} 条报警{what}"}[language]
        return f"{words} {_place(first)}".rstrip() if len({(line["site"], line["area"]) for line in lines}) == 1 else words
    what = _CHANGES[language]["clear"] if first["change"] == "clear" else ""
    return " ".join(filter(None, [first["priority"], what, _text(first, language)]))


def text(message: dict[str, Any], language: Language, zone: str) -> str:
    """A line per alarm, the most urgent first, and how many more there are."""
    if language == "both":
        return f"{text(message, 'zh', zone)}\n\n{text(message, 'en', zone)}"
    shown = message["lines"][:LINES_SHOWN]
    more = len(message["lines"]) - len(shown) + message["more"]
    found = [_line(line, language, zone) for line in shown]
    if more:
        found.append({"en": f"and {more} more", "zh": f"另有 {more} 条"}[language])
    return "\n".join(found)


def _line(line: dict[str, Any], language: Literal["en", "zh"], zone: str) -> str:
    if line["change"] == "test":
        return _text(line, language)
    at = _CHANGES[language][line["change"]]
    when = line["time_ms"] if line["change"] == "clear" else line["raised_ms"]
    raised = "" if line["change"] != "clear" else f" ({_CHANGES[language]['raise']} {_clock(line['raised_ms'], zone)})"
    place = _place(line)
    return f"{line['priority']} {_text(line, language)} [{line['alarm']}{', ' + place if place else ''}] {at} {_clock(when, zone)}{raised}"


def _place(line: dict[str, Any]) -> str:
    return "/".join(filter(None, (line["site"], line["area"])))


def _text(line: dict[str, Any], language: str) -> str:
    """In the reader's language, the other one where that is missing; control characters could forge lines and headers."""
    texts = line["text"]
    found = texts.get(language) or texts.get("zh" if language == "en" else "en") or line["alarm"]
    return " ".join("".join(c if c.isprintable() else " " for c in str(found)).split())


def _clock(time_ms: int, zone: str) -> str:
    return datetime.fromtimestamp(time_ms / 1000, ZoneInfo(zone)).strftime("%m-%d %H:%M:%S")

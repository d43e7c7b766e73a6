"""The short notation of what a point reads over time: `20 for 10 min, ramp to 40 in 5 min, gap 3 min, bad for 1 min, 40`.

The parts follow one another; the last one may leave out how long it lasts and goes on to the end. A number is held, `ramp to` goes
there in a straight line, `rise N in T` counts up by N (counters), `gap` sends nothing, `bad` sends values of bad quality, `nan`
sends no number. A state is written by its label.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from telemetry.errors import CallerError
from telemetry.plan import NS_PER_S

What = Literal["value", "gap", "bad", "nan"]
_UNIT_S: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(min|s|h|d)\b")
_NUMBER: Final = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_PART: Final = re.compile(
    rf"(?:(?P<ramp>ramp to|rise)\s+)?(?P<word>{_NUMBER}|[A-Za-z_]\w*)(?:\s+(?:for|in))?(?:\s+(?P<length>\d.*))?", re.ASCII
)
HELP: Final = "write parts such as `20 for 10 min`, `ramp to 40 in 5 min`, `rise 12 in 1 h`, `gap 3 min`, `bad for 1 min`"


def length_ns(text: str) -> int:
    """A length such as `1 h 30 min` [ns]. Raises CallerError."""
    if not re.fullmatch(rf"(\s*{_LENGTH.pattern}\s*)+", text):
        raise CallerError(f"{text!r} is no length of time; write such as `90 s`, `10 min` or `1 h 30 min`")
    return sum(round(float(number) * _UNIT_S[unit] * NS_PER_S) for number, unit in _LENGTH.findall(text))


def length_words(ns: float) -> str:
    """A length as it is read: `1 h 2 min 3 s`."""
    seconds = ns / NS_PER_S
    parts = []
    for unit, size in (("h", 3_600), ("min", 60)):
        if seconds >= size:
            parts.append(f"{seconds // size:g} {unit}")
            seconds %= size
    return " ".join([*parts, *([f"{seconds:.3g} s"] if seconds or not parts else [])])


@dataclass(frozen=True, slots=True)
class Part:
    """One part: from `start` to `end` after the scenario's begin [ns]; a value goes straight from `first` to `last`."""

    start: int
    end: int | None
    what: What
    first: float = 0.0
    last: float = 0.0

    def at(self, time_ns: int) -> float:
        """The value at a time inside it."""
        if self.end is None or self.first == self.last:
            return self.first
        return self.first + (self.last - self.first) * (time_ns - self.start) / (self.end - self.start)


def parse_series(text: str, labels: Mapping[str, float]) -> list[Part]:
    """Parts of a series; `labels` are numbers of named states. Raises CallerError with the part and how it is written."""
    parts: list[Part] = []
    now, value = 0, 0.0
    pieces = [piece.strip() for piece in text.split(",")]
    for index, piece in enumerate(pieces):
        found = _PART.fullmatch(piece)
        if found is None:
            raise CallerError(f"{piece!r} is not understood: {HELP}")
        length = None if found["length"] is None else length_ns(found["length"])
        if length is None and (index < len(pieces) - 1 or found["ramp"]):
            raise CallerError(f"{piece!r} does not say how long it lasts: {HELP}")
        end = None if length is None else now + length
        word = found["word"]
        if word in {"gap", "bad", "nan"}:
            what: What = "gap" if word == "gap" else "bad" if word == "bad" else "nan"
            parts.append(Part(now, end, what, value, value))
        else:
            number = _number(word, labels)
            goal = value + number if found["ramp"] == "rise" else number
            parts.append(Part(now, end, "value", value if found["ramp"] else goal, goal))
            value = goal
        now = now if end is None else end
    return parts


def _number(word: str, labels: Mapping[str, float]) -> float:
    if word in labels:
        return labels[word]
    try:
        return float(word)
    except ValueError:
        states = f"; its states are {', '.join(labels)}" if labels else ""
        raise CallerError(f"{word!r} is neither a number nor a state of this point{states}; {HELP}") from None

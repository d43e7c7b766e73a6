"""Parameters of controllers: fields of a frozen dataclass with their range, and those that a site gives in place of the defaults."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from telemetry.errors import CallerError

_RANGE: Final = ("low", "high")
_MOST: Final = 48  # numbers in a list
T = TypeVar("T")


def setting(default: float | None, low: float, high: float) -> Any:
    """A field that is one number within low..high; a whole number where the default is one. None: it need not be given."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def numbers(default: tuple[float, ...], low: float, high: float) -> Any:
    """A field that is as many numbers as its default, each within low..high."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "length": len(default)})


def ascending(default: tuple[float, ...], low: float, high: float) -> Any:
    """A field of up to 48 numbers that rise, each within low..high."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "length": None})


def rows(default: tuple[tuple[float, ...], ...], low: float, high: float, *, ascends: bool = True) -> Any:
    """A field of any number of pairs; the first of each ascends, the second is within low..high. Knots of a curve are such."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "ascends": ascends})


def settings(kind: type[T], given: Mapping[str, Any]) -> T:
    """An instance of a dataclass with what is `given` in place of its defaults.

    Raises
    ------
    CallerError : a name that is none, or a value of the wrong shape or beyond its range; it says what may be given
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise CallerError(f"no parameter {str(name)[:40]!r}; there are {', '.join(fields)}")
    return kind(**{name: _checked(fields[name], value) for name, value in given.items()})


def _checked(field: Any, value: Any) -> Any:
    low, high = (field.metadata[name] for name in _RANGE)
    if "ascends" in field.metadata:
        return _pairs(field, value, low, high)
    if "length" not in field.metadata:
        number = _number(field.name, value, low, high)
        if isinstance(field.default, int) and number != int(number):
            raise CallerError(f"{field.name} is {value!r}; give a whole number")
        return int(number) if isinstance(field.default, int) else number
    length = field.metadata["length"]
    if not isinstance(value, list | tuple) or len(value) > _MOST or (length is not None and len(value) != length):
        raise CallerError(f"{field.name} needs a list of {length or f'up to {_MOST}'} numbers of {low:g} to {high:g}")
    found = tuple(_number(field.name, each, low, high) for each in value)
    if length is None and any(a >= b for a, b in itertools.pairwise(found)):
        raise CallerError(f"{field.name} is {list(found)}; its numbers rise")
    return found


def _pairs(field: Any, value: Any, low: float, high: float) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) and len(row) == 2 for row in value):
        raise CallerError(f"{field.name} is a list of pairs, such as {list(map(list, field.default[:2])) or [[1, 3]]}")
    pairs = tuple((_number(field.name, a, -1e6, 1e6), _number(field.name, b, low, high)) for a, b in value)
    if field.metadata["ascends"] and (not pairs or any(a >= b for (a, _), (b, _) in itertools.pairwise(pairs))):
        raise CallerError(f"{field.name} needs at least one pair, and the first number rises from pair to pair")
    return pairs


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise CallerError(f"{name} is {value!r:.40}; give a number of {low:g} to {high:g}")
    return float(value)

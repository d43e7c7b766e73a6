"""What controllers are given: parameters of a site in place of the defaults, and redundant sensors as one value."""

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import CallerError
from telemetry.site import MODES

Array = NDArray[Any]


def chosen(defaults: Any, given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of a dataclass of numbers and texts, with what a site gives in place of them.

    Raises
    ------
    CallerError : an unknown name, a number that is none, a text where a number belongs; `what` is said of whose parameters it is
    """
    known = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise CallerError(f"{what} has no {unknown[0]!r}; it has {', '.join(known)}")
    for name, value in given.items():
        if isinstance(known[name], (int, float)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
                raise CallerError(f"{name} of {what} is a number, such as {known[name]:g}; got {value!r}")
        elif isinstance(known[name], str) and not isinstance(value, str):
            raise CallerError(f"{name} of {what} is a text, such as {known[name]!r}; got {value!r}")
    return known | dict(given)


def within(values: Any, what: str, **limits: tuple[float, float]) -> None:
    """Raise CallerError where a field of `values` is outside its limits (low, high), both included."""
    for name, (low, high) in limits.items():
        value = getattr(values, name)
        if not low <= value <= high:
            raise CallerError(f"{name} of {what} is {value:g}; give {low:g} to {high:g}")


def ordered(values: Any, what: str, low: str, high: str) -> None:
    """Raise CallerError where the field `low` of `values` is above the field `high`."""
    if getattr(values, low) > getattr(values, high):
        raise CallerError(f"{low} of {what} is {getattr(values, low):g}; give at most {high}, {getattr(values, high):g}")


def middle(first: Array, second: Array, third: Array) -> Array:
    """The median of three sensors, each (n,) finite or NaN, by those that are known; NaN where none is. One that lies is outvoted."""
    of_three = np.maximum(np.minimum(first, second), np.minimum(np.maximum(first, second), third))  # NaN unless all are known
    low, high = np.fmin(np.fmin(first, second), third), np.fmax(np.fmax(first, second), third)
    return np.where(np.isnan(of_three), low + (high - low) / 2.0, of_three)


def known_or(value: Array, default: float) -> Array:
    """The value, or a default where it is not known."""
    return np.where(np.isnan(value), default, value)


def is_in(mode: Array, names: tuple[str, ...]) -> Array:
    """Whether a mode (number, NaN unknown) is one of `names`."""
    return np.asarray((mode[:, None] == _numbers(names)).any(axis=1))


@lru_cache
def _numbers(names: tuple[str, ...]) -> Array:
    return np.array([float(MODES.index(name)) for name in names])

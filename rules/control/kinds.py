"""The kinds of controllers that a profile may name."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from rules.control import germination_room, multispan, pig_house, solar_greenhouse
from rules.control.controller import Ask, Controller

MODULES: Final[dict[str, ModuleType]] = {
    "germination_room": germination_room,
    "multispan": multispan,
    "pig_house": pig_house,
    "solar_greenhouse": solar_greenhouse,
}
KINDS: Final[dict[str, Controller]] = {name: module.CONTROLLER for name, module in MODULES.items()}


def asks_of(kind: str) -> Iterator[Ask]:
    """All that a kind may ask: the constants of its module."""
    for value in vars(MODULES[kind]).values() if kind in MODULES else ():
        yield from _asks(value)


def _asks(value: Any) -> Iterator[Ask]:
    if isinstance(value, Ask):
        yield value
    elif isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _asks(part)

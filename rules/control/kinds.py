"""The kinds of controllers that a profile may name."""

from typing import Final

from rules.control.controller import Controller

KINDS: Final[dict[str, Controller]] = {}

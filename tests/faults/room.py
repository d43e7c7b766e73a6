"""Houses that are as the test says, for devices whose physics does not matter."""

from collections.abc import Mapping

import numpy as np

from simulators.houses import Array, Fault


class Told:
    """One house without instruments: its panel says the numbers among its attributes."""

    PROFILE = "told"
    STEP_S = 10.0
    SENSORS: Mapping[str, str] = {}
    FAULTS: Mapping[str, Fault] = {}

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Nothing moves by itself."""

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002 - the interface of houses
        return {}

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        return {name: np.array([value]) for name, value in vars(self).items()}

    def local(self) -> dict[str, Array]:
        return {}

    def interlock(self) -> dict[str, Array]:
        return {}

    def fail(self, house: int, fault: str, strength: float) -> None:
        """It has no faults of its own."""


class Room(Told):
    """As warm as the test says."""

    def __init__(self) -> None:
        self.temp_c = 20.0

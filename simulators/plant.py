"""Kinds of plants by the profile they stand behind, and `Steady` for profiles that have no physics here."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from simulators.houses import Array, Fault, Houses, Maker
from simulators.plants import germination_room, multispan, pig_house, solar_greenhouse, weather_station
from simulators.weather import Weather
from telemetry.site import Profile


class Kind(NamedTuple):
    """What makes houses of a kind, and which faults they have of their own."""

    make: Maker
    faults: Mapping[str, Fault]


PLANTS: Final[Mapping[str, Kind]] = {
    "germination_room": Kind(germination_room.make, germination_room.Rooms.FAULTS),
    "multispan": Kind(multispan.make, multispan.Compartments.FAULTS),
    "pig_house": Kind(pig_house.make, pig_house.PigHouses.FAULTS),
    "solar_greenhouse": Kind(solar_greenhouse.make, solar_greenhouse.SolarGreenhouses.FAULTS),
    "weather_station": Kind(weather_station.make, weather_station.Masts.FAULTS),
}


class Steady:
    """Sine waves inside the physical range of each point: a stand-in for profiles without physics."""

    STEP_S: Final = 10.0
    SENSORS: Final[Mapping[str, str]] = {}
    FAULTS: Final[Mapping[str, Fault]] = {}

    def __init__(self, profile: Profile, start_s: float, random: list[np.random.Generator]) -> None:
        self.PROFILE = profile.name
        feedback = {spec.feedback for spec in profile.actuators}
        self._points = [spec for spec in profile.points if spec.is_measured and spec.name not in feedback]
        self._unix_s = start_s
        draws = [generator.uniform(0.0, 2.0 * np.pi, len(self._points)) for generator in random]
        self._phase = np.array(draws).reshape(len(random), len(self._points))

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:  # noqa: ARG002
        """Move on to `unix_s`."""
        self._unix_s = unix_s

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        """It has no instruments."""
        return {}

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        """Every point, once up and down an hour."""
        turn = 2.0 * np.pi * self._unix_s / 3600.0
        waves = np.sin(turn + self._phase)
        return {s.name: (s.low + s.high) / 2 + 0.2 * (s.high - s.low) * waves[:, row] for row, s in enumerate(self._points)}

    def local(self) -> dict[str, Array]:
        """No thermostat."""
        return {}

    def interlock(self) -> dict[str, Array]:
        """No interlock."""
        return {}

    def fail(self, house: int, fault: str, strength: float) -> None:
        """It has no faults of its own."""


def make_houses(profile: Profile, weather: Weather, start_s: float, random: list[np.random.Generator]) -> Houses:
    """Houses of a profile: of its kind, or `Steady`; house i draws its own character from random[i]."""
    kind = PLANTS.get(profile.name)
    return Steady(profile, start_s, random) if kind is None else kind.make(len(random), weather, start_s, random)

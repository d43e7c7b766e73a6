"""Control quality: the shipped controllers against a plain thermostat and a plain PID on the same plant and weather.

    python -m bench.control_quality germination_room solar_greenhouse

prints the rows of the table in docs/control.md. Four houses, 24 h of clear winter and of clear summer weather after some of settling;
sensors with lag and noise, drives that travel; what is counted is the plant's true climate. Figures of time do not enter.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.closed_loop import SUMMER, SUMMER_S, WINTER, WINTER_S, Loop, site_weather
from rules.control import germination_room, solar_greenhouse
from rules.control.controller import Ask, Controller, Turn
from simulators.houses import Maker
from simulators.multispan import relative_humidity_pct
from simulators.plants import germination_room as rooms
from simulators.plants import solar_greenhouse as houses

Array = NDArray[Any]
HOUSES: Final = 4
DAY_H: Final = 24.0


class Loops(NamedTuple):
    """Memory of a plain controller: by name a switch that is on, an integral and the last error."""

    on: Array  # (n, 4)
    integral: Array
    error: Array


class Plain:
    """What thermostats, or PID loops with textbook gains, make of the same inputs. `is_pid` chooses."""

    def __init__(self, like: Controller, *, is_pid: bool, run: Callable[["Plain", Mapping[str, Array]], dict[Ask, Array]]) -> None:
        self.READS, self.EVERY_S, self.ASKS = like.READS, like.EVERY_S, tuple[Ask, ...]()
        self.is_pid, self._run = is_pid, run
        self.loops = Loops(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4)))

    def parameters(self, given: Mapping[str, Any]) -> None:
        """None."""

    def start(self, n: int, time_ns: int, parameters: Any) -> Loops:  # noqa: ARG002 - the protocol's
        """All off."""
        return Loops(*(np.zeros((n, 4)) for _ in range(3)))

    def step(self, state: Loops, time_ns: int, inputs: Mapping[str, Array], parameters: Any) -> Turn:  # noqa: ARG002
        """One run."""
        self.loops = Loops(*(part.copy() for part in state))
        demands = self._run(self, inputs)
        return Turn(self.loops, demands)

    def loop(self, number: int, error: Array, *, switch: float, kp: float, ti_s: float = 900.0) -> Array:
        """0..100 % by a positive error: on above `switch`, off below -`switch`; or PID with clamped integral and Td = Ti / 8."""
        on, integral, last = self.loops
        if not self.is_pid:
            on[:, number] = np.where(error > switch, 1.0, np.where(error < -switch, 0.0, on[:, number]))
            return 100.0 * on[:, number]
        integral[:, number] = np.clip(integral[:, number] + kp * error * self.EVERY_S / ti_s, 0.0, 100.0)
        rate = kp * ti_s / 8.0 * (error - last[:, number]) / self.EVERY_S
        last[:, number] = error
        return np.clip(kp * error + integral[:, number] + rate, 0.0, 100.0)


def _value(actuator: str) -> Ask:
    return Ask(actuator, "value", "temperature")


def plain_room(plain: Plain, i: Mapping[str, Array]) -> dict[Ask, Array]:
    """A room at 26.5 C and 95 %, one thermometer and one hygrometer, damper at 10 %."""
    heat = plain.loop(0, 26.5 - i["air_temp_c"], switch=0.5, kp=20.0)
    cold = plain.loop(1, i["air_temp_c"] - 27.5, switch=0.5, kp=20.0)
    wet = plain.loop(2, 95.0 - i["air_rh_pct"], switch=2.0, kp=20.0)
    n = len(heat)
    return {
        _value("heater"): heat,
        _value("cooler"): cold,
        _value("humidifier"): (wet > 50.0).astype(float),
        _value("circulation_fan"): np.full(n, 60.0),
        _value("fresh_air_damper"): np.full(n, 10.0),
    }


def plain_house(plain: Plain, i: Mapping[str, Array]) -> dict[Ask, Array]:
    """Blanket by the clock from 08:30 to 16:00 (in summer always up), top vent at 27 C, heater at 6 C, no net."""
    top = plain.loop(0, i["air_temp_c"] - 27.0, switch=1.0, kp=25.0)
    bottom = np.where(i["weather.temp_c"] > 12.0, plain.loop(1, i["air_temp_c"] - 30.0, switch=1.0, kp=25.0), 0.0)
    heat = plain.loop(2, 6.0 - i["air_temp_c"], switch=0.5, kp=50.0)
    up = ((i["hour"] >= 8.5) & (i["hour"] < 16.0)) | (i["weather.temp_c"] > 12.0)
    water = (i["hour"] >= 8.0) & (i["hour"] < 8.5)
    return {
        _value("blanket"): 100.0 * up,
        _value("blanket_permit"): np.ones(len(top)),
        _value("vent_top"): np.where(up, top, 0.0),
        _value("vent_bottom"): np.where(up, bottom, 0.0),
        _value("heater"): (heat > 50.0).astype(float),
        _value("irrigation_valve"): water.astype(float),
    }


class Case(NamedTuple):
    """A kind of plant in the table."""

    make: Maker
    controller: Controller
    plain: Callable[[Plain, Mapping[str, Array]], dict[Ask, Array]]
    constants: Mapping[str, float]
    settle_h: float
    row: Callable[[Array, Any, Mapping[str, Array]], str]


def watch(loop: Loop) -> Array:
    """True temperature and humidity, (2, n)."""
    state = loop.houses.state  # type: ignore[attr-defined]
    return np.stack([state.air_c, relative_humidity_pct(state)])


def room_row(seen: Array, used: Any, moves: Mapping[str, Array]) -> str:
    """Hours within 1 K, between 90 and 98 %, heat, fog, condensate, moves."""
    air, rh = seen[:, 0], seen[:, 1]
    hours = DAY_H / len(seen)
    near, wet = (np.abs(air - 26.5) < 1.0).mean(1).sum() * hours, ((rh > 90.0) & (rh < 98.0)).mean(1).sum() * hours
    heat, fog, water = (float(np.mean(getattr(used, name))) for name in ("heat_j", "fog_kg", "condensed_kg"))
    drives = moves["heater"].mean() + moves["cooler"].mean()
    pulses = moves["humidifier"].mean() / 2
    return f"{near:.1f} | {wet:.1f} | {heat / 3.6e6:.1f} kWh | {fog:.1f} L | {water:.2f} L | {drives:.0f} | {pulses:.0f}"


def house_row(seen: Array, used: Any, moves: Mapping[str, Array]) -> str:
    """Hours between 10 and 32 C, degree-hours beyond, lowest and highest, hours over 90 %, heat, moves."""
    air, rh = seen[:, 0], seen[:, 1]
    hours = DAY_H / len(seen)
    inside = ((air > 10.0) & (air < 32.0)).mean(1).sum() * hours
    beyond = (np.maximum(10.0 - air, 0.0) + np.maximum(air - 32.0, 0.0)).mean(1).sum() * hours
    heat = float(np.mean(used.heat_j_m2)) / 3.6e6 * 1000.0
    vents = moves["vent_top"].mean() + moves["vent_bottom"].mean()
    wet = (rh > 90.0).mean(1).sum() * hours
    return (
        f"{inside:.1f} | {beyond:.1f} | {air.min():.1f} to {air.max():.1f} | {wet:.1f} | {heat:.0f} Wh/m² | "
        f"{moves['blanket'].mean():.0f} | {vents:.0f}"
    )


CASES: Final = {
    "germination_room": Case(rooms.make, germination_room.CONTROLLER, plain_room, {"day_of_batch": 0.0}, 6.0, room_row),
    "solar_greenhouse": Case(houses.make, solar_greenhouse.CONTROLLER, plain_house, {}, 24.0, house_row),
}


def measured(case: Case, controller: Controller, *, winter: bool) -> str:
    """The row of a controller: a day after the hours in which the plant settles."""
    scenario, start_s = (WINTER, WINTER_S) if winter else (SUMMER, SUMMER_S)
    weather = site_weather(scenario, start_s)
    plant = case.make(HOUSES, weather, start_s, [np.random.default_rng(house) for house in range(HOUSES)])
    loop = Loop(plant, controller, weather, start_s, HOUSES, constants=case.constants)
    loop.run(case.settle_h)
    state, moves = plant.state, {name: value.copy() for name, value in loop.drives.moves.items()}  # type: ignore[attr-defined]
    seen = np.array(loop.run(DAY_H, watch))
    after = plant.state  # type: ignore[attr-defined]
    used = after._replace(**{name: getattr(after, name) - getattr(state, name) for name in after._fields})
    return case.row(seen, used, {name: loop.drives.moves[name] - before for name, before in moves.items()})


def main(names: list[str]) -> None:
    """Print the rows."""
    for name in names or list(CASES):
        case = CASES[name]
        kinds = {
            "thermostat": Plain(case.controller, is_pid=False, run=case.plain),
            "PID": Plain(case.controller, is_pid=True, run=case.plain),
            "controller": case.controller,
        }
        for season in ("winter", "summer"):
            for kind, controller in kinds.items():
                print(f"| {name} | {season} | {kind} | {measured(case, controller, winter=season == 'winter')} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

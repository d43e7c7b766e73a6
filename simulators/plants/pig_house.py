"""Pig houses: model PH1 and its herds behind the points and actuators of profile `pig_house`, with feed line, scraper and power.

The panel is part of the plant: a standby generator that starts by itself, curtains that fall without power, a thermostat that is wired
past every controller, and the guards of feed line, heater and scraper. Its figures are assumptions of the usual size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators import herd, multispan, pig_house
from simulators.houses import NONE, Fault, order_where
from simulators.weather import Weather

Array = NDArray[Any]

HERD_S: Final = 60.0  # growth, feed and water move on once a minute
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Panel:
    """A house's machines. Units in the names; defaults of a house for 1,000 finishers."""

    rpm: float = 900.0  # of a fan at full speed
    stage_share: float = 40.0 / 180.0  # of the staged fans' air, each of fan_2 to fan_4
    generator_s: float = 10.0  # from the loss of mains until it is on load
    curtain_s: float = 120.0  # without power until the magnets let the curtains go
    battery_v: float = 26.0
    still_s: float = 360.0  # without a turning fan until the heater's guard cuts it; longer than a pause of minimum ventilation
    hot_c: float = 28.0  # thermostat that is wired past the controller; finishers
    hot_weaner_c: float = 34.0
    cold_k: float = 12.0  # below that thermostat by this, fans on the bypass run slowly
    auger_kg_s: float = 0.5
    auger_a: float = 6.0
    empty_a: float = 2.5  # of an auger without feed
    hopper_kg: float = 1.5  # of feeders, per place
    bin_kg: float = 12_000.0
    lorry_kg: float = 3_000.0  # below it one comes at 10 h and fills the bin
    scraper_s: float = 300.0  # one way
    pit_cm_kg: float = 1.2e-3  # slurry's rise per litre, of a house of 1,000
    lamp_a: float = 40.0
    creep_k: float = 14.0  # nest over room at full lamps
    water_kpa: float = 200.0
    badge_no: float = 1001.0
    door_s: float = 60.0  # that a badge is at the door, which stands open, on the way in and out


class _Sound(NamedTuple):
    """What faults leave of a house's machines, 0..1 or bool, each (n,)."""

    mains: Array
    generator: Array
    fans: Array
    shutter: Array
    inlet: Array
    curtain: Array
    heater: Array
    water: Array
    blade: Array  # of the scraper, forward
    rope: Array
    bin: Array
    plug: Array  # opening of the slurry's outlet


class _Air(NamedTuple):
    """What acts on the air while drives, faults and weather stay."""

    drives: Mapping[str, Array]
    inputs: pig_house.Inputs
    outside: pig_house.Outside
    drawn: pig_house.Supply


class PigHouses:
    """Rooms of fattening pigs, each with a herd, a feed line and a character of its own."""

    PROFILE: Final = "pig_house"
    STEP_S: Final = 10.0  # the climate goes on in steps of its own within it
    SENSORS: Final[Mapping[str, str]] = {
        "room_temp_c": "air_temp_c",
        "room_temp_2_c": "air_temp_c",
        "creep_temp_c": "air_temp_c",
        "rh_pct": "air_rh_pct",
        "co2_ppm": "co2_ppm",
        "nh3_ppm": "nh3_ppm",
        "h2s_ppm": "h2s_ppm",
        "static_pressure_pa": "pressure_pa",
        "air_speed_m_s": "wind_m_s",
        "auger_current_a": "current_a",
        "heat_lamp_a": "current_a",
    }
    FAULTS: Final[Mapping[str, Fault]] = {
        "mains_lost": Fault("mains are lost; the generator takes over if it can"),
        "generator_fails": Fault("the generator does not take load"),
        "curtain_blocked": Fault("curtains stay shut, whatever lets them go"),
        "fans_dead": Fault("no fan turns, though mains are on"),
        "belt_slip": Fault("belts slip: fans turn slower, their current as before", "1", 0.2),
        "shutter_stuck": Fault("the shutter of the first stage stays shut"),
        "inlet_frozen": Fault("inlets are iced: this share of them stays shut", "1", 0.9),
        "heater_lockout": Fault("the burner does not light"),
        "door_open": Fault("the door stands open, without a disinfection"),
        "person_inside": Fault("somebody is in the room"),
        "visit": Fault(
            "no fault: somebody shows a badge, showers and comes in, so long after other pigs; the end: goes out", "h", 72.0
        ),
        "lid_open": Fault("the lid of the feed bin is open"),
        "gate_open": Fault("the animal gate at the scraper is open"),
        "disease": Fault("an illness begins: water, then feed, fall", "1", 1.0),
        "nipple_leak": Fault("nipples run", "L/h", 60.0),
        "pulses_lost": Fault("the water meter loses this share of its pulses", "1", 0.5),
        "water_off": Fault("no water comes"),
        "feed_bridging": Fault("feed bridges in the bin: the auger turns empty"),
        "bin_drift": Fault("the bin's load cells follow the heat of the day", "1", 0.01),
        "scraper_jam": Fault("the scraper's blade is jammed"),
        "rope_slip": Fault("the scraper's rope slips: the blade stands"),
        "pull_plug": Fault("slurry flows off: gas comes up"),
        "agitation_key": Fault("no fault: somebody asks at the pit's panel to move slurry, doors locked and beacon lit"),
        "beacon_off": Fault("the beacon of the pit is dark, though slurry is to be moved"),
    }

    def __init__(
        self,
        weather: Weather,
        start_s: float,
        random: list[np.random.Generator],
        *,
        herds: herd.State,
        state: pig_house.State,
        parameters: pig_house.Parameters | None = None,
        panel: Panel | None = None,
    ) -> None:
        n = len(random)
        self._weather, self._unix_s, self._random = weather, start_s, random
        self.parameters = parameters or pig_house.Parameters(inlet_m2=0.012, tunnel_m2=0.025)
        self.machines, self.breed = panel or Panel(), herd.Parameters()
        self.herds, self.state = herds, state
        self.places = np.maximum(1.0, herd.heads(herds.ledger).astype(float))
        self.faults = {name: np.zeros(n) for name in self.FAULTS}
        self.dark_s, self.unlit_s = np.zeros(n), np.zeros(n)  # since mains, and since any power, went
        self.hopper_kg = self.machines.hopper_kg * self.places * 0.5
        self.bin_kg = self.machines.bin_kg * self.places / 1000.0
        self.full_kg, self.fed_kg, self.wasted_l = self.bin_kg.copy(), np.zeros(n), np.zeros(n)
        self.blade, self.slurry_cm = np.zeros(n), np.full(n, 60.0)
        self.missing_l = np.zeros(n)
        self.inside_s, self.left_s = np.zeros(n), np.full(n, np.inf)  # since a visitor's badge on the way in, and out
        self.still_s, self.overloaded = np.zeros(n), np.zeros(n, np.bool_)  # since a fan turned; latched until the jam is freed
        self._herd_s = 0.0
        self._sound = self._left()
        self._air: _Air | None = None
        self._heat_of: tuple[herd.State, Array] | None = None

    # -- power and panel ------------------------------------------------------------------------------------------------

    @property
    def generator(self) -> Array:
        """Whether the generator is on load, bool."""
        return np.asarray((self.dark_s >= self.machines.generator_s) & self._sound.generator)

    @property
    def power(self) -> Array:
        """Whether anything has power, bool."""
        return np.asarray(self._sound.mains | self.generator)

    def _left(self) -> _Sound:
        sound = {name: strength == 0.0 for name, strength in self.faults.items()}
        share = {name: np.clip(strength, 0.0, 1.0) for name, strength in self.faults.items()}
        return _Sound(
            mains=sound["mains_lost"],
            generator=sound["generator_fails"],
            fans=sound["fans_dead"] * (1.0 - share["belt_slip"]),
            shutter=sound["shutter_stuck"],
            inlet=1.0 - share["inlet_frozen"],
            curtain=sound["curtain_blocked"],
            heater=sound["heater_lockout"],
            water=sound["water_off"],
            blade=sound["scraper_jam"],
            rope=sound["rope_slip"],
            bin=sound["feed_bridging"],
            plug=share["pull_plug"],
        )

    @property
    def at_door(self) -> Array:
        """Whether a visitor is at the door, bool."""
        comes = (self.faults["visit"] > 0.0) & (self.inside_s < self.machines.door_s)
        return np.asarray(comes | (self.left_s < self.machines.door_s))

    @property
    def door_open(self) -> Array:
        """Whether the door stands open, bool."""
        return np.asarray((self.faults["door_open"] > 0.0) | self.at_door)

    @property
    def somebody(self) -> Array:
        """Whether anybody is in the room, bool."""
        return np.asarray((self.faults["person_inside"] > 0.0) | (self.faults["visit"] > 0.0))

    def _hot_c(self) -> Array:
        return np.where(self.herds.weight_kg < 20.0, self.machines.hot_weaner_c, self.machines.hot_c)

    def _is(self, fault: str) -> Array:
        return np.asarray(self.faults[fault] > 0.0)

    def interlock(self) -> dict[str, Array]:
        """Curtains that fall, the hot thermostat, and guards of heater, feed line and scraper."""
        air, hot_c = self.state.air_c, self._hot_c()
        hot = air > hot_c
        full, stage = order_where(hot, 100.0), order_where(hot, 1.0)
        return {
            "fan": full,
            "fan_2": stage,
            "fan_3": stage,
            "fan_4": stage,
            "curtain": order_where((self.unlit_s >= self.machines.curtain_s) | (air > hot_c + 10.0), 1.0),
            "heater": order_where(hot | (self.still_s > self.machines.still_s), 0.0),
            "auger": order_where((self.hopper_kg >= self.machines.hopper_kg * self.places) | self._is("lid_open"), 0.0),
            "scraper": order_where(self.overloaded | (self.blade >= 1.0) | self._is("gate_open"), 0.0),
            "scraper_back": order_where((self.blade <= 0.0) | self._is("gate_open"), 0.0),
            "slurry_pump": order_where(self.somebody, 0.0),
        }

    def local(self) -> dict[str, Array]:
        """The bypass: in the cold the fans leave their fail-safe of full speed."""
        cold = self.state.air_c < self._hot_c() - self.machines.cold_k
        rest = np.where(cold, 0.0, NONE)
        return {"fan": np.where(cold, 40.0, NONE), "fan_2": rest, "fan_3": rest, "fan_4": rest}

    # -- time -----------------------------------------------------------------------------------------------------------

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Climate, herd, feed line, scraper and power `dt_s` later."""
        self._unix_s, self._air = unix_s, None
        visits = self._is("visit")
        self.left_s = np.where(~visits & (self.inside_s > 0.0), 0.0, self.left_s + dt_s)
        self.inside_s = np.where(visits, self.inside_s + dt_s, 0.0)
        air, power = self._acting(drives), self.power
        self.dark_s = ~self._sound.mains * (self.dark_s + dt_s)
        self.unlit_s = ~power * (self.unlit_s + dt_s)
        turning = (np.asarray(air.inputs.fan_variable) > 0.0) | (np.asarray(air.inputs.fan_staged) > 0.0)
        self.still_s = ~turning * (self.still_s + dt_s)
        self.state = pig_house.advance(
            self.state, dt_s, inputs=air.inputs, outside=air.outside, parameters=self.parameters, drawn=air.drawn
        )
        self._scrape(dt_s, drives, power)
        self._carry_feed(dt_s, drives, power)
        self._herd_s += dt_s
        if self._herd_s >= HERD_S:
            self._live(self._herd_s)
            self._herd_s = 0.0

    def _airing(self, drives: Mapping[str, Array], power: Array) -> tuple[Array, Array]:
        """Speed of the first stage and running share of the others, as their wheels turn."""
        turns, share = power * self._sound.fans, self.machines.stage_share
        steps = share * (drives["fan_2"] + drives["fan_3"] + drives["fan_4"])
        return turns * drives["fan"], turns * (steps + (1.0 - 3.0 * share) * (drives["tunnel"] > 0.5))

    def _acting(self, drives: Mapping[str, Array]) -> _Air:
        """What the drives do to the air, faults included; all per place. Once a step: what is measured is asked right after it."""
        if self._air is None or self._air.drives is not drives:
            now = self._weather.at(self._unix_s)
            inputs, outside = self._inputs(drives), pig_house.Outside(now.temp_c, now.rh_pct, now.wind_m_s)
            self._air = _Air(drives, inputs, outside, pig_house.supply(inputs, outside, self.parameters))
        return self._air

    def _inputs(self, drives: Mapping[str, Array]) -> pig_house.Inputs:
        """What the drives do to the air, faults included; all per place."""
        power, sound = self.power, self._sound
        speed, staged = self._airing(drives, power)
        return pig_house.Inputs(
            heat_20_w=self.heat_w(),
            animals=herd.heads(self.herds.ledger) / self.places,
            fan_variable=speed * sound.shutter,
            fan_staged=staged,
            inlets=drives["inlet"] * sound.inlet,
            tunnel=drives["tunnel"],
            emergency=np.maximum(drives["curtain"] * sound.curtain, 0.05 * self.door_open),
            heater=drives["heater"] * sound.heater,
            pad_pump=drives["pad_pump"],
            sprinkler=drives["sprinkler"] * sound.water,
            scraper=self._scrapes(drives, power) != 0.0,
            slurry=np.maximum(drives["slurry_pump"] * power, sound.plug),
            power=power,
        )

    def heat_w(self) -> Array:
        """Heat of the animals at 20 C, per place and with the course of the day [W]."""
        if self._heat_of is None or self._heat_of[0] is not self.herds:
            pigs, weight = herd.heads(self.herds.ledger) / self.places, np.maximum(self.herds.weight_kg, 1.0)
            level = pig_house.feeding_level(weight, herd.appetite_kg_d(weight, self.breed))
            one = np.where(weight < 20.0, pig_house.weaner_heat_w(weight, level), pig_house.finisher_heat_w(weight, level))
            self._heat_of = self.herds, pigs * one
        return np.asarray(self._heat_of[1] * pig_house.activity(self.hour()))

    def hour(self) -> float:
        """Hour of the pigs' day: that of the site's clock."""
        return self._weather.local_hour(self._unix_s)

    def _scrapes(self, drives: Mapping[str, Array], power: Array) -> Array:
        """Motion of the blade: 1 forward, -1 back, 0 stands."""
        forward = drives["scraper"] * self._sound.blade * (self.blade < 1.0)
        return np.asarray(power * self._sound.rope * (forward - drives["scraper_back"] * (self.blade > 0.0)))

    def _scrape(self, dt_s: float, drives: Mapping[str, Array], power: Array) -> None:
        self.overloaded = ~self._sound.blade & (self.overloaded | (drives["scraper"] * power > 0.0))
        there = self.blade + self._scrapes(drives, power) * (dt_s / self.machines.scraper_s)
        self.blade = np.minimum(np.maximum(there, 0.0), 1.0)

    def _carry_feed(self, dt_s: float, drives: Mapping[str, Array], power: Array) -> None:
        """The auger takes from the bin into the feeders, and its counter counts its turns, with feed or without."""
        turned = drives["auger"] * power * (self.machines.auger_kg_s * dt_s)
        if not np.count_nonzero(turned):
            return
        carried = np.minimum(turned * self._sound.bin, self.bin_kg)
        self.fed_kg = self.fed_kg + turned
        self.bin_kg = self.bin_kg - carried
        self.hopper_kg = self.hopper_kg + carried

    def _live(self, dt_s: float) -> None:
        """A minute of the herd: it eats what is there, drinks what comes, grows, and some die."""
        hour, ill = self.hour(), self.faults["disease"]
        need = herd.feed_kg_h(self.herds, hour, herd.Inputs(self.state.air_c), self.breed) / 3600.0 * dt_s
        fed = np.clip(self.hopper_kg / np.maximum(need * (1.0 + self.breed.feed_waste), 1e-9), 0.0, 1.0)
        water = (self.faults["water_off"] == 0.0) * 1.0
        inputs = herd.Inputs(self.state.air_c, self.humidity_pct(), fed, water, np.clip(ill, 0.0, 1.0))
        before = self.herds
        self.herds = herd.advance(before, dt_s, hour=hour, inputs=inputs, parameters=self.breed)
        self.faults["disease"] = ill * 0.0  # what has begun runs its course
        self.hopper_kg = np.maximum(0.0, self.hopper_kg - (self.herds.feed_kg - before.feed_kg))
        leak = self.faults["nipple_leak"] * dt_s / 3600.0 * water
        metered = self.herds.water_l - before.water_l + leak
        self.wasted_l = self.wasted_l + leak
        self.missing_l = self.missing_l + metered * np.clip(self.faults["pulses_lost"], 0.0, 1.0)
        self.slurry_cm = np.minimum(250.0, self.slurry_cm + metered * self.machines.pit_cm_kg / self.places)
        chance = -np.expm1(-herd.death_rate_per_d(self.herds, inputs, self.breed) * dt_s / DAY_S)
        heads = herd.heads(self.herds.ledger)
        died = np.array([r.binomial(k, p) for r, k, p in zip(self._random, heads.tolist(), chance.tolist(), strict=True)])
        if died.any():
            self.herds = herd.book(self.herds, herd.Ledger(died=died))
        lorry = (self.bin_kg < self.machines.lorry_kg * self.places / 1000.0) & (int(hour) == 10)
        self.bin_kg = np.where(lorry, self.full_kg, self.bin_kg)

    # -- what is there to be read ---------------------------------------------------------------------------------------

    def humidity_pct(self) -> Array:
        """Relative humidity of the room [%]."""
        return np.asarray(np.minimum(100.0, multispan.relative_humidity_pct(self.state)))

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """What the instruments stand in."""
        _, inputs, outside, drawn = self._acting(drives)
        air, power = pig_house.air_m3_s(self.state, drawn, inputs, outside, self.parameters), self.power
        lamp, runs = drives["heat_lamp"] * power, drives["auger"] * power
        bridged = (self.faults["feed_bridging"] > 0.0) | (self.bin_kg <= 0.0)
        return {
            "room_temp_c": self.state.air_c,
            "room_temp_2_c": self.state.air_c + 0.3 * np.asarray(inputs.heater),  # nearer to the heater
            "creep_temp_c": np.where(self.herds.weight_kg < 15.0, self.state.air_c + self.machines.creep_k * lamp, np.nan),
            "rh_pct": self.humidity_pct(),
            "co2_ppm": self.state.co2_ppm,
            "nh3_ppm": self.state.nh3_ppm,
            "h2s_ppm": self.state.h2s_ppm,
            "static_pressure_pa": -drawn.static_pa,
            "air_speed_m_s": np.asarray(pig_house.air_speed_m_s(air, self.parameters)),
            "auger_current_a": runs * np.where(bridged, self.machines.empty_a, self.machines.auger_a),
            "heat_lamp_a": lamp * self.machines.lamp_a,
        }

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """Counters, contacts and computed values."""
        fault, ledger, machines = self.faults, self.herds.ledger, self.machines
        speed, staged = self._airing(drives, self.power)
        wanted = np.maximum(drives["fan"], np.maximum(drives["fan_2"], np.maximum(drives["fan_3"], drives["fan_4"])))
        day = np.cos(2.0 * np.pi * (self.hour() - 15.0) / 24.0)
        slipping = (fault["rope_slip"] > 0.0) | (fault["scraper_jam"] > 0.0)
        asked = 1.0 * (fault["agitation_key"] > 0.0)
        return {
            "fan_demand_pct": 100.0 * np.maximum(wanted, drives["tunnel"] > 0.5),
            "fan_rpm": machines.rpm * np.maximum(speed, (staged > 0.0) * (1.0 - np.clip(fault["belt_slip"], 0.0, 1.0))),
            "stage_2_bool": 1.0 * (drives["fan_2"] + drives["fan_3"] + drives["fan_4"] + drives["tunnel"] > 0.5),
            "flame_bool": drives["heater"] * self.power * (fault["heater_lockout"] == 0.0),
            "water_total_l": np.floor(self.herds.water_l + self.wasted_l - self.missing_l),
            "water_pressure_kpa": machines.water_kpa * (fault["water_off"] == 0.0),
            "feed_total_kg": self.fed_kg,
            "bin_weight_kg": np.maximum(0.0, self.bin_kg * (1.0 + fault["bin_drift"] * day)),
            "hopper_full_bool": 1.0 * (self.hopper_kg >= machines.hopper_kg * self.places),
            "scraper_overload_bool": 1.0 * self.overloaded,
            "scraper_end_bool": 1.0 * ((self.blade >= 1.0) & ~slipping),
            "scraper_home_bool": 1.0 * (self.blade <= 0.0),
            "pit_level_cm": self.slurry_cm,
            "slurry_request_bool": asked,
            "beacon_bool": asked * (fault["beacon_off"] == 0.0),
            "pig_count": 1.0 * herd.heads(ledger),
            "deaths_total": 1.0 * ledger.died,
            "weight_kg": self.herds.weight_kg,
            "cough_index": 1.0 + 4.0 * herd.illness(self.herds, self.breed)[0],
            "mains_bool": 1.0 * (fault["mains_lost"] == 0.0),
            "generator_bool": 1.0 * self.generator,
            "battery_v": machines.battery_v - 2.0 * np.minimum(1.0, self.unlit_s / 3600.0),
            "person_present_bool": 1.0 * self.somebody,
            "door_open_bool": 1.0 * self.door_open,
            "door_locked_bool": asked * ~self.door_open,
            "badge_no": machines.badge_no * self.at_door,
            "entry_in_bool": 1.0 * self._is("visit"),
            "pig_free_h": fault["visit"],
            "disinfected_bool": 1.0 * (self.at_door & (fault["door_open"] == 0.0)),
            "bin_lid_open_bool": 1.0 * self._is("lid_open"),
            "gate_open_bool": 1.0 * self._is("gate_open"),
        }

    def fail(self, house: int, fault: str, strength: float) -> None:
        """Begin a fault in a house, or end it (strength 0).

        Raises
        ------
        ValueError : no such fault or house, or a strength that is no number of 0 and more
        """
        if fault not in self.faults:
            raise ValueError(f"a pig house has no fault {fault!r}; there are {', '.join(self.faults)}")
        if not 0 <= house < len(self.places):
            raise ValueError(f"no house {house}: give 0 to {len(self.places) - 1}")
        if not (np.isfinite(strength) and strength >= 0.0):
            raise ValueError(f"strength {strength!r}: give 0 to end the fault, or a number above it")
        self.faults[fault][house] = strength
        self._sound, self._air = self._left(), None


def make(n: int, weather: Weather, start_s: float, random: list[np.random.Generator]) -> PigHouses:
    """n houses of about 1,000 pigs of 70 to 150 days, each with its own insulation and cracks, warm and aired at `start_s`."""
    assert len(random) == n
    drawn = np.array([r.random(4) for r in random]).reshape(n, 4)
    age_d, pigs = np.floor(70.0 + 80.0 * drawn[:, 0]), np.floor(970.0 + 60.0 * drawn[:, 1])
    breed = herd.Parameters()
    weight = herd.gompertz_kg(age_d, breed)
    herds = herd.book(herd.empty(n), herd.Ledger(placed=pigs), age_d=age_d, weight_kg=weight)
    room: Any = {"loss_w_k": 1.2 * (0.9 + 0.2 * drawn[:, 2]), "leak_m2": 4.8e-4 * (0.7 + 0.6 * drawn[:, 3])}
    parameters = pig_house.Parameters(inlet_m2=0.012, tunnel_m2=0.025, **room)
    air_c = np.maximum(weather.at(start_s).temp_c + 1.0, np.interp(weight, [25.0, 50.0, 110.0], [22.0, 20.0, 17.0]) + 1.0)
    state = pig_house.initial_state(air_c, 65.0, co2_ppm=1500.0)
    return PigHouses(weather, start_s, random, herds=herds, state=state, parameters=parameters)

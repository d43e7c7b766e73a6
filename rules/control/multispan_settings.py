"""Parameters of the controller of a multi-span greenhouse, and what they may be."""

from dataclasses import dataclass
from typing import Final

from rules.control.given import within
from rules.control.memory import require

WHAT: Final = "a multi-span greenhouse"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Defaults are the handbook's (section 3.3); [1] GreenLight, [2] Hoogendoorn, [3] measured, the others unverified.

    Set points of the area go before: heating_c, ventilation_c, rh_pct, co2_ppm, pipe_max_c, drip_ec_ms_cm, dli_mol_m2.

    References
    ----------
    .. [1] Katzin et al., GreenLight, doi:10.1016/j.biosystemseng.2020.03.010.
    .. [2] Practice of climate computers (Hoogendoorn), as the handbook quotes it.
    .. [3] Cellulose pads: 64 to 70 % of saturation.
    """

    # Heating set point: day, night, ramps, influences
    heating_c: float = 19.5  # by day [1]
    night_drop_k: float = 1.0  # [1]
    day_from_sunrise_h: float = -1.0  # day begins so long after sunrise, and ends so long before sunset
    day_to_sunset_h: float = 0.0
    ramp_up_k_h: float = 1.5
    ramp_down_k_h: float = 2.0
    light_from_w_m2: float = 200.0
    light_to_w_m2: float = 600.0
    light_k: float = 1.5  # warmer in full light
    mean_share: float = 0.5  # of the deviation of the last 24 h from the day's set point that is made good
    mean_down_k: float = 2.0
    mean_up_k: float = 1.0
    empty_c: float = 5.0  # an empty house is kept from freezing
    # Heating
    heating_pipe_k_k: float = 8.0  # pipe per K of air
    pipe_outside_k_k: float = 1.9  # pipe per K that it is colder outside than wanted inside
    pipe_light_k_m2_w: float = 0.08  # less pipe per W/m2 of sun
    pipe_trim_k: float = 30.0  # at most, that PI adds to these
    heating_integral_s: float = 5400.0
    valve_pct_k: float = 2.0  # valve per K of pipe
    valve_integral_s: float = 1200.0
    valve_step_pct: float = 3.0
    blind_band_k: float = 3.0  # of the valve while the pipe is not measured
    pipe_max_c: float = 80.0
    pump_overrun_s: float = 600.0
    pump_frost_c: float = 3.0  # outside; the pump runs below it
    frost_c: float = 8.0  # of the air: the valve opens whatever else is asked
    frost_valve_pct: float = 30.0  # while no air temperature is known in frost
    # Ventilation
    dead_zone_k: float = 5.0  # [1]
    band_k: float = 4.0  # [1]
    band_cold_from_c: float = 15.0
    band_cold_k_k: float = 0.4
    band_wind_from_m_s: float = 3.0
    band_wind_k: float = 0.5  # per m/s
    band_max_k: float = 20.0
    lee_release_k: float = 1.0  # [2]
    wind_release_k: float = 2.0  # [2]
    meteo_k: float = 1.0  # opens so much earlier when it is sunny, calm and warm [2]
    vents_cold_k: float = 1.0  # under the heating set point vents stay shut [1]
    vents_frost_c: float = 10.0
    vent_step_pct: float = 15.0
    vent_wait_s: float = 900.0
    wind_side_deg: float = -1.0  # where the vents `vent_wind` face; -1: the panel moves what is to lee as `vent_lee`
    # Limits of vents
    gust_from_m_s: float = 8.0  # the wind side closes from here on
    gust_lee_m_s: float = 12.0  # the lee side
    gust_shut_m_s: float = 15.0  # both are shut
    storm_gust_m_s: float = 17.0
    storm_mean_m_s: float = 12.0
    storm_hysteresis_m_s: float = 4.0
    calm_s: float = 900.0  # after storm, rain and gusts, before vents may open again
    rain_lee_pct: float = 10.0
    rain_wind_pct: float = 2.0
    blind_lee_pct: float = 25.0  # while the wind is not known
    blind_wind_pct: float = 0.0
    # Humidity
    rh_pct: float = 80.0
    rh_vent_from_pct: float = 5.0  # above the set point [2]
    rh_vent_to_pct: float = 10.0  # [2]
    rh_vent_pct: float = 5.0  # [2]
    rh_vent_warm_pct: float = 40.0  # instead, at 20 C outside; in between from 10 C on
    rh_vent_step_pct: float = 2.0
    rh_pipe_from_pct: float = 10.0
    rh_pipe_to_pct: float = 15.0
    pipe_min_from_c: float = 20.0
    pipe_min_to_c: float = 40.0
    fog_on_kpa: float = 1.8
    fog_off_kpa: float = 1.3
    fog_from_c: float = 26.0
    # Screens, 100 = drawn
    screen_day_c: float = 5.0  # outside, below which it is drawn by day [1]
    screen_night_c: float = 10.0  # by night [1]
    screen_close_w_m2: float = 40.0
    screen_open_w_m2: float = 75.0
    screen_saving: float = 0.35  # of heat, as the pipe reckons with it
    screen_gap_pct: float = 3.0
    screen_gap_s: float = 900.0  # gap before it opens, at least
    screen_gap_max_s: float = 1800.0
    screen_cold_k: float = 5.0  # air above the screen is colder by more: the gap stays
    screen_rh_gap_pct: float = 5.0
    screen_hot_k: float = 4.0  # over the heating set point it opens [1]
    shade_w_m2: float = 600.0  # seedlings 350 to 450
    shade_hysteresis_w_m2: float = 100.0
    shade_on_s: float = 450.0
    shade_off_s: float = 1050.0
    shade_pct: float = 70.0
    # CO2
    co2_ppm: float = 1000.0  # [1]
    co2_band_ppm: float = 100.0  # [1]
    co2_step_pct: float = 15.0
    co2_open_ppm: float = 420.0
    co2_vent_pct: float = 25.0  # opening at which outside air is enough
    co2_light_w_m2: float = 50.0
    # Fans and pad
    fan_above_k: float = 5.0  # over the ventilation set point
    fan_over_outside_k: float = 0.5  # without a pad fans cool no further
    fan_band_k: float = 3.0
    fan_least_pct: float = 20.0
    fan_blind_pct: float = 30.0  # while no air temperature is known and it is over 20 C outside
    pad_above_k: float = 7.0
    pad_fan_pct: float = 50.0
    pad_rh_pct: float = 75.0  # outside
    pad_vent_pct: float = 10.0  # roof vents while air shall come through the pad
    hot_c: float = 38.0  # a screen over open vents opens
    # Light
    dli_mol_m2: float = 12.0  # tomato plugs 10.8 to 13
    lamp_w_m2: float = 100.0  # less light outside
    lamp_from_h: float = 5.0
    lamp_to_h: float = 20.0
    lamp_on_s: float = 1200.0
    lamp_off_s: float = 1800.0
    transmission: float = 0.7  # of the roof, while PAR is not measured
    # Irrigation
    shot_s: float = 180.0
    shot_l_m2: float = 0.3
    water_ml_j: float = 1.0  # mL/m2 per J/cm2; a grown tomato crop 1.7
    first_shot_h: float = 1.5  # after sunrise
    last_shot_h: float = 2.0  # before sunset
    night_loss_pct: float = 11.0
    weight_least_kg: float = 7.0  # a tray lighter than this is watered by day whatever the sun gave
    drain_share: float = 3.0  # shots come closer by this part of what drain lacks
    drain_ec_factor: float = 1.5  # wanted drain EC by drip EC
    drain_ec_pct: float = 10.0  # more drain per mS/cm too much in it
    shot_pause_s: float = 600.0
    retry_s: float = 1800.0  # after a shot that did not flow
    tank_least_pct: float = 15.0
    flow_least_l_min: float = 2.0
    blind_rad_w_m2: float = 300.0  # while the sun is not measured, in the hours of shots
    drip_ec_ms_cm: float = 1.5

    def __post_init__(self) -> None:
        """Refuse what no house can do."""
        within(self, WHAT, heating_c=(5, 35), night_drop_k=(-5, 12), ramp_up_k_h=(0.1, 60), ramp_down_k_h=(0.1, 60), light_k=(0, 6))
        within(self, WHAT, mean_share=(0, 2), mean_down_k=(0, 6), mean_up_k=(0, 6), empty_c=(2, 20), frost_c=(2, 15))
        within(
            self,
            WHAT,
            day_from_sunrise_h=(-6, 6),
            day_to_sunset_h=(-6, 6),
            heating_pipe_k_k=(0.1, 60),
            pipe_trim_k=(0, 90),
            valve_pct_k=(0.1, 50),
        )
        within(
            self, WHAT, heating_integral_s=(300, 86400), valve_integral_s=(60, 86400), blind_band_k=(0.5, 10), pipe_max_c=(30, 90)
        )
        within(self, WHAT, pipe_outside_k_k=(0, 5), pipe_light_k_m2_w=(0, 1), valve_step_pct=(0, 20), co2_step_pct=(0, 50))
        within(self, WHAT, pump_overrun_s=(0, 3600), pump_frost_c=(-5, 10), frost_valve_pct=(10, 100), dead_zone_k=(0.5, 15))
        within(self, WHAT, band_k=(0.5, 20), band_cold_k_k=(0, 5), band_wind_k=(0, 5), lee_release_k=(0, 5), wind_release_k=(0, 8))
        within(self, WHAT, meteo_k=(0, 4), vents_cold_k=(0, 5), vents_frost_c=(2, 15), vent_step_pct=(0, 20), vent_wait_s=(0, 1800))
        within(self, WHAT, wind_side_deg=(-1, 360), gust_from_m_s=(3, 20), gust_lee_m_s=(5, 25))
        within(self, WHAT, storm_gust_m_s=(8, 25), storm_mean_m_s=(5, 20), storm_hysteresis_m_s=(0, 8), calm_s=(60, 7200))
        within(self, WHAT, rain_lee_pct=(0, 100), rain_wind_pct=(0, 100), blind_lee_pct=(0, 100), blind_wind_pct=(0, 100))
        within(
            self,
            WHAT,
            rh_pct=(40, 95),
            rh_vent_pct=(0, 50),
            pipe_min_to_c=(20, 70),
            screen_saving=(0, 0.9),
            screen_gap_pct=(0, 20),
            shade_pct=(10, 100),
        )
        within(self, WHAT, screen_gap_s=(0, 7200), screen_rh_gap_pct=(0, 50), shade_w_m2=(200, 1200), co2_ppm=(300, 2000))
        within(self, WHAT, co2_band_ppm=(10, 1000), co2_vent_pct=(1, 100), fan_band_k=(0.5, 10), fan_least_pct=(0, 100))
        within(self, WHAT, fan_blind_pct=(0, 100), pad_rh_pct=(30, 95), pad_vent_pct=(0, 100), hot_c=(28, 45), dli_mol_m2=(0, 60))
        within(self, WHAT, lamp_from_h=(0, 24), lamp_to_h=(0, 24), transmission=(0.1, 1), shot_s=(10, 3600), shot_l_m2=(0.01, 10))
        within(self, WHAT, water_ml_j=(0.05, 10), night_loss_pct=(1, 50), drain_share=(0, 10), shot_pause_s=(0, 86400))
        within(self, WHAT, tank_least_pct=(0, 90), blind_rad_w_m2=(0, 1000), drip_ec_ms_cm=(0.3, 5))
        for low, high in (
            ("light_from_w_m2", "light_to_w_m2"),
            ("gust_from_m_s", "gust_shut_m_s"),
            ("gust_lee_m_s", "gust_shut_m_s"),
            ("rh_vent_from_pct", "rh_vent_to_pct"),
            ("rh_pipe_from_pct", "rh_pipe_to_pct"),
            ("fog_off_kpa", "fog_on_kpa"),
            ("screen_close_w_m2", "screen_open_w_m2"),
            ("co2_open_ppm", "co2_ppm"),
        ):
            require(
                getattr(self, low) < getattr(self, high),
                f"{low} of {WHAT} is {getattr(self, low):g} and must be below {high}, {getattr(self, high):g}",
            )

"""Weather, soil water, and growth: statistics of the climates and what follows from them."""

import numpy as np
import pytest

from skyframe.calendar import date_of
from skyframe.data.synthetic.atmosphere import cloudiness, optical_days, radar_days, sun
from skyframe.data.synthetic.climate import CLIMATES as CONSTANTS
from skyframe.data.synthetic.climate import Weather, extraterrestrial, weather
from skyframe.data.synthetic.crops import CROP_TYPES
from skyframe.data.synthetic.landscape import land
from skyframe.data.synthetic.phenology import growth
from skyframe.data.synthetic.water import SATURATED, WILTING, demand_mm, soil_water
from skyframe.data.synthetic.world import CLIMATES, ClimateName, Frame, World

YEARS = 12


@pytest.fixture(scope="module")
def climates() -> dict[str, Weather]:
    rows = np.array([0, 0, 400])
    columns = np.array([0, 1, 0])
    return {c: weather(World(5, c), rows, columns, 2010, 2010 + YEARS - 1) for c in CLIMATES}


def months(series: Weather) -> np.ndarray:
    return np.array([date_of(int(day)).month for day in series.day])


@pytest.mark.parametrize("climate", CLIMATES)
def test_means_are_those_of_the_climate(climates: dict[str, Weather], climate: ClimateName) -> None:
    series, constants = climates[climate], CONSTANTS[climate]
    assert len(series.day) == YEARS * 365 + 3
    assert abs(float(series.temperature_c.mean()) - constants.mean_c) < 1.0
    month = months(series)
    swing = series.temperature_c[month == 7].mean() - series.temperature_c[month == 1].mean()
    assert abs(float(swing) / 2 - constants.swing_c) < 1.5
    wet = float((series.precipitation_mm > 0).mean())
    assert abs(wet - np.mean(constants.wet_share)) < 0.07
    assert 350 < float(series.precipitation_mm.sum(axis=0).mean()) / YEARS < 1000
    assert series.radiation_mj.min() > 0.0 and series.radiation_mj.max() < 34.0


def test_the_climates_differ(climates: dict[str, Weather]) -> None:
    oceanic, continental = climates["oceanic"], climates["continental"]
    july, january = months(oceanic) == 7, months(oceanic) == 1
    assert continental.temperature_c[july].mean() > oceanic.temperature_c[july].mean() + 2.0
    assert continental.temperature_c[january].mean() < oceanic.temperature_c[january].mean() - 3.0
    assert (continental.precipitation_mm > 0).mean() < (oceanic.precipitation_mm > 0).mean()


def test_neighbours_share_their_weather_and_rain_takes_sunshine(climates: dict[str, Weather]) -> None:
    series = climates["oceanic"]
    assert np.corrcoef(series.temperature_c[:, 0], series.temperature_c[:, 1])[0, 1] > 0.95
    wet = series.precipitation_mm > 0
    assert (wet[:, 0] == wet[:, 1]).mean() > 0.9
    assert (wet[:, 0] == wet[:, 2]).mean() < 0.75  # 2000 km away: chance alone
    assert series.radiation_mj[wet].mean() < 0.8 * series.radiation_mj[~wet].mean()
    persistence = wet[1:][wet[:-1]].mean() - wet[1:][~wet[:-1]].mean()
    assert 0.25 < persistence < 0.5


def test_extraterrestrial_radiation_matches_the_handbook() -> None:
    # FAO-56, example 8: 20 degrees south, 3 September: 32.2 MJ.
    assert extraterrestrial(-20.0, np.array([245]))[0] == pytest.approx(32.2, abs=0.1)


def test_reference_evapotranspiration_by_hand() -> None:
    # s = 0.1447 kPa at 20 degrees: 0.65 * 0.1447 / 0.2107 * 20 / 2.45 = 3.64 mm.
    assert demand_mm(np.array([20.0], np.float32), np.array([20.0], np.float32))[0] == pytest.approx(3.64, abs=0.02)


def test_soil_dries_without_rain_and_fills_with_it() -> None:
    days, units = 120, 1
    warm, sun_mj = np.full((days, units), 22.0, np.float32), np.full((days, units), 22.0, np.float32)
    bare, capacity = np.zeros((days, units), np.float32), np.full(units, 120.0, np.float32)
    dry = soil_water(warm, np.zeros_like(warm), sun_mj, bare, capacity)
    assert (np.diff(dry.moisture[:20, 0]) < 0).all() and dry.moisture.min() >= WILTING
    wet = soil_water(warm, np.full_like(warm, 6.0), sun_mj, bare, capacity)
    assert wet.moisture[-1, 0] > 0.75 * SATURATED and wet.supply[-1, 0] == 1.0
    thirsty = soil_water(warm, np.zeros_like(warm), sun_mj, bare + 1, capacity)
    assert thirsty.supply[-1, 0] < 0.2
    cold = soil_water(warm - 30, np.full_like(warm, 5.0), sun_mj, bare, capacity)
    assert cold.snow_mm[-1, 0] == pytest.approx(5.0 * days)


@pytest.mark.parametrize("climate", CLIMATES)
def test_optical_and_radar_dates_never_coincide(climate: ClimateName) -> None:
    for seed in range(6):
        optical, radar = optical_days(World(seed, climate), 2021), radar_days(World(seed, climate), 2021)
        assert not set(optical.tolist()) & set(radar.tolist())
        assert 45 <= len(optical) <= 75 and 40 <= len(radar) <= 61
        assert (np.diff(optical) > 0).all() and (np.diff(radar) > 0).all()
        assert {date_of(int(day)).year for day in (*optical, *radar)} == {2021}


def test_the_sun_stands_in_the_south_east_and_higher_in_summer() -> None:
    world = World(0, "oceanic")
    summer, winter = sun(world, 8207), sun(world, 8390)  # June and December 2022
    assert np.degrees(summer[0]) < 40 and np.degrees(winter[0]) > 70
    assert all(100 < np.degrees(azimuth) < 170 for _, azimuth in (summer, winter))


def test_rainy_days_are_cloudier() -> None:
    world = World(5, "oceanic")
    series = weather(world, np.array([0]), np.array([0]), 2021, 2021)
    cloud = np.array([cloudiness(world, 0, 0, int(day)) for day in series.day])
    wet = series.precipitation_mm[:, 0] > 0
    assert cloud[wet].mean() > cloud[~wet].mean() + 0.3
    assert cloud.min() >= 0.0 and cloud.max() <= 1.0


def test_crops_follow_their_calendar_and_the_climate() -> None:
    peaks = {}
    for climate in CLIMATES:
        world = World(3, climate)
        units = land(world, Frame(0.0, 0.0, 40.0, 128, 128)).units
        state = growth(world, units, 2021)
        assert state.green.min() >= 0.0 and state.green.max() < 9.0
        assert state.moisture.min() >= WILTING and state.moisture.max() <= SATURATED + 1e-6
        for number, name in enumerate(CROP_TYPES):
            fields = state.green[:, state.crop == number]
            assert fields.shape[1] > 0, name
            peaks[climate, name] = float(np.argmax(np.median(fields[60:300], axis=1))) + 60
    for climate in CLIMATES:
        assert peaks[climate, "winter_barley"] < 165 < peaks[climate, "maize"]
        assert peaks[climate, "winter_wheat"] < peaks[climate, "sugar_beet"]
    assert any(abs(peaks["oceanic", name] - peaks["continental", name]) >= 4 for name in CROP_TYPES)

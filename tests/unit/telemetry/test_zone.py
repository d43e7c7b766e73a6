"""Clocks of time zones against the tables of the system, hour by hour around every change."""

import datetime as dt
import zoneinfo

import numpy as np
import pytest

from telemetry.site import AreaSpec, SiteConfig
from telemetry.zone import offsets


@pytest.mark.parametrize(
    "name", ["Asia/Shanghai", "Europe/Amsterdam", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]
)
def test_offsets_are_those_of_the_zone(name: str) -> None:
    site = SiteConfig(site="s", zone=name, areas=[AreaSpec(name="a")], devices=[], profiles={})
    zone = zoneinfo.ZoneInfo(name)
    moments = [1_700_000_000 + 86_400 * k for k in range(0, 3_000, 7)]
    moments += [start + d for start, _ in offsets(name)[1:] for d in (-3_600, -1, 0, 1, 3_600)]
    got = site.offset_s(np.array(moments, np.int64) * 1_000_000_000)
    want = [dt.datetime.fromtimestamp(m, zone).utcoffset().total_seconds() for m in moments]  # type: ignore[union-attr]
    assert got.tolist() == want


def test_a_zone_with_one_clock_is_one_row() -> None:
    assert offsets("Asia/Shanghai") == [(0, 28_800)]


def test_a_configuration_keeps_the_table_it_brings() -> None:
    site = SiteConfig(
        site="s", zone="Europe/Amsterdam", zone_offsets=[(0, 60)], areas=[AreaSpec(name="a")], devices=[], profiles={}
    )
    assert SiteConfig.model_validate_json(site.canonical()).zone_offsets == [(0, 60)]

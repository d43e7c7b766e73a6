"""Topics: what is ours, and nothing that only looks like it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import topic

GOOD_NAMES = ["a", "0", "bench-1", "a_b", "a" * 64, "0-0"]
BAD_NAMES = [
    "", "-a", "a-", "_a", "A", "a b", "a" * 65, "a+", "+", "#", "..", ".", "$sys", "a\n", "\na", "a\x00", "ａ", "а", "é",
    "a\u200b", "a/b", "<img>",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("channel", topic.CHANNELS)
def test_ours(name: str, channel: str) -> None:
    assert topic.parse(topic.topic(name, name, channel)) == (name, name, channel)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: str) -> None:
    assert topic.parse(f"fl/{name}/d/telemetry") is None
    assert topic.parse(f"fl/s/{name}/telemetry") is None


@pytest.mark.parametrize(
    "text",
    ["", "fl", "fl/s/d", "fl/s/d/telemetry/", "/fl/s/d/telemetry", "FL/s/d/telemetry", "fl/s/d/Telemetry", "fl/s/d/other", "fl/s/lease",
     "fl/s/d/telemetry\n", "x/s/d/telemetry", "fl//d/telemetry", "/" * 65_535],
)  # fmt: skip
def test_what_is_not_ours(text: str) -> None:
    assert topic.parse(text) is None


@given(st.text(max_size=40))
def test_any_text_gives_an_address_or_none(text: str) -> None:
    address = topic.parse(text)
    assert address is None or topic.topic(*address) == text


def test_the_filters_cover_what_devices_send_and_no_more() -> None:
    channels = {f.rsplit("/", 1)[1] for f in (*topic.LIVE_FILTERS, *topic.BACKFILL_FILTERS)}
    assert channels == set(topic.CHANNELS) - {"command", "receipt"}
    assert topic.lease_topic("s") == "fl/s/lease"

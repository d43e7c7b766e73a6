"""Topics `fl/{site}/{device}/{channel}`, `fl/{site}/{program}/request` and `fl/{site}/lease`. Identity comes from the topic, never from
the payload."""

import re
from typing import Final, NamedTuple

ROOT: Final = "fl"
CHANNELS: Final = ("telemetry", "backfill", "status", "event", "command", "ack", "receipt")
LIVE_FILTERS: Final = tuple(f"{ROOT}/+/+/{channel}" for channel in ("telemetry", "status", "event", "ack"))
BACKFILL_FILTERS: Final = (f"{ROOT}/+/+/backfill",)
REQUEST_FILTER: Final = f"{ROOT}/+/+/request"
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
NAME_RULE: Final = "1-64 of a-z 0-9 _ -, beginning and ending with a letter or digit"


class Address(NamedTuple):
    """Who speaks on which channel."""

    site: str
    device: str
    channel: str


def parse(topic: str) -> Address | None:
    """The address, or None when the topic is not one of ours (wrong shape, unknown channel, forbidden characters)."""
    parts = topic.split("/")
    if len(parts) != 4 or parts[0] != ROOT or parts[3] not in CHANNELS:
        return None
    if not NAME.fullmatch(parts[1]) or not NAME.fullmatch(parts[2]):
        return None
    return Address(parts[1], parts[2], parts[3])


def topic(site: str, device: str, channel: str) -> str:
    """The topic of a device's channel."""
    assert channel in CHANNELS
    return f"{ROOT}/{site}/{device}/{channel}"


def is_request(topic: str) -> bool:
    """Whether a program asks for something here."""
    return topic.endswith("/request") and topic.count("/") == 3


def program_topic(site: str, program: str, channel: str) -> str:
    """Where a program asks ("request") and reads ("answer")."""
    return f"{ROOT}/{site}/{program}/{channel}"


def lease_topic(site: str) -> str:
    """Where the core announces that it is alive and in which epoch."""
    return f"{ROOT}/{site}/lease"

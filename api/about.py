"""Who and what journal records are about: site, device, rule and actuator out of subjects, requests and rejects."""

import base64
from typing import Any

import msgspec

from telemetry.decision import Decision
from telemetry.record import Request


def split_subject(decision: Decision) -> tuple[str, str, str]:
    """(site, device, rest) of a decision: "RULE@site/device" gives the rule as rest, "site/device/actuator" the actuator."""
    rule, at, place = decision.subject.partition("@")
    site, _, device = (place if at else decision.subject).partition("/")
    device, _, rest = device.partition("/")
    return site, device, rule if at else rest


def rejected_bytes(text: Any) -> bytes:
    """The rejected bytes, which the journal holds as base64."""
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        return str(text).encode()


class _NamedSite(msgspec.Struct):
    site: str = ""


def request_site(request: Request) -> str:
    """The site a request is about; "" when it names none."""
    body = request.body
    if "alarm" in body:
        return str(body["alarm"]).partition("@")[2].partition("/")[0]
    for name in ("actuator", "area"):
        if name in body:
            return str(body[name]).partition("/")[0]
    if request.kind != "config" or "site" in body:
        return str(body.get("site", ""))
    try:
        return msgspec.json.decode(str(body.get("text", "")), type=_NamedSite).site
    except msgspec.DecodeError:
        return ""

"""Requests of programs over MQTT: identity by topic, one site each, answered, and never older than the core's sight."""

import json
from typing import Any

import pytest

from app.broker import acl_text
from app.programs import AT_ONCE_MAX, PAYLOAD_MAX, Programs
from telemetry.decision import Decision
from telemetry.plan import Plan
from telemetry.record import Request
from telemetry.site import SiteConfig

ASKED = {"id": "a1", "kind": "override", "actuator": "h-0/vent", "value": 40.0, "seconds": 60, "reason": "drying"}
TOPIC = "fl/farm/scada/request"


class Desk:
    """A desk with what it published."""

    def __init__(self) -> None:
        plan = Plan()
        profile = {"name": "p", "points": [{"name": "x", "unit": "", "low": 0, "high": 1}], "actuators": [{"name": "vent"}]}
        plan.apply(SiteConfig.model_validate({
            "site": "farm", "areas": [{"name": "a"}], "devices": [{"name": "h", "profile": "p", "area": "a", "count": 1}],
            "profiles": {"p": profile}, "programs": ["scada"],
        }))  # fmt: skip
        self.said: list[tuple[str, Any]] = []
        self.programs = Programs(self._publish, lambda: plan)

    def _publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> None:
        assert (qos, retain, expiry_s) == (1, False, 3600)
        self.said.append((topic, json.loads(payload)))

    def take(self, body: Any = ASKED, *, name: str = TOPIC, retained: bool = False, is_sighted: bool = True) -> Request | None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.programs.take(name, payload, retained=retained, is_sighted=is_sighted)


def test_request_carries_the_identity_of_its_topic_and_the_site_of_its_topic() -> None:
    body = {"actuator": "farm/h-0/vent", "value": 40.0, "seconds": 60.0, "reason": "drying"}
    assert Desk().take() == Request("program:scada@farm.a1", "override", "program:scada", body)
    released = Desk().take({"id": "a2", "kind": "release", "actuator": "h-0/vent"})
    assert released == Request("program:scada@farm.a2", "release", "program:scada", {"actuator": "farm/h-0/vent"})


@pytest.mark.parametrize(
    ("body", "given", "reason"),
    [
        (b"{", {}, "not understood"),
        (b"\xff", {}, "not understood"),
        ({**ASKED, "author": "boss"}, {}, "not understood"),
        ({**ASKED, "unsafe": True}, {}, "not understood"),
        ({**ASKED, "value": "NaN"}, {}, "not understood"),
        (b" " * (PAYLOAD_MAX + 1), {}, "bytes, limit"),
        ({**ASKED, "kind": "config"}, {}, "`kind` is override or release"),
        ({**ASKED, "id": "a/b"}, {}, "`id` is"),
        (ASKED, {"retained": True}, "waited in the broker"),
        (ASKED, {"is_sighted": False}, "waited in the broker"),
        (ASKED, {"name": "fl/farm/h-0/request"}, "no program 'h-0' is declared"),
        (ASKED, {"name": "fl/other/scada/request"}, "no program 'scada' is declared at site 'other'"),
    ],
)
def test_what_is_refused_is_answered_with_its_reason(body: Any, given: dict[str, Any], reason: str) -> None:
    desk = Desk()
    assert desk.take(body, **given) is None
    ((topic, answer),) = desk.said
    assert topic == given.get("name", TOPIC).replace("request", "answer")
    assert answer["accepted"] is False
    assert reason in answer["reason"]
    assert desk.programs.refused == 1


def test_answers_go_to_who_asked_and_a_flood_is_refused_until_the_next_commit() -> None:
    desk = Desk()
    assert all(desk.take({**ASKED, "id": f"b{i}"}) for i in range(AT_ONCE_MAX))
    assert desk.take() is None
    desk.said.clear()
    decisions = [
        Decision(1, 1, 0, 60, "answer", "program:scada@farm.b1", {"accepted": True, "reason": ""}),
        Decision(1, 1, 0, 60, "answer", "program:scada@farm.b2", {"accepted": False, "reason": "no"}),
        Decision(1, 1, 0, 60, "answer", "wang.b3", {"accepted": True, "reason": ""}),
    ]
    desk.programs.answer(decisions)
    assert desk.said == [
        ("fl/farm/scada/answer", {"id": "b1", "accepted": True}),
        ("fl/farm/scada/answer", {"id": "b2", "accepted": False, "reason": "no"}),
    ]
    assert desk.take() is not None


def test_only_programs_may_ask_at_the_broker() -> None:
    lines = acl_text(["farm/h-0"], programs=["farm/scada"]).splitlines()
    asking = [n for n, line in enumerate(lines) if "request" in line]
    assert [lines[n - 1 : n + 2] for n in asking] == [
        ["user farm/scada", "topic write fl/farm/scada/request", "topic read fl/farm/scada/answer"]
    ]


def test_program_is_not_called_like_a_device() -> None:
    config = {"site": "s", "areas": [{"name": "a"}], "devices": [{"name": "d", "profile": "p", "area": "a"}],
              "profiles": {"p": {"name": "p", "points": []}}, "programs": ["d"]}  # fmt: skip
    with pytest.raises(ValueError, match="program 'd' has the name of a device"):
        SiteConfig.model_validate(config)

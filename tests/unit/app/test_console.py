"""What a terminal says: alarms and commands in words, rates of the last seconds, silence."""

import msgspec
import pytest

from app.console import Pulse, decision_line, record_line
from telemetry.decision import Decision
from telemetry.record import Ack, Event
from telemetry.transaction import Accounting, Transaction
from tests.faults.journal_rows import make_transaction

S = 1_000_000_000


def decision(kind: str, subject: str, body: dict[str, object]) -> Decision:
    return Decision(1, 0, 5 * S, 0, kind, subject, body)


def test_an_alarm_is_told_with_its_value_and_device() -> None:
    body = {"from": "NORM", "to": "UNACK", "priority": "P1", "value": 17.53, "message": {"en": "Gust {value} m/s at {device}"}}
    assert decision_line(decision("alarm", "MS-STORM@farm/house-1", body)) == (
        "ALARM P1 MS-STORM@farm/house-1 NORM -> UNACK  Gust 17.5 m/s at house-1"
    )


@pytest.mark.parametrize(
    ("winner", "reason", "said"),
    [
        ({"source": "HOT@farm/a"}, "air_temp_c > 30", "HOT: air_temp_c > 30"),
        ({"source": "STORM@farm/a"}, "Gust {value} m/s", "STORM"),
        ({"source": "request:ann.1"}, "ann: inspection", "ann: inspection"),
        (None, "nobody asks: rest", "nobody asks: rest"),
    ],
)
def test_a_command_says_why(winner: dict[str, str] | None, reason: str, said: str) -> None:
    body = {"state": "sent", "value": 41.42857, "reason": reason, "winner": winner}
    assert decision_line(decision("command", "farm/a/vent", body)) == f"command farm/a/vent = 41.43 sent ({said})"


def test_what_says_nothing_to_a_person_is_left_out() -> None:
    assert record_line(Ack("farm/a", "1", "accepted", "")) == ""
    assert record_line(Ack("farm/a", "1", "refused", "locked")) == "farm/a/ answers 1: refused locked"
    assert record_line(Event("records", "", {})) == ""
    assert record_line(Event("birth", "farm/a", {})) == "farm/a is online"


def at(first: int, time_s: int, received: int) -> Transaction:
    made = make_transaction(first)
    accounting = msgspec.json.encode(Accounting(received=received, stored=received))
    return msgspec.structs.replace(made, engine_ns=time_s * S, accounting=accounting)


def test_rates_are_those_of_the_last_seconds_and_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse()
    monkeypatch.setattr(Transaction, "read_decisions", lambda _self: [])
    monkeypatch.setattr("app.console.Narrator.lines", lambda _self, _transaction: iter(()))
    assert pulse.silence(9 * S) == ""
    for first, time_s, received in ((0, 1000, 50), (10, 90_000, 50), (20, 90_002, 60)):
        pulse.take(at(first, time_s, received), float(time_s))
    assert pulse.rates()[0] == pytest.approx(5.0)  # a night without us in between is not averaged in
    assert pulse.silence(90_004 * S) == ""
    assert "nothing for 8 s" in pulse.silence(90_010 * S)

"""The demo's live view: rates of the last seconds, silence."""

from pathlib import Path

import msgspec
import pytest

from app.console import Pulse, last_complaint
from app.narrator import Known
from telemetry.transaction import Accounting, Transaction
from tests.faults.journal_rows import make_transaction

S = 1_000_000_000


def at(first: int, time_s: int, received: int) -> Transaction:
    made = make_transaction(first)
    accounting = msgspec.json.encode(Accounting(received=received, stored=received))
    return msgspec.structs.replace(made, engine_ns=time_s * S, accounting=accounting)


def test_rates_are_those_of_the_last_seconds_and_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse(Path("log"), Known())
    monkeypatch.setattr(Transaction, "read_decisions", lambda _self: [])
    monkeypatch.setattr("app.console.Known.take", lambda _self, _transaction: None)
    monkeypatch.setattr("app.console.Narrator.lines", lambda _self, _transaction: iter(()))
    assert pulse.silence(9 * S) == ""
    for first, time_s, received in ((0, 1000, 50), (10, 90_000, 50), (20, 90_002, 60)):
        pulse.take(at(first, time_s, received))
    assert pulse.rates()[0] == pytest.approx(5.0)  # a night without us in between is not averaged in
    assert pulse.flow().startswith("5.0 messages/s   ")
    assert pulse.sum() == "60 messages received = 60 stored + 0 duplicate + 0 rejected + 0 pending"
    assert pulse.silence(90_004 * S) == ""
    assert "nothing for 8 s; its reason stands in log/core.log" in pulse.silence(90_010 * S)


def test_the_reason_of_a_silent_core_is_what_it_complained_of_last(tmp_path: Path) -> None:
    log = tmp_path / "core.log"
    assert last_complaint(log) == ""
    full = '{"error": "the disk is full", "event": "commit failed", "level": "error"}\n'
    log.write_text('{"event": "core ready", "level": "info"}\n' + full + '{"error": "the disk is fu')
    assert last_complaint(log) == "the disk is full"
    log.write_text(full + '{"event": "broker up", "level": "info"}\n')
    assert last_complaint(log) == ""
    pulse = Pulse(tmp_path, Known())
    log.write_text(full)
    pulse.heard_ns = 90_000 * S
    assert pulse.silence(90_010 * S) == "The core has written nothing for 10 s: the disk is full"

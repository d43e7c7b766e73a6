"""The switch of controllers against a scalar loop, and its limits."""

import numpy as np
import pytest

from rules.control.memory import Guard, Moves, move, start_drive
from rules.control.switch import start_switch, switch
from telemetry.errors import CallerError
from tests.unit.rules.control.sequences import T0, S


def scalar(wishes, *, on_s, off_s, least_on_s, least_off_s, step_s=30):
    """On or off after each call, one house."""
    on, changed, since, out = False, -1e18, None, []
    for k, (wants_on, wants_off) in enumerate(wishes):
        now = k * step_s
        other = wants_off if on else wants_on and not wants_off
        since = (now if since is None else since) if other else None
        delay, least = (off_s, least_on_s) if on else (on_s, least_off_s)
        if since is not None and now - since >= delay and now - changed >= least:
            on, changed, since = not on, now, None
        out.append(on)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_switch_is_the_scalar_loop_for_any_wishes(seed):
    random = np.random.default_rng(seed)
    limits = {"on_s": 60, "off_s": 90, "least_on_s": 120, "least_off_s": 180}
    n, calls = 20, 200
    wishes = random.random((calls, n, 2)) < [0.5, 0.4]
    state, told = start_switch(n), []
    for k in range(calls):
        state = switch(
            state, T0 + k * 30 * S, wishes[k, :, 0], wishes[k, :, 1], on_delay_s=60, off_delay_s=90, min_on_s=120, min_off_s=180
        )
        told.append(state.on)
    for i in range(n):
        assert [bool(on[i]) for on in told] == scalar(wishes[:, i], **limits)
    assert 0 < np.mean(told) < 1


def test_nothing_asked_changes_nothing_and_off_wins():
    state = switch(start_switch(2), T0, True, [False, True])
    assert list(state.on) == [True, False]
    assert list(switch(state, T0 + 60 * S, False, False).on) == [True, False]
    assert list(switch(state, T0 + 60 * S, True, True).on) == [False, False]


def test_a_drive_without_a_daily_limit_moves_at_every_wait():
    moves = Moves(3.0, 0, 60.0)
    state, made = start_drive(np.zeros(1), T0, moves), 0
    for k in range(500):
        before = state.position[0]
        state, position = move(state, T0 + k * 60 * S, np.array([50.0 * (k % 2) + 20.0]), moves, Guard(60.0))
        made += int(position[0] != before)
    assert made == 500
    assert state.moves_ns.shape == (1, 1)
    with pytest.raises(CallerError, match="0 for any number"):
        Moves(3.0, -1, 60.0)

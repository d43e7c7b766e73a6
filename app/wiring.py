"""The composition root of `step`: the one list of stages, for core, lanes, lab and tests."""

import importlib.metadata

from devices.command import Commands
from ingest.admit import Admit
from rules.alarm import Alarms
from rules.arbitration import Arbitration
from rules.area import Areas
from rules.command_alarm import CommandAlarms
from rules.condition import Conditions
from rules.control.stage import Control
from rules.engine import Engine
from telemetry.span import Stage


def build_engine(
    *, numba: bool = True, control: bool = True, commands: bool = True, sabotage: frozenset[str] = frozenset()
) -> Engine:
    """A fresh engine with all stages in order: admit and ledger, areas, derive and rules, alarms, control, arbitration, commands, alarms
    of commands.

    Without `commands` it decides what actuators should do and speaks to none: nobody would answer, and silence would be told. Without
    `control` only rules ask for actuators.
    """
    conditions = Conditions()
    stages: list[Stage] = [Admit(numba=numba, sabotage=sabotage), Areas(), conditions, Alarms(conditions)]
    stages += [Control(sabotage=sabotage), Arbitration(sabotage=sabotage)] if control else [Arbitration(sabotage=sabotage)]
    return Engine([*stages, Commands(sabotage=sabotage), CommandAlarms(sabotage=sabotage)] if commands else stages)


def build_id() -> str:
    """Names this build in snapshots and START."""
    return f"fieldloom {importlib.metadata.version('fieldloom')}"

"""The composition root of `step`: the one list of stages, for core, lanes, lab and tests."""

import importlib.metadata

from devices.command import Commands
from ingest.admit import Admit
from rules.alarm import Alarms
from rules.arbitration import Arbitration
from rules.area import Areas
from rules.condition import Conditions
from rules.engine import Engine


def build_engine(*, numba: bool = True, sabotage: frozenset[str] = frozenset()) -> Engine:
    """A fresh engine with all stages in order: admit and ledger, areas, derive and rules, alarms, arbitration, commands."""
    conditions = Conditions()
    return Engine(
        [Admit(numba=numba, sabotage=sabotage), Areas(), conditions, Alarms(conditions), Arbitration(), Commands(sabotage=sabotage)]
    )


def build_id() -> str:
    """Names this build in snapshots and START."""
    return f"fieldloom {importlib.metadata.version('fieldloom')}"

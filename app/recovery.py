"""A start of core: the engine as it was after the last journaled transaction, and whether this build would have decided otherwise."""

import bisect
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from app.wiring import build_engine, build_id
from rules.engine import Engine
from store.journal_reader import Gap, JournalReader
from store.snapshot import valid_snapshots
from telemetry.decision import Decision, encode_decisions
from telemetry.errors import StoreError
from telemetry.frame import join_entries
from telemetry.record import Event, Request, is_upgrade
from telemetry.transaction import Transaction

log = structlog.get_logger()
RECOVER_ROWS: Final = 10_000  # journaled samples of one call of `step`


class Recovery(NamedTuple):
    """What a start finds: the engine after the last journaled transaction, the last inbox row taken, and the event that tells
    where this build decides otherwise than the journal says; None where it does not."""

    engine: Engine
    inbox_row: int
    upgrade: Event | None


def recover(data: Path, *, sabotage: frozenset[str] = frozenset()) -> Recovery:
    """Newest valid snapshot, then the journal's tail. What was journaled stays fact: where this build decides otherwise is told once."""
    engine, inbox_row, position = _restore(data / "snapshots", sabotage)
    differing: list[int] = []  # position of the first other decision of each such transaction
    if not (data / "journal").is_dir():
        return Recovery(engine, inbox_row, None)
    with contextlib.closing(JournalReader(data / "journal")) as reader, _explained(data):
        while transactions := reader.read(position, rows_max=RECOVER_ROWS):
            # As one run: how entries are cut changes no decision, and each call of `step` costs half a ms.
            entries = join_entries([transaction.read_entries() for transaction in transactions])
            differing += find_other(engine.step(entries).decisions, transactions)
            for _, record in entries.records:
                if isinstance(record, Request):
                    inbox_row = max(inbox_row, int(record.body.get("inbox_row", 0)))
                elif is_upgrade(record) and record.body["build"] == build_id():
                    differing = [at for at in differing if at > record.body["last"]]  # told by an earlier start
            position = transactions[-1].last
    return Recovery(engine, inbox_row, tell_upgrade(differing))


@contextlib.contextmanager
def _explained(data: Path) -> Iterator[None]:
    try:
        yield
    except Gap as gap:
        raise StoreError(
            f"no snapshot in {data / 'snapshots'} can be used, and the journal begins at position {gap.available}: put back the "
            "snapshots, install the build that wrote them, or move journal and snapshots aside to begin anew"
        ) from gap


def _restore(directory: Path, sabotage: frozenset[str]) -> tuple[Engine, int, int]:
    """The newest snapshot that this build can take, its inbox row and position; an engine without a past when there is none."""
    skipped: list[str] = []
    for position, state in valid_snapshots(directory, skipped=skipped, is_other_build_allowed=True):
        engine = build_engine(sabotage=sabotage)
        try:
            if "forget_alarms" in sabotage:
                state["engine"]["stages"]["Alarms"]["alarms"] = []
            engine.restore(state["engine"])
            taken = engine, int(state["inbox_row"]), position
        except (KeyError, ValueError, TypeError, IndexError) as error:  # of a build with another state
            skipped.append(f"{directory}: the snapshot of position {position} does not fit this build ({error!r})")
            continue
        break
    else:
        taken = build_engine(sabotage=sabotage), 0, -1
    for reason in skipped:
        log.warning("snapshot passed over", reason=reason)
    return taken


def find_other(decisions: Sequence[Decision], journaled: Sequence[Transaction]) -> list[int]:
    """Of each transaction that says otherwise than `decisions` (canonical order) the position of the first such decision."""
    found, start = [], 0
    for transaction in journaled:
        stop = bisect.bisect_right(decisions, transaction.last, lo=start, key=lambda decision: decision.position)
        own, start = list(decisions[start:stop]), stop
        if encode_decisions(own) != transaction.decisions:
            found.append(first_difference(own, transaction))
    return found


def first_difference(decisions: Sequence[Decision], journaled: Transaction) -> int:
    """Position of the first decision that is not the journaled one."""
    for ours, theirs in itertools.zip_longest(decisions, journaled.read_decisions()):
        both = [one for one in (ours, theirs) if one is not None]
        if len(both) == 1 or encode_decisions(both[:1]) != encode_decisions(both[1:]):
            return min(one.position for one in both)
    return journaled.first


def tell_upgrade(differing: Sequence[int]) -> Event | None:
    """The event of those positions; None without any."""
    if not differing or os.environ.get("FIELDLOOM_SABOTAGE") == "silent_upgrade":
        return None
    first, last, count = min(differing), max(differing), len(differing)
    reason = (
        f"{build_id()} decides {count} transactions from position {first} on otherwise than the journal says; the journal stays"
    )
    log.warning(reason, transactions=count, first=first, last=last)
    return Event("upgrade", "", {"transactions": count, "first": first, "last": last, "build": build_id(), "reason": reason})

"""The decision log of the history, from whoever may read it: `web` while it runs (its store can be opened once), else the file."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from app.client import NoServiceError, connect
from app.serving import open_history
from app.settings import Settings
from store.decision_log import Coverage, read_coverage, read_lines
from store.history import History
from store.journal_reader import JournalReader
from telemetry.errors import CallerError, EnvironmentFault

Source = tuple[Coverage, Iterator[list[bytes]]]


class HistoryLog(NamedTuple):
    """notes: what is not in it, in words. last: the journal position it ends at. pages: its lines, each with its line end."""

    notes: list[str]
    last: int
    pages: Iterator[list[bytes]]


@contextlib.contextmanager
def open_log(settings: Settings) -> Iterator[HistoryLog]:
    """The log, open while the block runs. Raises CallerError, EnvironmentFault or StoreError, each with its fix."""
    is_elsewhere = bool(os.environ.get("FIELDLOOM_URL"))
    with contextlib.ExitStack() as stack:
        coverage, pages = _open(settings, stack, is_elsewhere=is_elsewhere)
        last = -1 if is_elsewhere else journal_last(settings)  # a journal here is not the one of a service elsewhere
        yield HistoryLog(coverage.notes(last), coverage.position, pages)


def journal_last(settings: Settings) -> int:
    """The journal's last position; -1 when it is empty."""
    with contextlib.closing(JournalReader(settings.data_dir / "journal")) as reader:
        newest = reader.last()
    return -1 if newest is None else newest.last


def _open(settings: Settings, stack: contextlib.ExitStack, *, is_elsewhere: bool) -> Source:
    if is_elsewhere or (settings.data_dir / "web.sqlite").is_file():
        try:
            return _ask_web(settings, stack)
        except NoServiceError:
            if is_elsewhere:
                raise
    return _open_file(settings, stack)


def _ask_web(settings: Settings, stack: contextlib.ExitStack) -> Source:
    answer = stack.enter_context(stack.enter_context(connect(settings)).stream("/decisions"))
    coverage = msgspec.json.decode(answer.headers["Fieldloom-Coverage"])
    return Coverage(coverage["position"], coverage["whole_from"], [tuple(gap) for gap in coverage["gaps"]]), _lines(
        answer.iter_bytes()
    )


def _lines(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if whole:
            yield [line + b"\n" for line in whole]
    if rest:
        raise EnvironmentFault("the log broke off in the middle of a line; try again")


def _open_file(settings: Settings, stack: contextlib.ExitStack) -> Source:
    file = settings.data_dir / ("history.duckdb" if settings.history == "duckdb" else "history.sqlite")
    if not file.is_file():
        raise CallerError(f"there is no history in {settings.data_dir}; `fieldloom serve web` writes {file.name}")
    history = stack.enter_context(contextlib.closing(open_history(settings)))
    coverage = read_coverage(history)
    return coverage, _pages(history, coverage.position)


def _pages(history: History, last: int) -> Iterator[list[bytes]]:
    lines, after = read_lines(history, -1, last)
    while lines:
        yield lines
        lines, after = read_lines(history, after, last)


def position_of(line: bytes) -> int:
    """The journal position of a line."""
    return int(line[1 : line.index(b",")])

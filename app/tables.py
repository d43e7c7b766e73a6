"""Tables as every command shows them: no walls, headings on the left, numbers on the right; and the one progress bar."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

PROGRESS_AFTER_S: Final = 2.0
_began: list[float] = []  # when this command's first long step began


def grid(first: str = "", *numbers: str) -> Table:
    """A table; without `numbers` it has no head."""
    table = Table(box=None, show_header=bool(numbers), header_style="dim", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def heading(text: str) -> Text:
    """What stands over a table."""
    return Text(text, "bold")


def console() -> Console:
    """Standard output; a line longer than the terminal is the terminal's to break."""
    return Console(soft_wrap=True, highlight=False)


def site_time(time_s: float, zone: str) -> str:
    """A time as clocks at the site show it."""
    return datetime.fromtimestamp(time_s, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float, decimals: int) -> str:
    """With so many decimals, and no minus before zero."""
    text = f"{value:,.{decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text


@contextlib.contextmanager
def slow_progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error once the command has worked for two seconds, over all its steps; `advance(done)` moves it.

    Without `total` it only shows that something happens.
    """
    if not _began:
        _began.append(time.monotonic())
    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=total)
    start = threading.Timer(max(0.0, _began[0] + PROGRESS_AFTER_S - time.monotonic()), progress.start)
    start.daemon = True
    start.start()
    try:
        yield lambda done: progress.update(task, completed=done)
    finally:
        start.cancel()
        start.join()
        if progress.live.is_started:
            progress.stop()

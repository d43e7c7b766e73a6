"""Named places where a test may kill the process: FIELDLOOM_FAILPOINT="name" or "name:3" (the third pass). Nothing otherwise.

With FIELDLOOM_FAILPOINT_ARMED=path passes count only while that file exists, so that a test can choose the moment.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

NAMES: Final = ("gathered", "stepped", "appended", "acknowledged", "published")


def _make() -> Callable[[str], None]:
    wanted, _, count = os.environ.get("FIELDLOOM_FAILPOINT", "").partition(":")
    if not wanted:
        return lambda _name: None
    if wanted not in NAMES:
        message = f"FIELDLOOM_FAILPOINT={wanted!r} is not one of {', '.join(NAMES)}"
        raise SystemExit(message)
    left = int(count or 1)
    armed = Path(os.environ["FIELDLOOM_FAILPOINT_ARMED"]) if "FIELDLOOM_FAILPOINT_ARMED" in os.environ else None

    def pass_by(name: str) -> None:
        nonlocal left
        if name == wanted and (armed is None or armed.exists()):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return pass_by


failpoint = _make()

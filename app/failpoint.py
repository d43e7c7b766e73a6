"""Named places where a test may kill the process, fail, or stand still. Nothing otherwise.

FIELDLOOM_FAILPOINT="name", "name:3" (the third pass), "name=raise" (an exception there) or "name=block 10" (10 s of the event loop).
With FIELDLOOM_FAILPOINT_ARMED=path passes count only while that file exists, so that a test can choose the moment.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

NAMES: Final = ("received", "gathered", "stepped", "appended", "acknowledged", "sending", "published")
ACTIONS: Final = ("kill", "raise", "block")


class FailpointReached(Exception):
    """What "name=raise" raises."""


def _make() -> Callable[[str], None]:
    value = os.environ.get("FIELDLOOM_FAILPOINT", "")
    place, _, what = value.partition("=")
    wanted, _, count = place.partition(":")
    action, _, seconds = (what or "kill").partition(" ")
    if not wanted:
        return lambda _name: None
    if wanted not in NAMES or action not in ACTIONS:
        message = f"FIELDLOOM_FAILPOINT={value!r} is not one of {', '.join(NAMES)}, with one of {', '.join(ACTIONS)}"
        raise SystemExit(message)
    left = int(count or 1)
    armed = Path(os.environ["FIELDLOOM_FAILPOINT_ARMED"]) if "FIELDLOOM_FAILPOINT_ARMED" in os.environ else None

    def pass_by(name: str) -> None:
        nonlocal left
        if name != wanted or (armed is not None and not armed.exists()):
            return
        left -= 1
        if left == 0:
            match action:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "raise":
                    raise FailpointReached(name)
                case "block":
                    time.sleep(float(seconds))

    return pass_by


failpoint = _make()

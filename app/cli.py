"""The command line: one command per job, each in app/commands. Heavy imports wait until a command runs, so that help is instant.

Every expected failure ends as one sentence with its fix and an exit code: 1 environment or request, 2 wrong configuration,
3 damaged data. Wrong words on the command line end with 2. A traceback means a defect of ours.
"""

# ruff: noqa: E402
import signal

_taken_back = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the program loads ends it, without a traceback

import atexit
import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from app.commands import actuators, alarms, backtest, look, notify, operate, rules, run, sites
from app.settings import load_settings
from telemetry.errors import ConfigError, CorruptError, FieldloomError

signal.signal(signal.SIGINT, _taken_back)

app = typer.Typer(
    name="fieldloom",
    help="Streaming telemetry and control for smart agriculture and factories.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("demo", run.demo, "Run"),
    ("serve", run.serve, "Run"),
    ("simulate", run.simulate, "Run"),
    ("fault", run.fault, "Run"),
    ("lab", run.lab, "Run"),
    ("play", run.play, "Run"),
    ("check", sites.check, "Configure"),
    ("apply", sites.apply, "Configure"),
    ("export", sites.export, "Configure"),
    ("status", look.status, "Look"),
    ("tail", look.tail, "Look"),
    ("query", look.query, "Look"),
    ("entries", look.entries, "Look"),
    ("why", look.why, "Look"),
    ("decisions", look.decisions, "Look"),
    ("backtest", backtest.backtest, "Look"),
    ("override", actuators.override, "Operate"),
    ("release", actuators.release, "Operate"),
    ("doctor", operate.doctor, "Operate"),
    ("login", operate.login, "Operate"),
    ("broker", operate.broker, "Operate"),
    ("settings", operate.settings, "Operate"),
)
for _name, _function, _panel in COMMANDS:
    app.command(_name, rich_help_panel=_panel)(_function)
for _name, _group, _panel in (
    ("alarms", alarms.alarms, "Look"),
    ("area", alarms.area, "Operate"),
    ("rules", rules.app, "Configure"),
    ("notify", notify.app, "Operate"),
):
    app.add_typer(_group, name=_name, rich_help_panel=_panel)
app.command("warm", hidden=True)(operate.warm)


def main() -> None:
    """Run a command; every expected failure becomes one sentence and an exit code."""
    place_kernels()
    try:
        code = app(standalone_mode=False, prog_name="fieldloom")
    except typer.Abort:
        code = 130
    except typer.TyperException as error:  # wrong words on the command line
        if error.format_message():  # no words at all: the help was printed
            print(f"fieldloom: {usage(error)}", file=sys.stderr)
        code = error.exit_code
    except (FieldloomError, OSError) as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: FieldloomError | OSError) -> int:
    """One sentence on standard error; the exit code."""
    if isinstance(error, BrokenPipeError):  # `fieldloom tail | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, ConfigError):
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        print(f"fieldloom: {count} mistake{'s' if count != 1 else ''} in the configuration; correct and try again", file=sys.stderr)
        return 2
    print(f"fieldloom: {sentence(error)}", file=sys.stderr)
    return 3 if isinstance(error, CorruptError) else 1


def place_kernels() -> None:
    """Have numba keep what it compiles in a folder of exactly this code.

    numba only looks at the file in which a function stands, but others are compiled into it: after a change of those it would run what
    fits no longer. And where it can keep nothing it refuses to load: so for a service user without a home.
    """
    root, given = Path(__file__).parents[1], os.environ.get("NUMBA_CACHE_DIR")
    sources = sorted(path for package in ("rules", "ingest") for path in (root / package).glob("*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    place = None if given is None else Path(given)
    if place is not None and place.name == code:  # a child process has it from its parent
        place = place.parent
    if place is None or not _can_write(place):
        place = _kernels(root)
    os.environ["NUMBA_CACHE_DIR"] = str(place / code)


def _kernels(root: Path) -> Path:
    """Where something can be kept: beside the program, for the user, with the data, or until the end of this process."""
    caches = (os.environ.get("XDG_CACHE_HOME"), f"{os.environ['HOME']}/.cache" if "HOME" in os.environ else None)
    places = [root / "rules" / "__pycache__" / "kernels", *(Path(name) / "fieldloom" / "kernels" for name in caches if name)]
    with contextlib.suppress(ConfigError):
        places.append(load_settings().data_dir.resolve() / "kernels")
    for place in places:
        if _can_write(place):
            return place
    scratch = tempfile.mkdtemp(prefix="fieldloom-kernels-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return Path(scratch)


def _can_write(place: Path) -> bool:
    """There, or in the first folder above it that exists."""
    there = next((path for path in (place, *place.parents) if os.access(path, os.F_OK)), Path("/"))
    return os.access(there, os.W_OK)


def usage(error: typer.TyperException) -> str:
    """What is wrong with the words of a command, and where its help is."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    context = getattr(error, "ctx", None)  # every error of words carries it, but the public class does not say so
    return f"{message[:1].lower()}{message[1:]}; see `{context.command_path if context else 'fieldloom'} --help`"


def sentence(error: FieldloomError | OSError) -> str:
    """What happened and what to do about it."""
    if not isinstance(error, OSError):
        return str(error)
    place = f" ({error.filename})" if error.filename else ""
    fixes = {
        errno.ENOSPC: "the disk is full; free some space, then start again",
        errno.EDQUOT: "the disk quota is used up; free some space, then start again",
        errno.EROFS: "the disk is read-only; set FIELDLOOM_DATA_DIR to a writable place",
        errno.EACCES: "permission denied; run as the owner of the file, or set FIELDLOOM_DATA_DIR to a place of your own",
        errno.EADDRINUSE: "the port is in use; stop what uses it, or set another FIELDLOOM_WEB_PORT",
        errno.ENOENT: "there is no such file; check the name",
        errno.EMFILE: "too many open files; raise the limit with `ulimit -n 65536`",
    }
    return fixes.get(error.errno or 0, f"{error.strerror or error}; see `fieldloom doctor`") + place


if __name__ == "__main__":
    main()

"""`notify.yaml`: who is told of alarms, checked as a whole with its secrets; every mistake is told at once with file and line.

A secret stands in the environment or in a file that only its owner may read, never in notify.yaml itself.
"""

import dataclasses
import os
import stat
from pathlib import Path
from typing import Final

from app.documents import Reading
from app.settings import Settings, settings_file
from people.roster import NotifyConfig, Secret, log_only
from telemetry.errors import ConfigError, Problem

FILE_NAME: Final = "notify.yaml"
SECRET_FIELDS: Final = frozenset({"password", "secret", "url"})


def notify_file(settings: Settings) -> Path | None:
    """The file in force; None when there is none: then only the log is told."""
    if settings.notify_file is not None:
        return settings.notify_file
    beside = settings_file().parent / FILE_NAME
    return beside if beside.is_file() else None


def load_notify(settings: Settings) -> NotifyConfig:
    """The checked configuration. Raises ConfigError with every problem found."""
    file = notify_file(settings)
    if file is None:
        return log_only()
    reading = Reading()
    document = reading.load(file)
    config: NotifyConfig | None = None if document is None else reading.validate(document, NotifyConfig, document.value)
    if document is not None and config is not None:
        for place, message in config.problems():
            reading.note(document, place, message)
        for place, secret in config.secrets():
            problem = secret_problem(secret, file.parent)
            if problem:
                reading.note(document, place, problem)
    if reading.problems or config is None:
        raise ConfigError(sorted(map(_masked, reading.problems), key=lambda problem: problem.line))
    return config


def _masked(problem: Problem) -> Problem:
    """What stands where a secret's place should stand may be the secret: it is not shown."""
    if SECRET_FIELDS.isdisjoint(problem.path.split(".")):
        return problem
    return dataclasses.replace(problem, message=problem.message.partition(" (it is ")[0])


def reveal(secret: Secret, directory: Path) -> str:
    """The secret itself; files are named from `directory`. The place was checked before; raises OSError when it has changed since."""
    if secret.env is not None:
        return os.environ.get(secret.env, "")
    return (directory / str(secret.file)).read_text("utf-8").strip()


def secret_problem(secret: Secret, directory: Path) -> str:
    """What is wrong with the place of a secret, and what to do; "" when it is good. Never holds the secret."""
    if secret.env is not None:
        return "" if os.environ.get(secret.env) else f"the environment has no {secret.env}; set it for the notify process"
    file = directory / str(secret.file)
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            return f"{file} is no file"
        if mode & 0o077:
            return f"{file} can be read by others (mode {stat.S_IMODE(mode):04o}); chmod 600 {file}"
        return "" if file.read_text("utf-8").strip() else f"{file} is empty"
    except UnicodeDecodeError:
        return f"{file} is no text in UTF-8"
    except OSError as error:
        return f"{file}: {error.strerror}; make it, with mode 0600"

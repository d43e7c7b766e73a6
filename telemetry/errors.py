"""One exception tree, by whose fault it is.

FieldloomError
├── CallerError            the operator, engineer or program that asked: wrong input, wrong state
│   ├── ConfigError        a site, profile, rule or setting is wrong (carries every error found)
│   └── ExpressionError    a rule's text is wrong (carries line, column and what was expected)
├── DeviceError            a device or broker broke the contract (bad payloads are rejects, not exceptions)
└── EnvironmentFault       disk, network, other process
    ├── StoreError         a store cannot be read or written
    │   └── CorruptError   stored bytes fail their checksum; names file and offset; exit code 3
    ├── FencedError        a newer core owns the journal
    └── LinkError          the broker cannot be reached or refused us
"""

from dataclasses import dataclass


class FieldloomError(Exception):
    """Root of every error Fieldloom raises on purpose."""


class CallerError(FieldloomError):
    """The caller's input or timing is wrong; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file: where it stands and what was expected there."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file  # 0: it has no lines, such as the environment
        return f"{place}: {self.path}: {self.message}"


class ConfigError(CallerError):
    """Configuration is wrong. `problems` lists every mistake found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class ExpressionError(CallerError):
    """A rule's text is wrong at `line`:`column` (1-based)."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        self.line = line
        self.column = column
        super().__init__(f"line {line}, column {column}: {message}")


class DeviceError(FieldloomError):
    """A device or the broker broke the protocol."""


class EnvironmentFault(FieldloomError):
    """Something below us failed: disk, network, another process."""


class StoreError(EnvironmentFault):
    """A store cannot be read or written right now."""


class CorruptError(StoreError):
    """Stored bytes fail their checksum; the message names file and place."""


class FencedError(EnvironmentFault):
    """A newer core owns the journal; this one must stop at once."""


class LinkError(EnvironmentFault):
    """The broker cannot be reached or refused us."""

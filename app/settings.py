"""Settings of every process: environment FIELDLOOM_* over `fieldloom.toml` over the default. Fixed once read.

An unknown key in the file or the environment is an error, because a misspelt limit would be lost in silence. Every mistake is
reported at once. Each setting is explained in docs/operations.md; a test holds that.
"""

import difflib
import os
import re
import ssl
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from telemetry.errors import ConfigError, Problem

PREFIX: Final = "FIELDLOOM_"
FILE_VARIABLE: Final = "FIELDLOOM_CONFIG"
FILE_NAME: Final = "fieldloom.toml"
NO_SETTING: Final = "is not a setting; "
# Read by others than this file: the command line, tests and benches.
OTHER_VARIABLES: Final = frozenset(
    {FILE_VARIABLE, *(PREFIX + name for name in ("URL", "TOKEN", "DEVICE_PASSWORD", "FAILPOINT", "FAILPOINT_ARMED", "LOADGEN"))}
)
OTHER_PREFIXES: Final = ("FIELDLOOM_TEST_", "FIELDLOOM_BENCH_")
SECRETS: Final = frozenset({"mqtt_password", "influx_token"})
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Everything a process is told from outside. Ports: 0 takes a free one where that is said."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("var/fieldloom"), description="Journal, snapshots, history, sessions; a local disk.")

    mqtt_host: str = Field("", description="The broker. Empty: the demo starts its own Mosquitto on free loopback ports.")
    mqtt_port: Port = Field(1883, description="The broker's port.")
    mqtt_username: str | None = Field(None, description="User name of the core at the broker.")
    mqtt_password: SecretStr | None = Field(None, description="Its password.")
    mqtt_client_id: str = Field(
        "fieldloom-core", min_length=1, max_length=60, description="Client id; the broker keeps its session."
    )
    mqtt_tls: bool = Field(False, description="Speak TLS to the broker.")
    mqtt_ca_file: Path | None = Field(None, description="CA that signed the broker's certificate; empty: the system's.")
    mqtt_cert_file: Path | None = Field(None, description="Client certificate, when the broker wants one.")
    mqtt_key_file: Path | None = Field(None, description="Its private key.")
    mqtt_keepalive_s: int = Field(5, ge=1, le=60, description="A dead link is noticed within twice this time.")
    receive_window: int = Field(10_000, ge=1, le=65_535, description="QoS 1 messages in flight before the broker waits for us.")

    gather_ms: float = Field(4.0, ge=0, le=1000, description="Shortest time between the starts of two commits.")
    commit_rows: int = Field(10_000, ge=100, le=1_000_000, description="Samples gathered before the socket is paused.")

    web_host: str = Field(
        "127.0.0.1", min_length=1, description="Address the web process listens on; loopback unless you change it."
    )
    web_port: Port = Field(8080, description="Its port; 0 takes a free one.")
    web_hosts: Annotated[list[str], NoDecode] = Field([], description="Further host names it answers to, separated by commas.")
    web_metrics_open: bool = Field(False, description="/metrics without login, for a Prometheus on a closed network.")
    web_secure_cookie: bool = Field(False, description="Session cookie over HTTPS only: set it behind a TLS proxy.")

    history: Literal["duckdb", "influx"] = Field("duckdb", description="Store of the history: embedded DuckDB, or InfluxDB.")
    influx_version: int = Field(2, ge=1, le=2, description="InfluxDB 1.x (v1 endpoints) or 2.x.")
    influx_url: str = Field("http://127.0.0.1:8086", description="Address of InfluxDB; a path behind a proxy may follow.")
    influx_org: str = Field("fieldloom", min_length=1, description="Organisation (2.x), by name or id.")
    influx_bucket: str = Field("fieldloom", min_length=1, description="Bucket (2.x) or database (1.x).")
    influx_username: str = Field("", description="User name (1.x).")
    influx_token: SecretStr = Field(SecretStr(""), description="Token (2.x) or password (1.x).")

    history_days: float | None = Field(None, gt=0, le=36_500, description="Older samples are forgotten; empty: never.")

    notify_file: Path | None = Field(
        None, description="Who is told of alarms; empty: notify.yaml beside the settings file, without one only the log."
    )

    journal_days: float = Field(7.0, gt=0, le=3650, description="The journal keeps this much behind the slowest follower.")
    journal_gb: float = Field(20.0, gt=0, description="... and at most this much.")
    disk_free_mb: int = Field(256, ge=64, description="Free space below which nothing starts.")
    disk_free_pct: float = Field(
        10.0, ge=1, le=50, description="Free space below which a slow follower is cut off; control goes on."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    sabotage: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="Tests only: breaks a named promise on purpose, to prove that its test can fail. Unsafe."
    )

    @field_validator("web_hosts", "sabotage", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("influx_url")
    @classmethod
    def _plain(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^@?#\s]+", url):  # messages show it: a password must not stand in it
            msg = "must be http(s)://host:port without user, password or query; name and secret are settings of their own"
            raise ValueError(msg)
        return url

    @model_validator(mode="after")
    def _pairs(self) -> "Settings":
        if (self.mqtt_cert_file is None) != (self.mqtt_key_file is None):
            msg = "mqtt_cert_file and mqtt_key_file go together; set both or none"
            raise ValueError(msg)
        if self.mqtt_password is not None and self.mqtt_username is None:
            msg = "mqtt_password needs mqtt_username"
            raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the caller says over environment over file over default."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_file(settings_file()))

    def mqtt_tls_context(self) -> ssl.SSLContext | None:
        """The context for the broker; None without TLS. Raises ConfigError when a file cannot be used."""
        if not self.mqtt_tls:
            return None
        for name in ("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file"):
            file = getattr(self, name)
            if file is not None and not file.is_file():
                raise ConfigError([Problem("settings", 0, name, f"there is no file {file}")])
        try:
            context = ssl.create_default_context(cafile=self.mqtt_ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.mqtt_cert_file is not None:
                context.load_cert_chain(self.mqtt_cert_file, self.mqtt_key_file)
        except OSError as error:
            raise ConfigError([Problem("settings", 0, "mqtt_tls", f"certificate files cannot be used: {error}")]) from error
        return context


def settings_file() -> Path:
    """The settings file: FIELDLOOM_CONFIG, else fieldloom.toml in the working directory, which need not exist."""
    return Path(os.environ.get(FILE_VARIABLE, FILE_NAME))


def read_file(path: Path) -> dict[str, Any]:
    """The file's keys; none when the default one does not exist. Raises ConfigError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        if FILE_VARIABLE not in os.environ:
            return {}
        problem = Problem(str(path), 0, FILE_VARIABLE, "there is no such file; correct the name, or unset the variable")
    except tomllib.TOMLDecodeError as error:
        problem = Problem(str(path), _line_in(str(error)), "TOML", f"cannot be read: {error}")
    except UnicodeDecodeError as error:
        problem = Problem(str(path), 0, "TOML", f"is not UTF-8 text (byte {error.start}); save it as UTF-8")
    except OSError as error:
        problem = Problem(str(path), 0, "TOML", f"cannot be read: {error.strerror}")
    raise ConfigError([problem])


def load_settings(**given: Any) -> Settings:
    """The settings; `given` (from the command line) beats all. Raises ConfigError with every mistake and where it stands."""
    unknown = [_unknown_variable(name) for name in sorted(os.environ) if _is_unknown(name)]
    try:
        found = Settings(**given)
    except ValidationError as error:
        path = settings_file()
        text = path.read_text("utf-8-sig") if path.is_file() else ""
        items = error.errors(include_url=False)
        problems = [*unknown, *(_problem(dict(item), path, text, given) for item in items)]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line)) from None
    if unknown:
        raise ConfigError(unknown)
    return found


def _is_unknown(variable: str) -> bool:
    name = variable.removeprefix(PREFIX)
    is_ours = variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and not variable.startswith(OTHER_PREFIXES)
    return is_ours and name.lower() not in Settings.model_fields


def _unknown_variable(variable: str) -> Problem:
    near = _near(variable.removeprefix(PREFIX).lower())
    return Problem(
        "environment", 0, variable, NO_SETTING + (f"did you mean {PREFIX}{near.upper()}?" if near else "see docs/operations.md")
    )


def _near(name: str) -> str:
    """The setting whose name is most like it; "" when none is."""
    return next(iter(difflib.get_close_matches(name, Settings.model_fields, n=1)), "")


def _line_in(message: str) -> int:
    _, _, rest = message.partition("line ")
    digits = rest.split(",")[0].split(")")[0]
    return int(digits) if digits.isdigit() else 1


def _problem(item: dict[str, Any], path: Path, text: str, given: dict[str, Any]) -> Problem:
    key = ".".join(str(part) for part in item["loc"])
    first = key.partition(".")[0]
    is_unknown = item["type"] == "extra_forbidden"  # only a file's key can be
    message = expected(item, secret=first in SECRETS)
    if is_unknown:
        near = _near(first)
        message = NO_SETTING + (f"did you mean {near}?" if near else "see docs/operations.md")
    if first in given:
        return Problem("command line", 0, first, message)
    variable = PREFIX + first.upper()
    if first and not is_unknown and variable in os.environ:
        return Problem("environment", 0, variable, message)
    lines = text.splitlines()
    line = next((n for n, content in enumerate(lines, 1) if content.split("=")[0].strip(" []") == first), 0)
    return Problem(str(path), line, key or "settings", message)


def expected(item: dict[str, Any], *, secret: bool = False) -> str:
    """What a model's error expected, in words, and what was given instead."""
    message = str(item["msg"]).replace("Input should be", "must be")
    if message.startswith("Value error, "):
        return message.removeprefix("Value error, ")
    given = repr(item["input"])
    return (
        message
        if secret
        else f"{message.partition(', unable to parse')[0]} (it is {given if len(given) < 60 else given[:57] + '...'})"
    )

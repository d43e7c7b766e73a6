"""A real Mosquitto to be killed, frozen and restarted on the same port."""

import getpass
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.faults.process import Process, free_port


class RealBroker:
    """Mosquitto with a directory of its own. Anonymous unless passwords are given; `extra` = more configuration lines."""

    host = "127.0.0.1"

    def __init__(
        self, directory: Path, *, port: int = 0, passwords: Mapping[str, str] | None = None, acl: str | None = None, extra: str = ""
    ) -> None:
        binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if binary is None:
            pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = port or free_port()
        self.log_path = directory / "broker.log"
        config = self._write_config(passwords, acl, extra)
        self._process = Process([binary, "-c", config], log=self.log_path)

    def _write_config(self, passwords: Mapping[str, str] | None, acl: str | None, extra: str) -> Path:
        lines = [
            f"listener {self.port} {self.host}",
            f"allow_anonymous {'false' if passwords else 'true'}",
            "persistence true",
            f"persistence_location {self.directory}/",
            "autosave_interval 1800",
            "max_queued_messages 0",
            "max_inflight_messages 1000",
            "log_type all",
            "log_dest stderr",
            f"user {getpass.getuser()}",
        ]
        if passwords:
            path = self.directory / "passwords"
            path.touch(mode=0o600)
            for user, password in passwords.items():
                subprocess.run(["mosquitto_passwd", "-b", path, user, password], check=True, capture_output=True)
            lines.append(f"password_file {path}")
        if acl is not None:
            (self.directory / "acl").write_text(acl)
            lines.append(f"acl_file {self.directory / 'acl'}")
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join([*lines, extra, ""]))
        return config

    def start(self) -> Self:
        """Start and wait until it accepts connections. Again after kill() or stop(): same port, same persistence file."""
        self._process.start().wait_port(self.port)
        return self

    @property
    def running(self) -> bool:
        """Is the process alive?"""
        return self._process.running

    @property
    def log(self) -> str:
        """Everything the broker has logged."""
        return self._process.output

    def kill(self) -> None:
        """SIGKILL: what was not saved is lost."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM: sessions and queues are saved."""
        self._process.terminate()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.thaw()

    def restart(self) -> None:
        """Orderly restart on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

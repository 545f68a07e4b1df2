"""What one gateway is told at its start; all of it is checked before anything starts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.domain.errors import FairleadError, InvalidInput, Problem
from fairlead.domain.kill_switch import KillSwitch
from fairlead.kits.addresses import is_loopback

_MAX_PORT = 65_535
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway listens, its limits and its deadlines (seconds).

    `deadline_seconds` bounds a request from its last byte in to the answer's last byte out,
    `upload_seconds` how long a caller may take to send one, `drain_seconds` how long old requests may
    keep a worker that has been replaced, `stop_seconds` the same when the gateway ends. The access log is
    renamed when it has `access_log_bytes`; `access_log_files` older ones are kept, each of about that size.
    `most_waiting` requests of one revision are held at once (S0-40).
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    private_key: Path | None = None
    concurrency: int = 1
    deadline_seconds: float = 30.0
    upload_seconds: float = 60.0
    drain_seconds: float = 30.0
    stop_seconds: float = 10.0
    access_log_bytes: int = 64 * _MEBIBYTE
    access_log_files: int = 3
    api_version: str = "v1"
    name: str = "fairlead"
    version: str = "0"
    kill_switch: KillSwitch = field(default_factory=KillSwitch)
    most_waiting: int = 10_000

    @property
    def secure(self) -> bool:
        """Does it speak TLS, and only that?"""
        return self.certificate is not None

    @property
    def loopback(self) -> bool:
        """Can only this machine reach it? Then the docs and the metrics need no key."""
        return is_loopback(self.host)

    @property
    def address(self) -> str:
        """The listen address as Envoy takes it: a number, never a name."""
        return "127.0.0.1" if self.host == "localhost" else self.host

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - the wildcard is translated, not bound
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def check(settings: GatewaySettings) -> None:
    """Raises InvalidInput with everything that is wrong."""
    problems = [*_address_problems(settings), *_file_problems(settings)]
    positive = (
        "concurrency",
        "deadline_seconds",
        "upload_seconds",
        "access_log_bytes",
        "access_log_files",
        "most_waiting",
    )
    problems += [
        Problem(name, f"is {getattr(settings, name)}", "more than 0")
        for name in positive
        if getattr(settings, name) <= 0
    ]
    if problems:
        raise InvalidInput("gateway settings", problems)


def _address_problems(settings: GatewaySettings) -> list[Problem]:
    problems = []
    try:
        ipaddress.ip_address(settings.address)
    except ValueError:
        problems.append(Problem("host", f"is {settings.host!r}", "an IP address, or localhost"))
    if not 0 < settings.port <= _MAX_PORT:
        problems.append(Problem("port", f"is {settings.port}", f"a number from 1 to {_MAX_PORT}"))
    return problems


def _file_problems(settings: GatewaySettings) -> list[Problem]:
    files = {"certificate": settings.certificate, "private_key": settings.private_key}
    given = {name: path for name, path in files.items() if path is not None}
    if len(given) == 1:
        missing = next(name for name in files if name not in given)
        return [Problem(missing, "is missing", "TLS needs a certificate and its private key")]
    return [
        Problem(name, f"{path} cannot be read", "a PEM file the gateway may read")
        for name, path in given.items()
        if not _readable(path)
    ]


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


class PortBusy(FairleadError):
    """Somebody else listens there already."""

    def __init__(self, settings: GatewaySettings) -> None:
        super().__init__(
            f"port {settings.port} on {settings.host} is in use by another program: stop it, or choose another port"
        )

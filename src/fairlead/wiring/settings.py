"""Settings of one command, from its options and the environment, checked before anything starts."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.layout import Home, socket_directory_name

HOME = ".fairlead"
VARIABLES: Mapping[str, str] = {
    "FAIRLEAD_HOME": "the home directory (default: the nearest .fairlead/ upwards from here)",
    "FAIRLEAD_HOST": "the gateway's address (default 127.0.0.1)",
    "FAIRLEAD_PORT": "the gateway's port (default 8080)",
    "FAIRLEAD_TLS_CERT": "PEM certificate chain: the gateway then speaks TLS",
    "FAIRLEAD_TLS_KEY": "PEM private key for it",
    "FAIRLEAD_ACCESS_LOG_MIB": "the gateway's access log is renamed at this size (default 64)",
    "FAIRLEAD_ACCESS_LOG_FILES": "how many older ones are kept, each of that size (default 3)",
    "FAIRLEAD_POOL_SIZE": "how many small models may share one worker process (default 256; 1: each has its own)",
    "FAIRLEAD_POOL_ARTIFACT_MIB": "up to which size an ONNX model counts as small (default 16)",
    "FAIRLEAD_MEMORY_BUDGET": "what all workers of the node may take, as 4Gi, 512Mi or bytes; what does not fit waits on the disk until somebody asks (default 0: no limit)",
    "FAIRLEAD_MAX_REPLICAS": "how many replicas an endpoint gets at most on this node, whatever its maxScale says (default 16)",
    "FAIRLEAD_SCALE_WINDOW": "the seconds over which load is averaged, and without a request before an endpoint with minScale 0 goes cold (6 to 3600, default 60)",
    "FAIRLEAD_SPARE_SECONDS": "how long a process waits ready for the next start after an endpoint has gone cold or come up (0 to 999999, default 60; 0: none ever does)",
    "FAIRLEAD_ALLOW_PICKLE": "true: models of this node may load pickles, which run whatever code is in them (default false)",
    "FAIRLEAD_API_KEY": "the key `fairlead predict`, `say` and `verify` send (default: the home's demo key)",
    "API_KEY": "the key `fairlead verify` sends, before FAIRLEAD_API_KEY",
    "LEGACY_SPEECH_API_KEY": "a key that older speech clients send in the body; so is every variable whose name holds _SPEECH_API_KEY",
}
SERVING_PREFIX = "FAIRLEAD_SERVING_"
_SPEECH_KEY = "_SPEECH_API_KEY"
# What engines must be told before they are loaded. ONNX Runtime's Linux builds send usage data to their
# makers unless they are told not to; whoever wants that sets the variable to 0.
_ENGINES = {"ORT_DISABLE_TELEMETRY": "1"}
_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")
_HIGHEST_PORT = 65_535
_PORT_DIGITS = 5
_LOG_MIB = 64
_LOG_FILES = 3
_POOL_SIZE = 256
_POOL_MIB = 16
_MAX_REPLICAS = 16
_WINDOW_SECONDS = 60
_SPARE_SECONDS = 60
_WINDOWS = range(6, 3601)  # S0-37
_MEMORY = re.compile(r"([0-9]{1,18})(Ki|Mi|Gi|Ti)?")
_MEMORY_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_LEAST_BUDGET = 64 << 20  # less than one worker takes
_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without its end
_SOCKET_NAME_BYTES = 16  # a slash, a worker's name, ".sock~"


@dataclass(frozen=True, slots=True)
class Environment:
    """Every FAIRLEAD_ variable, checked."""

    home: Path | None
    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    api_key: str | None
    serving: Mapping[str, str]
    access_log_mib: int = _LOG_MIB
    access_log_files: int = _LOG_FILES
    allow_pickle: bool = False
    pool_size: int = _POOL_SIZE
    pool_artifact_mib: int = _POOL_MIB
    memory_budget_bytes: int = 0
    max_replicas: int = _MAX_REPLICAS
    scale_window_seconds: int = _WINDOW_SECONDS
    spare_seconds: int = _SPARE_SECONDS

    def __repr__(self) -> str:
        return f"Environment(home={self.home}, host={self.host}, port={self.port})"  # never the key


def environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Read the environment. Raises InvalidInput for an unknown or wrong FAIRLEAD_ variable."""
    source = os.environ if variables is None else variables
    ours = {name: value for name, value in source.items() if name.upper().startswith("FAIRLEAD_")}
    serving = {
        name: value for name, value in ours.items() if name.upper().startswith(SERVING_PREFIX)
    }
    problems = [_unknown(name) for name in ours if name not in serving and name not in VARIABLES]
    port = ours.get("FAIRLEAD_PORT", "8080")
    if not port.isdecimal() or len(port) > _PORT_DIGITS or not 1 <= int(port) <= _HIGHEST_PORT:
        problems.append(
            Problem("FAIRLEAD_PORT", f"is {port!r}", f"write a port from 1 to {_HIGHEST_PORT}")
        )
    if ("FAIRLEAD_TLS_CERT" in ours) != ("FAIRLEAD_TLS_KEY" in ours):
        problems.append(
            Problem("FAIRLEAD_TLS_CERT", "goes with FAIRLEAD_TLS_KEY", "set both or none")
        )
    log_mib = _whole(ours, "FAIRLEAD_ACCESS_LOG_MIB", _LOG_MIB, problems)
    log_files = _whole(ours, "FAIRLEAD_ACCESS_LOG_FILES", _LOG_FILES, problems)
    pool_size = _whole(ours, "FAIRLEAD_POOL_SIZE", _POOL_SIZE, problems)
    pool_mib = _whole(ours, "FAIRLEAD_POOL_ARTIFACT_MIB", _POOL_MIB, problems)
    replicas = _whole(ours, "FAIRLEAD_MAX_REPLICAS", _MAX_REPLICAS, problems)
    window = _whole(ours, "FAIRLEAD_SCALE_WINDOW", _WINDOW_SECONDS, problems)
    if window not in _WINDOWS:
        right = f"write seconds from {_WINDOWS[0]} to {_WINDOWS[-1]}"
        problems.append(Problem("FAIRLEAD_SCALE_WINDOW", f"is {window}", right))
    spare = _whole(ours, "FAIRLEAD_SPARE_SECONDS", _SPARE_SECONDS, problems, least=0)
    budget = _memory(ours, "FAIRLEAD_MEMORY_BUDGET", problems)
    pickle = ours.get("FAIRLEAD_ALLOW_PICKLE", "").strip().lower()
    if pickle not in (*_YES, *_NO):
        problems.append(Problem("FAIRLEAD_ALLOW_PICKLE", f"is {pickle!r}", "write true or false"))
    if problems:
        raise InvalidInput("environment", problems)
    return Environment(
        home=_path(ours, "FAIRLEAD_HOME"),
        host=ours.get("FAIRLEAD_HOST", "127.0.0.1"),
        port=int(port),
        tls_cert=_path(ours, "FAIRLEAD_TLS_CERT"),
        tls_key=_path(ours, "FAIRLEAD_TLS_KEY"),
        api_key=ours.get("FAIRLEAD_API_KEY"),
        serving=serving,
        access_log_mib=log_mib,
        access_log_files=log_files,
        allow_pickle=pickle in _YES,
        pool_size=pool_size,
        pool_artifact_mib=pool_mib,
        memory_budget_bytes=budget,
        max_replicas=replicas,
        scale_window_seconds=window,
        spare_seconds=spare,
    )


def shared_key() -> str | None:
    """The key in API_KEY, where scripts that check a deployment have it (S0-16)."""
    return os.environ.get("API_KEY") or None


def legacy_speech_keys() -> tuple[str, ...]:
    """The keys of older speech services: in every variable whose name holds `_SPEECH_API_KEY` (S0-31)."""
    return tuple(
        value for name, value in sorted(os.environ.items()) if _SPEECH_KEY in name and value
    )


def home_at(root: Path) -> Home[Path]:
    """A home and the directory of its sockets: the user's runtime directory if there is one."""
    try:
        root = root.resolve()
    except (OSError, RuntimeError):  # the second for a loop of links
        problem = Problem("--home", f"{root} leads nowhere", "name a directory")
        raise InvalidInput("", [problem]) from None
    if not _is_text(root):
        wrong, right = f"{root} is not UTF-8, which Envoy cannot read", "name another directory"
        raise InvalidInput("", [Problem("--home", wrong, right)])
    name = f"{socket_directory_name(root)}-{os.getuid()}"
    # Not tempfile.gettempdir: that one writes a file to find out, and with a full disk nobody could ask anything.
    named = [os.environ.get(name) or "" for name in ("XDG_RUNTIME_DIR", "TMPDIR")]
    tried = [*named, "/tmp", "/var/tmp"]  # noqa: S108 - a private directory inside, checked
    for parent in filter(None, tried):
        longest = len(os.fsencode(Path(parent) / name)) + _SOCKET_NAME_BYTES
        if longest <= _SOCKET_PATH_BYTES and os.access(parent, os.W_OK):
            return Home(root, Path(parent) / name)
    wrong = f"none of {', '.join(filter(None, tried))} can hold its sockets"
    right = "set TMPDIR to a directory you may write, with a path under 50 bytes"
    raise InvalidInput("environment", [Problem("TMPDIR", wrong, right)])


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def nearest_home(start: Path) -> Path | None:
    """The nearest `.fairlead/` of this user that is a home, from a directory upwards.

    Somebody else's, in a directory that all may write, is never taken over by chance.
    """
    for directory in (start, *start.parents):
        candidate = directory / HOME
        if (candidate / "home.json").is_file() and candidate.stat().st_uid == os.getuid():
            return candidate
    return None


def prepare_engines() -> None:
    """Before this process loads a model: an engine tells nobody about it."""
    for name, value in _ENGINES.items():
        os.environ.setdefault(name, value)


def child_environment() -> dict[str, str]:
    """What our own child processes see of the environment: everything but the key of a caller.

    Numeric libraries get no threads of their own besides the ones a worker's settings give.
    """
    kept = {name: value for name, value in os.environ.items() if name != "FAIRLEAD_API_KEY"}
    own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **_ENGINES}
    return {**own, **kept, "PYTHONUNBUFFERED": "1"}


def _whole(
    ours: Mapping[str, str], name: str, default: int, problems: list[Problem], *, least: int = 1
) -> int:
    text = ours.get(name, str(default))
    if re.fullmatch(r"0|[1-9][0-9]{0,5}", text) and int(text) >= least:
        return int(text)
    right = f"write a whole number from {least} to 999999"
    problems.append(Problem(name, f"is {text!r:.40}", right))
    return default


def _memory(ours: Mapping[str, str], name: str, problems: list[Problem]) -> int:
    """A number of bytes; 0 if it is not set."""
    text = ours.get(name, "0")
    found = _MEMORY.fullmatch(text)
    size = int(found[1]) * _MEMORY_UNITS[found[2]] if found else -1
    if size == 0 or size >= _LEAST_BUDGET:
        return size
    right = f"write 4Gi, 512Mi or bytes, at least {_LEAST_BUDGET >> 20}Mi; 0 is no limit"
    problems.append(Problem(name, f"is {text!r:.40}", right))
    return 0


def _path(ours: Mapping[str, str], name: str) -> Path | None:
    return Path(ours[name]) if ours.get(name) else None


def _unknown(name: str) -> Problem:
    close = difflib.get_close_matches(name, VARIABLES, n=1)
    return Problem(
        name,
        "is no setting of Fairlead",
        f"did you mean {close[0]}?" if close else f"known: {', '.join(VARIABLES)}",
    )

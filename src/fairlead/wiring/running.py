"""Running a process's work, and the worker itself: it imports as little as it can, because many are started."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.domain.errors import FairleadError
from fairlead.domain.explanations import REFUSED
from fairlead.kits import jsonlog, memory
from fairlead.kits.loops import new_event_loop

_log = logging.getLogger(__name__)


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run until it is done; a refusal is logged, printed, and becomes the exit code `REFUSED`."""
    memory.settle(clean=False)  # what has been imported
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(work)
    except FairleadError as error:
        _log.error("%s", error, extra={"event": "refused"})
        print(f"error[{error.kind}]: {error}", file=sys.stderr)  # noqa: T201 - what the supervisor shows
        return REFUSED


def run_spare() -> int:
    """Import what every worker needs, wait to be told whom to serve, and become that worker.

    Told is one line of JSON on standard input: the spec file, and the log that all output goes to from then on.
    Its end instead: the agent is gone, or needs no spare worker any more.
    """
    import uvicorn.protocols.http.httptools_impl  # noqa: F401 - half of a worker's start is imports

    from fairlead.adapters.processes import LOG_FLAGS, LOG_MODE
    from fairlead.engines import loading  # noqa: F401 - see above
    from fairlead.server import pool  # noqa: F401 - see above

    line = sys.stdin.readline()
    if not line:
        return 0
    told = json.loads(line)
    log = os.open(told["log"], LOG_FLAGS, LOG_MODE)
    for handle in (1, 2):
        os.dup2(log, handle)
    os.close(log)
    # Held open for as long as this process lives: an agent that died before it wrote down who we are finds us by it.
    with Path(told["spec"]).open("rb"):
        return run_worker(Path(told["spec"]))


def run_worker(spec_file: Path) -> int:
    """Run one worker by its spec."""
    from fairlead.api.worker import ServingSettings, specs_from_json
    from fairlead.kits.clock import SystemClock
    from fairlead.server.pool import run_pool
    from fairlead.server.worker import run_worker as worker
    from fairlead.wiring.settings import legacy_speech_keys

    specs = specs_from_json(spec_file.read_text(encoding="utf-8"))
    if any(one.legacy_key for one in specs):
        keys = legacy_speech_keys()
        specs = tuple(replace(one, legacy_keys=keys) for one in specs)
    spec = specs[0]
    # To standard error, which the launcher keeps.
    named = spec.settings.logconfig_service
    jsonlog.setup(
        "worker" if named == ServingSettings().logconfig_service else named,
        level=spec.settings.logconfig_level,
        json_format=spec.settings.logconfig_json_format,
    )
    if spec.legacy_key and not spec.legacy_keys:
        _log.warning("no variable *_SPEECH_API_KEY is set: whoever sends an api_key is refused")
    if not spec.allow_pickle:
        from fairlead.engines.pickles import refuse_pickles

        refuse_pickles()
    if len(specs) > 1:
        return run(run_pool(specs, SystemClock()))
    return run(worker(spec, SystemClock()))

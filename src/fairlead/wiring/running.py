"""Running a process's work, and the worker itself: it imports as little as it can, because many are started."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from fairlead.domain.errors import FairleadError
from fairlead.domain.explanations import REFUSED
from fairlead.kits import jsonlog

_log = logging.getLogger(__name__)


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run until it is done; a refusal is logged, printed, and becomes the exit code `REFUSED`."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except FairleadError as error:
        _log.error("%s", error, extra={"event": "refused"})
        print(f"error[{error.kind}]: {error}", file=sys.stderr)  # noqa: T201 - what the supervisor shows
        return REFUSED


def run_worker(spec_file: Path) -> int:
    """Run one worker by its spec."""
    from fairlead.api.worker import ServingSettings, specs_from_json
    from fairlead.kits.clock import SystemClock
    from fairlead.server.pool import run_pool
    from fairlead.server.worker import run_worker as worker

    specs = specs_from_json(spec_file.read_text(encoding="utf-8"))
    spec = specs[0]
    # To standard error, which the launcher keeps.
    named = spec.settings.logconfig_service
    jsonlog.setup(
        "worker" if named == ServingSettings().logconfig_service else named,
        level=spec.settings.logconfig_level,
        json_format=spec.settings.logconfig_json_format,
    )
    if not spec.allow_pickle:
        from fairlead.engines.pickles import refuse_pickles

        refuse_pickles()
    if len(specs) > 1:
        return run(run_pool(specs, SystemClock()))
    return run(worker(spec, SystemClock()))

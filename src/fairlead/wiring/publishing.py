"""Publishing a folder from the command line: the model is proved in a child, bounded in time.

Whatever the model does there (exit, crash, hang), it is told in a line; the first Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fairlead.adapters.documents import read_document
from fairlead.control.proving import Proof, order_for, proof_from_report
from fairlead.control.publish import Published, Publisher, publish
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem
from fairlead.domain.manifest import DESCRIPTION, Manifest
from fairlead.engines.pickles import refuse_pickles
from fairlead.kits.files import name_it
from fairlead.kits.supervise import ending
from fairlead.wiring.settings import child_environment, environment

if TYPE_CHECKING:
    from fairlead.wiring.homes import Control

LIMIT_SECONDS = 300.0
LOG = "publish.jsonl"
_STDERR = 2


def check_folders(folders: tuple[Path, ...]) -> None:
    """Raise InvalidInput for the first folder that holds no model, before anything is made."""
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInput(str(folder), [Problem("", "is no folder", "name a model's folder")])
        if not (folder / DESCRIPTION).is_file():
            right = "write one: name, version, engine"
            raise InvalidInput(str(folder), [Problem("", f"holds no {DESCRIPTION}", right)])


def publish_folder(
    control: Control, folder: Path, tell: Callable[[str], None], limit_seconds: float
) -> Published:
    """Prove and publish one folder; raises FairleadError with what is wrong with it."""
    log = control.home.logs / LOG
    before = log.stat().st_size if log.exists() else 0
    try:
        return publish_to(
            control.artifacts,
            folder,
            tell,
            ProverInChild(limit_seconds, log, allow_pickle=environment().allow_pickle),
        )
    except FairleadError:
        if log.exists() and log.stat().st_size != before:
            tell(f"what the model's code said is in {log}")
        raise


def publish_to(
    artifacts: Publisher, folder: Path, tell: Callable[[str], None], prover: ProverInChild
) -> Published:
    """Prove the model in a folder in a child, and hand it to `artifacts`."""
    description = read_document(folder / DESCRIPTION)
    # Not asyncio.run: Ctrl-C shall end the work at once, wherever it is.
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop):
        return loop.run_until_complete(
            publish(folder, description, artifacts, tell, prover, allow_pickle=prover.allow_pickle)
        )


@dataclass(frozen=True, slots=True)
class ProverInChild:
    """Proves a model in a process of its own. `log`: where that one logs; None is standard error.

    `meanwhile` is what this process has to do anyway, while the other one is at work.
    """

    limit_seconds: float = LIMIT_SECONDS
    log: Path | None = None
    allow_pickle: bool = False
    meanwhile: Callable[[Manifest], None] | None = None

    async def __call__(self, directory: Path, manifest: Manifest) -> Proof:
        """Raises FairleadError for a model that is not right, or that takes too long."""
        return self._prove(directory, manifest)  # nothing else runs in this loop

    def _prove(self, directory: Path, manifest: Manifest) -> Proof:
        with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as order:
            said = order_for(
                directory, manifest, report.fileno(), self.log, allow_pickle=self.allow_pickle
            )
            try:
                order.write(said)
                order.seek(0)
            except OSError as error:
                name_it(error, Path(tempfile.gettempdir()))
                raise
            code = self._run(directory, manifest, order, report.fileno())
            report.seek(0)
            proof = proof_from_report(report.read())
        if proof is None:
            message = (
                f"{directory}: the model ended the process it was checked in ({ending(code)}): "
                "nothing is published; its code must neither exit nor crash"
            )
            raise FairleadError(message, kind=Kind.MODEL)
        return proof

    def _run(self, directory: Path, manifest: Manifest, order: IO[bytes], report: int) -> int:
        """The exit code of the child; it has a session of its own, and none of it outlives this call by Ctrl-C."""
        # -P: a user's files beside the model are no modules of ours. The name is for those who list processes.
        module = ["-P", "-m", "fairlead.control.proving"]
        command = [sys.executable, *module, "publish", str(manifest.ref)]
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=order,
            stdout=_STDERR,  # standard output is for data; what a model prints is none
            env=child_environment(),
            pass_fds=(report,),
            start_new_session=True,
        )
        try:
            if self.meanwhile is not None:
                self.meanwhile(manifest)
            _wait(child, self.limit_seconds)
        except subprocess.TimeoutExpired:
            message = (
                f"{directory}: loading and answering the golden examples took longer than "
                f"{self.limit_seconds:g} s: give --timeout if that is right for this model"
            )
            raise FairleadError(message, kind=Kind.DEADLINE) from None
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return child.returncode


def pickles_allowed() -> bool:
    """The node's setting; if it says no, this process cannot load pickles from now on."""
    allowed = environment().allow_pickle
    if not allowed:
        refuse_pickles()
    return allowed


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for its end; raises TimeoutExpired. `subprocess` itself would only look every 50 ms."""
    try:
        descriptor = os.pidfd_open(child.pid)
    except (AttributeError, OSError):  # not Linux, or an old one
        child.wait(seconds)
        return
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        watch.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    child.wait(0)

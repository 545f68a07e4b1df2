"""Proving a model: it loads, its signature is read, its golden examples are answered.

That runs a user's code, which may exit, crash or hang. So a command proves it in a child process
(`python -m fairlead.control.proving`): its order is on standard input, its report goes into a file it
inherits, and a child that ends without a report was ended by the model.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem, Refused
from fairlead.domain.golden import Golden, golden_from_bytes
from fairlead.domain.manifest import (
    DESCRIPTION,
    Manifest,
    manifest_from_bytes,
    manifest_to_bytes,
)
from fairlead.domain.reading import Node
from fairlead.domain.signature import (
    Signature,
    TensorSignature,
    signature_from_json,
    signature_to_json,
)
from fairlead.engines.pickles import refuse_pickles
from fairlead.kits import garbage, jsonlog

_PR_SET_PDEATHSIG = 1  # prctl(2)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Proof:
    """The signature only the loaded model knows, and how many examples it answered."""

    signature: Signature
    examples: int


Prover = Callable[[Path, Manifest], Awaitable[Proof]]


async def prove_model(directory: Path, manifest: Manifest) -> Proof:
    """Prove the model in this process; raises FairleadError with what is wrong with it."""
    # Only here: whoever leaves the proof to a child needs no engine.
    from fairlead.engines.loading import load_model  # noqa: PLC0415 - see above
    from fairlead.engines.proof import prove  # noqa: PLC0415 - see above
    from fairlead.engines.sharing import misfits, sharing_of  # noqa: PLC0415 - see above
    from fairlead.engines.together import mixes  # noqa: PLC0415 - see above

    path = directory / manifest.golden
    golden = golden_from_bytes(path.read_bytes(), str(path))
    model = load_model(directory, manifest, threads=1)
    try:
        await prove(model, golden, manifest.batching)
        _check_tolerance(manifest, golden, model.signature)
        batching = manifest.batching
        problems = misfits(batching, model)
        if problems:
            raise InvalidInput(DESCRIPTION, problems)
        if batching.enabled:
            mixed = mixes(model, golden, sharing_of(model, batching), batching.most)
            if mixed is not None:
                problem = Problem("batching.enabled", f"is true, but {mixed}", "leave it out")
                raise InvalidInput(DESCRIPTION, [problem])
        return Proof(model.signature, len(golden.examples))
    finally:
        model.close()


def order_for(
    directory: Path,
    manifest: Manifest,
    report: int,
    log: Path | None,
    *,
    allow_pickle: bool = False,
) -> bytes:
    """What a child reads from its standard input. `report` is the descriptor it inherits."""
    document = {
        "directory": str(directory.resolve()),
        "manifest": manifest_to_bytes(manifest).decode(),
        "report": report,
        "log": str(log) if log is not None else None,
        "allow_pickle": allow_pickle,
        "parent": os.getpid(),
    }
    return json.dumps(document).encode()


def proof_from_report(report: bytes) -> Proof | None:
    """What a child reported; None if it ended before it could. Raises FairleadError if it refused the model."""
    try:
        document = json.loads(report)
    except ValueError:
        return None
    if "refused" in document:
        raise Refused(Kind(document["refused"]["kind"]), document["refused"]["message"])
    node = Node(document["signature"])
    proof = Proof(signature_from_json(node), int(document["examples"]))
    node.done("the report on the model")
    return proof


def main() -> None:
    """Prove one model in this process, and report."""
    garbage.seldom()
    order = json.loads(sys.stdin.buffer.read())
    _end_with(order["parent"])
    os.set_inheritable(order["report"], False)  # noqa: FBT003 - the library's signature
    _log_to(Path(order["log"]) if order["log"] else None)
    if not order["allow_pickle"]:
        refuse_pickles()
    report = json.dumps(_report(Path(order["directory"]), order["manifest"].encode())).encode()
    with os.fdopen(order["report"], "wb") as file:
        file.write(report)
    sys.stdout.flush()
    os._exit(0)  # whatever threads the model has started


def _log_to(path: Path | None) -> None:
    """Where that cannot be written the terminal has to do: ending here would be taken for the model's doing."""
    try:
        jsonlog.setup("publish", file=path)
    except OSError as error:
        jsonlog.setup("publish")
        why = error.strerror or str(error)
        _log.warning("%s cannot be written (%s): what the model logs is shown here", path, why)


def _report(directory: Path, manifest: bytes) -> dict[str, Any]:
    try:
        proof = asyncio.run(prove_model(directory, manifest_from_bytes(manifest)))
    except FairleadError as error:
        return {"refused": {"kind": error.kind, "message": error.message}}
    except BaseException as error:  # noqa: BLE001 - a user's code may raise anything
        message = f"the model failed: {type(error).__name__}: {error}"
        return {"refused": {"kind": Kind.MODEL, "message": message}}
    return {"signature": signature_to_json(proof.signature), "examples": proof.examples}


def _end_with(parent: int) -> None:
    """End when the parent does, even by kill -9: nobody would read the report."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _check_tolerance(manifest: Manifest, golden: Golden, signature: Signature) -> None:
    """A tolerance for an output that is never answered would be a typing error nobody notices."""
    if isinstance(signature, TensorSignature):
        known = {spec.name for spec in signature.outputs}
    else:
        answers = [one.response for one in golden.examples if isinstance(one.response, Mapping)]
        known = {"", *(str(key) for answer in answers for key in answer)}
    problems = [
        Problem(
            f"tolerance.{name}",
            "is no output of the model",
            f"outputs: {', '.join(sorted(known - {''}))}",
        )
        for name in golden.tolerance
        if name not in known
    ]
    if problems:
        raise InvalidInput(manifest.golden, problems)


if __name__ == "__main__":
    main()

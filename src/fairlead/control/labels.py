"""Labels: what an output's elements stand for, from model.yaml or from a file with a label on each line.

    labels:
      probabilities: [cat, dog]     # or labels.txt, a file in the folder

Callers who ask for classes get them beside the numbers (the classification extension).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.reading import Node
from fairlead.domain.signature import Signature, TensorSignature

Labels = Mapping[str, tuple[str, ...]]


def read_labels(node: Node, directory: Path) -> Labels:
    """The labels by output; what is wrong is noted on the node."""
    node.mapping()
    return {name: _of(child, directory) for name, child in node.items()}


def check_labels(labels: Labels, signature: Signature, source: str) -> None:
    """Raises InvalidInput for labels of an output that is not there, or of more elements than it has."""
    specs = signature.outputs if isinstance(signature, TensorSignature) else ()
    outputs = {spec.name: spec for spec in specs}
    problems = []
    for name, texts in labels.items():
        where = f"labels.{name}"
        if name not in outputs:
            known = ", ".join(outputs) or "none: it answers documents"
            problems.append(Problem(where, "is no output of the model", f"outputs: {known}"))
            continue
        shape = outputs[name].shape
        classes = shape[1:] if shape[:1] == (-1,) else shape
        if -1 not in classes and len(texts) > math.prod(classes):
            right = f"at most {math.prod(classes)}: one for each element of its shape {list(shape)}"
            problems.append(Problem(where, f"are {len(texts)}", right))
    if problems:
        raise InvalidInput(source, problems)


def _of(node: Node, directory: Path) -> tuple[str, ...]:
    if not isinstance(node.value, str):
        return tuple(child.text() for child in node.elements())
    path = directory / node.value
    if not path.resolve().is_relative_to(directory.resolve()) or not path.is_file():
        node.wrong(f"{node.value!r} is not in the folder", f"put it into {directory}")
        return ()
    try:
        return tuple(path.read_text("utf-8").splitlines())
    except UnicodeDecodeError:
        node.wrong(f"{node.value!r} is not UTF-8", "write one label on each line, in UTF-8")
        return ()

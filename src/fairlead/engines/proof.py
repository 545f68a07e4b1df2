"""The proof of a model: it answers its golden examples as it should.

Asked when an artifact is published and again each time it is loaded.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from fairlead.api.inference import InferRequest, Model
from fairlead.api.tensors import numbers, tensor_from_lists
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.golden import Example, Golden, difference
from fairlead.domain.signature import DocumentSignature
from fairlead.engines.sharing import Infer, infer_of

_NOTHING_SAID = Batching()


async def prove(model: Model, golden: Golden, batching: Batching = _NOTHING_SAID) -> None:
    """Raise FairleadError (MODEL) naming every example that is not answered as it should be.

    Each runs alone, filled up if `batching` allows some sizes only.
    """
    found = await differences(model, golden, batching)
    if found:
        raise Refused(Kind.MODEL, "\n".join(found))


async def differences(
    model: Model, golden: Golden, batching: Batching = _NOTHING_SAID
) -> list[str]:
    """What is wrong with each example's answer, one line each; empty if the model is proved.

    A plain model runs in the calling thread.
    """
    infer = infer_of(model, batching)
    found = []
    for number, example in enumerate(golden.examples, 1):
        try:
            answer = await _answer(model, infer, example)
            problem = difference(example.response, answer, golden.tolerance)
        except FairleadError as error:
            problem = error.message
        if problem is not None:
            found.append(f"golden example {number}: {problem}")
    return found


def request_of(model: Model, example: Example) -> InferRequest:
    """A golden example as a request; raises FairleadError if it does not fit the signature."""
    if isinstance(model.signature, DocumentSignature):
        text = json.dumps(example.request).encode()
        return InferRequest(document=model.parse_document(text), text=text)
    known = {spec.name: spec for spec in model.signature.inputs}
    given = example.request if isinstance(example.request, dict) else {}
    if given.keys() != known.keys():
        message = f"its request holds {_listed(given)}; the model's inputs are {_listed(known)}"
        raise Refused(Kind.INVALID, message)
    return InferRequest({name: tensor_from_lists(known[name], given[name]) for name in known})


async def _answer(model: Model, infer: Infer, example: Example) -> Any:  # noqa: ANN401 - a JSON value
    answer = infer(request_of(model, example))
    response = await answer if inspect.isawaitable(answer) else answer
    if isinstance(model.signature, DocumentSignature):
        return json.loads(model.dump_document(response.document))
    wanted = example.response if isinstance(example.response, dict) else {}
    kinds = {spec.name: spec.datatype for spec in model.signature.outputs}
    # An example may name only the outputs it is about.
    return {
        name: numbers(kinds[name], tensor).tolist()
        for name, tensor in response.tensors.items()
        if name in wanted or not wanted
    }


def _listed(names: Any) -> str:  # noqa: ANN401 - any collection of names
    return ", ".join(map(repr, names)) or "none"

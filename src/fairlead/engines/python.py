"""Code-only models: the artifact is Python.

The entry file defines `class Model` with `predict(self, request)`, plain or async, and if it needs it
`load(self, directory)`; with `predict_batch(self, requests)`, a list to a list, several requests can share a
call (`predict` answers the rest). The type hints of `predict` are the schema of requests and responses: pydantic
models, dataclasses, TypedDicts or builtins. The artifact's own directory is importable.

What the model's code raises is logged; its caller only learns that it failed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import itertools
import logging
import sys
import threading
import traceback
import typing
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from fairlead.api.cancellation import cancelled
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.errors import FairleadError, FieldError, Kind, Refused, SchemaMismatch
from fairlead.domain.signature import DocumentSignature, Signature
from fairlead.engines.companions import forget, make_importable
from fairlead.engines.floods import LARGE_BYTES, stops_early
from fairlead.engines.malformed import json_invalid

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)
_Infer = Callable[[InferRequest], InferResponse | Awaitable[InferResponse]]
_ERRORS_SHOWN = 100  # of one request: enough to mend it, and bounded


class PythonModel:
    """One instance of a user's `Model`."""

    def __init__(self, directory: Path, instance: Any, request: Any, response: Any) -> None:  # noqa: ANN401 - a user's class and types
        self._directory = directory
        self._request: TypeAdapter[Any] = _adapter(request, "request")
        self._response: TypeAdapter[Any] = _adapter(response, "response")
        self._large = stops_early(self._request)
        self._predict = instance.predict
        asynchronous = inspect.iscoroutinefunction(instance.predict)
        self.concurrent = asynchronous or getattr(instance, "concurrent", False) is True
        self._predict_batch = getattr(instance, "predict_batch", None)
        self.answers_lists = self._predict_batch is not None
        self.infer: _Infer = self._infer_later if asynchronous else self._infer_now
        self.signature: Signature = DocumentSignature(
            self._request.json_schema(mode="validation"),
            self._response.json_schema(mode="serialization"),
        )

    def _infer_now(self, request: InferRequest) -> InferResponse:
        try:
            return InferResponse(document=self._predict(request.document))
        except FairleadError:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and _in_main_thread():
                raise  # Ctrl-C at a terminal where a model is published; a server runs us in a thread
            raise _failed(error) from None

    def infer_together(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        """Answer several at once, if the model `answers_lists`; raises FairleadError (MODEL)."""
        assert self._predict_batch is not None
        try:
            found = list(self._predict_batch([request.document for request in requests]))
        except FairleadError:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and _in_main_thread():
                raise
            raise _failed(error) from None
        if len(found) != len(requests):
            message = f"predict_batch gave {len(found)} answers to {len(requests)} requests"
            _log.error(message)
            raise Refused(Kind.MODEL, message)
        return [InferResponse(document=document) for document in found]

    async def _infer_later(self, request: InferRequest) -> InferResponse:
        try:
            return InferResponse(document=await self._predict(request.document))
        except FairleadError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _failed(error) from None  # its own doing: whoever asked is still there
        # exit() is an answer that failed, not the end of the process
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - a user's code may raise anything
            raise _failed(error) from None

    def parse_document(self, data: bytes) -> Any:  # noqa: ANN401 - the user's type
        try:
            if len(data) > LARGE_BYTES:
                return self._large.validate_json(data)
            return self._request.validate_json(data)
        except ValidationError as error:
            raise _mismatch(data, error) from None
        except FairleadError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's validator may raise anything
            raise _failed(error) from None

    def dump_document(self, document: Any) -> bytes:  # noqa: ANN401 - the user's type
        try:
            checked = self._response.validate_python(document)
            return self._response.dump_json(checked, by_alias=True)
        except ValidationError as error:
            _log.error("the model's answer is not of its response type: %s", error)
            raise Refused(Kind.MODEL, "the model's answer is not of its response type") from None
        except ValueError as error:  # what JSON cannot carry
            _log.error("the model's answer cannot be written as JSON: %s", error)
            raise Refused(Kind.MODEL, "the model's answer cannot be written as JSON") from None
        except FairleadError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            raise _failed(error) from None

    def close(self) -> None:
        forget(self._directory)


def load_python_model(directory: Path, entry: str) -> PythonModel:
    """Import the entry file, make its `Model` and load it; raises FairleadError (MODEL)."""
    directory = directory.resolve()
    make_importable(directory, entry)
    try:
        cls = _model_class(_import(directory, entry), entry)
        request, response = _types(cls, entry)
        _check_batch(cls, entry)
        instance = _instance(cls, directory, entry)
        return PythonModel(directory, instance, request, response)
    except BaseException:
        forget(directory)
        raise


def _model_class(module: ModuleType, entry: str) -> type:
    cls = getattr(module, "Model", None)
    if not inspect.isclass(cls):
        message = f"{entry} defines no class Model; write class Model with load and predict"
        raise Refused(Kind.MODEL, message)
    return cls


def _import(directory: Path, entry: str) -> ModuleType:
    name = f"fairlead_model_{next(_numbers)}"  # two artifacts' model.py are two modules
    spec = importlib.util.spec_from_file_location(name, directory / entry)
    if spec is None or spec.loader is None:
        raise Refused(Kind.MODEL, f"{entry} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything
        raise _broken(directory, entry, error) from None
    return module


def _types(cls: type, entry: str) -> tuple[Any, Any]:
    predict = inspect.getattr_static(cls, "predict", None)
    if not inspect.isfunction(predict):
        raise Refused(Kind.MODEL, f"{entry}: class Model has no method predict(self, request)")
    names = list(inspect.signature(predict).parameters)
    if len(names) != 2:  # noqa: PLR2004 - self and the request
        raise Refused(Kind.MODEL, f"{entry}: predict takes {names}; write predict(self, request)")
    try:
        hints = typing.get_type_hints(predict, include_extras=True)
    except Exception as error:  # noqa: BLE001 - a hint is an expression of the user's
        message = f"{entry}: the type hints of predict cannot be read: {error}"
        raise Refused(Kind.MODEL, message) from None
    for name in (names[1], "return"):
        if name not in hints:
            what = "its return type" if name == "return" else f"the type of {name!r}"
            raise Refused(
                Kind.MODEL, f"{entry}: predict lacks {what}; its type hints are the model's schema"
            )
    return hints[names[1]], hints["return"]


def _check_batch(cls: type, entry: str) -> None:
    """`predict_batch` may be missing; if it is there it must be one that can be called."""
    batch = inspect.getattr_static(cls, "predict_batch", None)
    if batch is None:
        return
    if not inspect.isfunction(batch) or inspect.iscoroutinefunction(batch):
        message = f"{entry}: predict_batch is no plain method; write def predict_batch(self, requests) and return a list"
        raise Refused(Kind.MODEL, message)
    names = list(inspect.signature(batch).parameters)
    if len(names) != 2:  # noqa: PLR2004 - self and the requests
        message = f"{entry}: predict_batch takes {names}; write predict_batch(self, requests)"
        raise Refused(Kind.MODEL, message)
    if inspect.iscoroutinefunction(getattr(cls, "predict", None)):
        message = f"{entry}: predict is async, so it works on many requests at once already; leave predict_batch out"
        raise Refused(Kind.MODEL, message)


def _instance(cls: type, directory: Path, entry: str) -> Any:  # noqa: ANN401 - the user's class
    load = getattr(cls, "load", None)
    if inspect.iscoroutinefunction(load):
        raise Refused(Kind.MODEL, f"{entry}: load is async; write a plain load(self, directory)")
    try:
        instance = cls()
        if load is not None:
            instance.load(directory)
    except FairleadError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything
        raise _broken(directory, entry, error) from None
    return instance


def _adapter(kind: Any, what: str) -> TypeAdapter[Any]:  # noqa: ANN401 - the user's type
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        first = str(error).splitlines()[0]
        message = f"the {what} type of predict has no JSON schema: {first}; use pydantic models, dataclasses, TypedDicts or builtins"
        raise Refused(Kind.MODEL, message) from None
    return adapter


def _broken(directory: Path, entry: str, error: BaseException) -> FairleadError:
    """Code that fails while it is loaded: its author reads this, so the line is named."""
    _log.error("%s failed while it was loaded", entry, exc_info=error)
    inside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(directory)
    ]
    if isinstance(error, SyntaxError):
        place = f"{entry}, line {error.lineno}"
    elif inside:
        place = f"{Path(inside[-1].filename).relative_to(directory)}, line {inside[-1].lineno}"
    else:
        place = entry
    return Refused(Kind.MODEL, f"{place}: {type(error).__name__}: {error}")


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _failed(error: BaseException) -> FairleadError:
    if not cancelled():  # code that is told to stop may well stop by an exception
        _log.error("the model's code failed", exc_info=error)
    return Refused(
        Kind.MODEL, f"the model's code failed ({type(error).__name__}); its log says why"
    )


def _mismatch(data: bytes, error: ValidationError) -> SchemaMismatch:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        why = details[0]["msg"].removeprefix("Invalid JSON: ")
        return SchemaMismatch([json_invalid(data, why)])
    return SchemaMismatch(
        [
            FieldError(detail["loc"], detail["msg"], detail["type"])
            for detail in details[:_ERRORS_SHOWN]
        ]
    )

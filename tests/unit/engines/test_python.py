"""Code-only models: what a user may write, and what the errors say."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.errors import FairleadError, Kind, SchemaMismatch
from fairlead.domain.signature import DocumentSignature
from fairlead.engines.python import PythonModel, load_python_model
from support.models import ECHO


@pytest.fixture
def models() -> Iterator[list[PythonModel]]:
    loaded: list[PythonModel] = []
    yield loaded
    for model in loaded:
        model.close()


@pytest.fixture
def load(tmp_path: Path, models: list[PythonModel]) -> Any:
    def load(code: str, name: str = "one", **files: str) -> PythonModel:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "model.py").write_text(code)
        (directory / "suffix.txt").write_text("!")
        for file, content in files.items():
            (directory / f"{file}.py").write_text(content)
        models.append(load_python_model(directory, "model.py"))
        return models[-1]

    return load


def ask(model: PythonModel, body: bytes) -> bytes:
    answer = model.infer(InferRequest(document=model.parse_document(body)))
    assert isinstance(answer, InferResponse)
    return model.dump_document(answer.document)


def test_the_type_hints_are_the_schema(load: Any) -> None:
    model = load(ECHO)
    assert isinstance(model.signature, DocumentSignature)
    assert model.signature.request["required"] == ["text"]
    assert model.signature.response["properties"]["text"]["type"] == "string"
    assert ask(model, b'{"text": "a", "times": 3}') == b'{"text":"aaa!"}'


def test_a_request_that_does_not_fit_names_every_field(load: Any) -> None:
    model = load(ECHO)
    with pytest.raises(SchemaMismatch) as caught:
        model.parse_document(b'{"times": "many"}')
    assert [(error.loc, error.type) for error in caught.value.errors] == [
        (("text",), "missing"),
        (("times",), "int_parsing"),
    ]


def test_deep_nesting_and_broken_json_are_schema_errors(load: Any) -> None:
    model = load(ECHO)
    for body in (b"[" * 100_000, b'{"text":', b"\xff", b""):
        with pytest.raises(SchemaMismatch):
            model.parse_document(body)


def test_a_flood_of_mistakes_is_answered_with_few(load: Any) -> None:
    model = load(
        "class Model:\n    def predict(self, request: list[int]) -> int:\n        return 1\n"
    )
    with pytest.raises(SchemaMismatch) as caught:
        model.parse_document(b"[" + b'"x",' * 3_000_000 + b"1]")
    assert 1 <= len(caught.value.errors) <= 100


async def test_predict_may_be_async(load: Any) -> None:
    model = load(
        "import asyncio\n"
        "class Model:\n"
        "    async def predict(self, request: int) -> list[int]:\n"
        "        await asyncio.sleep(0)\n"
        "        return [request, request]\n"
    )
    assert model.concurrent
    answer = model.infer(InferRequest(document=7))
    assert inspect.isawaitable(answer)
    assert model.dump_document((await answer).document) == b"[7,7]"


def test_dataclasses_and_typed_dicts_are_types_too(load: Any) -> None:
    model = load(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing_extensions import TypedDict\n"
        "@dataclass\n"
        "class Request:\n"
        "    a: int\n"
        "class Response(TypedDict):\n"
        "    b: float\n"
        "class Model:\n"
        "    def predict(self, request: Request) -> Response:\n"
        "        return {'b': request.a / 2}\n"
    )
    assert ask(model, b'{"a": 3}') == b'{"b":1.5}'


def test_what_the_models_code_raises_stays_in_the_log(
    load: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(ECHO)
    with pytest.raises(FairleadError) as caught:
        ask(model, b'{"text": "boom"}')
    assert caught.value.kind is Kind.MODEL
    assert "secret" not in caught.value.message
    assert "ValueError" in caught.value.message
    assert "a secret of the model" in caplog.text


@pytest.mark.parametrize("ending", ["exit(3)", "raise KeyboardInterrupt", "raise BaseException"])
def test_a_model_that_wants_to_end_the_process_only_fails_its_caller(
    load: Any, ending: str
) -> None:
    model = load(
        f"class Model:\n    def predict(self, request: int) -> int:\n        {ending}\n",
    )
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(ask, model, b"1")
        with pytest.raises(FairleadError, match="the model's code failed") as caught:
            run.result(10)
    assert caught.value.kind is Kind.MODEL


def test_at_a_terminal_an_interrupt_is_the_persons(load: Any) -> None:
    model = load(
        "import signal\n"
        "class Model:\n"
        "    def predict(self, request: int) -> int:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        return 1\n"
    )
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # it is ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(model, b"1")
    finally:
        signal.signal(signal.SIGINT, before)


VALIDATED = """
from pydantic import BaseModel, field_validator

class Request(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def check(cls, value):
        if value == "asked":
            {ending}
        return value

class Response(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def check(cls, value):
        if value == "answered":
            {ending}
        return value

class Model:
    def predict(self, request: Request) -> list[Response]:
        return [{{"text": request.text}}]
"""


@pytest.mark.parametrize("ending", ["exit(3)", "raise KeyError('a secret')", "raise StopIteration"])
@pytest.mark.parametrize("text", ["asked", "answered"])
def test_a_validator_that_fails_or_wants_to_end_the_process_only_fails_its_caller(
    load: Any, ending: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(VALIDATED.format(ending=ending))
    assert ask(model, b'{"text": "a"}') == b'[{"text":"a"}]'
    with pytest.raises(FairleadError, match="the model's code failed") as caught:
        ask(model, b'{"text": "%b"}' % text.encode())
    assert caught.value.kind is Kind.MODEL
    assert "secret" not in caught.value.message
    assert "the model's code failed" in caplog.text


async def test_an_async_model_whose_own_work_is_cancelled_has_failed_and_nobody_left(
    load: Any,
) -> None:
    model = load(
        "import asyncio\n"
        "class Model:\n"
        "    async def predict(self, request: int) -> int:\n"
        "        task = asyncio.ensure_future(asyncio.sleep(60))\n"
        "        if request == 1:\n"
        "            task.cancel()\n"
        "        return await task\n"
    )
    with pytest.raises(FairleadError, match=r"code failed \(CancelledError\)") as caught:
        await model.infer(InferRequest(document=1))
    assert caught.value.kind is Kind.MODEL
    left = asyncio.ensure_future(model.infer(InferRequest(document=2)))
    asyncio.get_running_loop().call_soon(left.cancel)
    with pytest.raises(asyncio.CancelledError):
        await left


@pytest.mark.parametrize("ending", ["exit(3)", "raise KeyboardInterrupt"])
async def test_an_async_model_that_wants_to_end_the_process_only_fails_its_caller(
    load: Any, ending: str
) -> None:
    model = load(
        f"class Model:\n    async def predict(self, request: int) -> int:\n        {ending}\n"
    )
    answer = model.infer(InferRequest(document=1))
    assert inspect.isawaitable(answer)
    with pytest.raises(FairleadError, match="the model's code failed") as caught:
        await answer
    assert caught.value.kind is Kind.MODEL


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (b"", 0),
        (b'{"text":', 8),
        (b'{"text": nope}', 10),
        (b'{\n"text": "a",\n  x}', 17),
        ('{"é": x}'.encode(), 7),
        (b'{"text": "\n"}', 10),
        (b"\n" * 1_000_001 + b"x", 1_000_001),
        (b"\xff" + b" " * 100_000, 0),
    ],
)
def test_a_body_that_is_not_json_is_wrong_at_a_byte(load: Any, body: bytes, at: int) -> None:
    model = load(ECHO)
    with pytest.raises(SchemaMismatch) as caught:
        model.parse_document(body)
    (error,) = caught.value.errors
    assert (error.loc, error.type) == ((at,), "json_invalid")
    assert error.msg.startswith("JSON decode error: ")
    assert " at line " not in error.msg


def test_an_answer_of_another_type_is_the_models_fault(load: Any) -> None:
    model = load(
        "class Model:\n    def predict(self, request: int) -> list[int]:\n        return ['x']\n"
    )
    with pytest.raises(FairleadError, match="not of its response type") as caught:
        ask(model, b"1")
    assert caught.value.kind is Kind.MODEL


def test_modules_beside_the_entry_can_be_imported_and_are_gone_after(load: Any) -> None:
    code = "import fl_helper\nclass Model:\n    def predict(self, request: int) -> int:\n        return fl_helper.twice(request)\n"
    model = load(code, fl_helper="def twice(value):\n    return 2 * value\n")
    assert ask(model, b"4") == b"8"
    model.close()
    assert "fl_helper" not in sys.modules


def test_two_models_never_get_each_others_modules(load: Any) -> None:
    code = "import fl_helper\nclass Model:\n    def predict(self, request: int) -> int:\n        return fl_helper.V\n"
    load(code, fl_helper="V = 1\n")
    with pytest.raises(FairleadError, match="fl_helper is a module of two loaded models"):
        load(code, "two", fl_helper="V = 2\n")


def test_loading_leaves_no_files_behind(load: Any, tmp_path: Path) -> None:
    load("import fl_helper\n" + ECHO, fl_helper="V = 1\n")
    assert not list(tmp_path.rglob("*.pyc"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", "no class Model"),
        ("class Model:\n    pass\n", r"no method predict\(self, request\)"),
        (
            "class Model:\n    def predict(self) -> int: return 1\n",
            r"write predict\(self, request\)",
        ),
        (
            "class Model:\n    def predict(self, request) -> int: return 1\n",
            "lacks the type of 'request'",
        ),
        ("class Model:\n    def predict(self, request: int): return 1\n", "lacks its return type"),
        (
            "class Model:\n    def predict(self, request: 'Nope') -> int: return 1\n",
            "type hints .* cannot be read",
        ),
        (
            "class Model:\n    def predict(self, request: object) -> int: return 1\nclass X: pass\nModel.predict.__annotations__['request'] = X\n",
            "no JSON schema",
        ),
        ("import no_such_module_here\n", "model.py, line 1: ModuleNotFoundError"),
        ("def (:\n", "model.py, line 1: SyntaxError"),
        ("import sys\nsys.exit(3)\n", "model.py, line 2: SystemExit"),
        (
            "class Model:\n    async def load(self, directory): pass\n    def predict(self, request: int) -> int: return 1\n",
            "load is async",
        ),
        (
            "class Model:\n    def load(self, directory):\n        raise OSError('no weights')\n    def predict(self, request: int) -> int: return 1\n",
            "model.py, line 3: OSError: no weights",
        ),
    ],
)
def test_a_wrong_model_file_says_what_is_wrong(load: Any, code: str, message: str) -> None:
    before = list(sys.path)
    with pytest.raises(FairleadError, match=message) as caught:
        load(code)
    assert caught.value.kind is Kind.MODEL
    assert "Traceback" not in caught.value.message
    assert sys.path == before

"""Code that answers a list of requests at once."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.api.inference import InferRequest
from fairlead.api.worker import ServedEndpoint
from fairlead.control.publish import publish
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind
from fairlead.engines.python import PythonModel, load_python_model
from fairlead.engines.sharing import cannot_share, misfits, once_more
from fairlead.kits.clock import SystemClock
from fairlead.server.endpoints import endpoints_of
from fairlead.server.loading import load_artifact
from support.models import example, make_artifact
from support.serving import in_process

CODE = """
import time


class Model:
    def load(self, directory):
        self.sizes = []

    def predict(self, text: str) -> str:
        return self.predict_batch([text])[0]

    def predict_batch(self, texts):
        time.sleep(0.002)  # what one call costs, however much it is given
        self.sizes.append(len(texts))
        if "boom" in texts:
            raise ValueError("a secret of the model")
        return [text.upper() for text in texts][: 3 if "short" in texts else None]
"""


def loaded(directory: Path, code: str = CODE) -> PythonModel:
    (directory / "model.py").write_text(code)
    return load_python_model(directory, "model.py")


def asks(*texts: str) -> list[InferRequest]:
    return [InferRequest(document=text) for text in texts]


def test_a_list_is_answered_in_order(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    assert cannot_share(model) is None
    answers = model.infer_together(asks("a", "b"))
    assert [answer.document for answer in answers] == ["A", "B"]
    model.close()


def test_code_that_fails_or_gives_too_few_answers_is_its_own_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded(tmp_path)
    with caplog.at_level(logging.CRITICAL), pytest.raises(FairleadError) as failed:
        model.infer_together(asks("a", "boom"))
    assert failed.value.kind is Kind.MODEL
    assert "secret" not in failed.value.message
    with pytest.raises(FairleadError, match="predict_batch gave 3 answers to 4 requests"):
        model.infer_together(asks("a", "b", "c", "short"))
    model.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (CODE.replace("def predict_batch", "async def predict_batch"), "is no plain method"),
        (CODE.replace("predict_batch(self, texts)", "predict_batch(self)"), r"takes \['self'\]"),
        (CODE.replace("def predict(", "async def predict("), "predict is async"),
        (
            "class Model:\n    predict_batch = 3\n"
            + CODE.split("Model:\n")[1].split("    def predict_batch", maxsplit=1)[0],
            "is no plain method",
        ),
    ],
)
def test_a_predict_batch_that_cannot_be_called_is_refused(
    tmp_path: Path, code: str, message: str
) -> None:
    with pytest.raises(FairleadError, match=message):
        loaded(tmp_path, code)


def test_code_without_it_cannot_be_batched_and_no_documents_are_padded(tmp_path: Path) -> None:
    plain = loaded(tmp_path, "class Model:\n    def predict(self, text: str) -> str: return text\n")
    assert cannot_share(plain) == "it takes documents and has no predict_batch"
    assert "cannot be batched" in str(misfits(Batching(enabled=True), plain)[0])
    plain.close()
    (tmp_path / "b").mkdir()
    model = loaded(tmp_path / "b")
    pads = Batching(pad_variable_length_inputs={"x": 0})
    assert "leave it out" in str(misfits(pads, model)[0])
    model.close()


@pytest.mark.timeout(60)
async def test_it_is_measured_and_batched_like_a_graph_and_one_that_fails_fails_alone(
    tmp_path: Path,
) -> None:
    made = make_artifact(tmp_path / "a", {"model.py": CODE}, [example("hi", "HI")])
    endpoints = (ServedEndpoint(batching={"maxBatchSize": 8}),)
    async with in_process(made.spec(endpoints=endpoints)) as one:
        batching = (await one.client.get("/internal/identity")).json()["batching"]["predict"]
        assert batching.startswith("batches of up to 8 rows, "), batching

        async def ask(text: str) -> Any:
            return await one.client.post("/v1/model/echo/predict", json=text)

        texts = [f"text {number}" for number in range(20)] + ["boom"]
        answers = await asyncio.gather(*map(ask, texts))
        assert [answer.json() for answer in answers[:-1]] == [text.upper() for text in texts[:-1]]
        assert answers[-1].status_code == 500
        assert "secret" not in answers[-1].text
        assert max("batch;desc=8" in answer.headers["server-timing"] for answer in answers)


async def test_code_that_answers_otherwise_in_a_list_is_never_batched(tmp_path: Path) -> None:
    code = CODE.replace("text.upper()", "text.upper() + str(len(texts))")
    made = make_artifact(tmp_path / "a", {"model.py": code}, [example("hi", "HI1")])
    loaded_artifact = await load_artifact(made.directory, made.digest, 0, SystemClock())
    (one,) = await endpoints_of(made.spec(), loaded_artifact, SystemClock())
    assert one.batcher is None
    assert "golden example 1 is answered otherwise in a batch of 2" in one.batching
    loaded_artifact.close()


@pytest.mark.parametrize(
    "answers",
    ["[3 for text in texts]", "{n: 3 for n, _ in enumerate(texts)}", "[None] * len(texts)", "7"],
)
async def test_a_list_of_wrong_answers_is_told_and_never_batched(
    tmp_path: Path, answers: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`predict` is right: the model serves, one by one, unless somebody insists on batches."""
    code = f"""
class Model:
    def predict(self, text: str) -> dict[str, str]:
        return {{"upper": text.upper()}}

    def predict_batch(self, texts):
        return {answers}
"""
    made = make_artifact(tmp_path / "a", {"model.py": code}, [example("hi", {"upper": "HI"})])
    with caplog.at_level(logging.CRITICAL):
        loaded_artifact = await load_artifact(made.directory, made.digest, 0, SystemClock())
        (one,) = await endpoints_of(made.spec(), loaded_artifact, SystemClock())
        assert one.batcher is None
        assert one.batching.startswith("one by one: in a batch of 2 (predict_batch): the model's ")
        loaded_artifact.close()
        (made.directory / "manifest.json").unlink()
        said = {"name": "m", "version": 1, "engine": "python", "batching": {"enabled": True}}
        artifacts = StoredArtifacts(MemoryObjectStore())
        with pytest.raises(FairleadError, match=r"batching\.enabled: is true, but .*predict_batch"):
            await publish(made.directory, said, artifacts, lambda _: None)


CHANGING = """
import time


class Model:
    def predict(self, request: dict[str, int]) -> dict[str, int]:
        time.sleep(0.001)
        return {"y": 2 * request.pop("x")}
"""
LISTED = """
    def predict_batch(self, requests):
        time.sleep(0.001)
        return [{"y": 2 * request.pop("x")} for request in requests]
"""


@pytest.mark.parametrize("code", [CHANGING, CHANGING + LISTED])
async def test_code_that_changes_what_it_is_given_is_given_it_anew(
    tmp_path: Path, code: str
) -> None:
    """Proved, timed and measured: each runs the same example again and again."""
    made = make_artifact(tmp_path / "a", {"model.py": code}, [example({"x": 1}, {"y": 2})])
    loaded_artifact = await load_artifact(made.directory, made.digest, 0, SystemClock())
    measured = loaded_artifact.measured
    assert (measured is not None and measured.helps) == ("predict_batch" in code)
    loaded_artifact.close()


def test_a_request_is_read_again_for_another_run_and_tensors_are_not() -> None:
    class Reads:
        @staticmethod
        def parse_document(data: bytes) -> Any:
            return json.loads(data)

    model: Any = Reads()
    asked = InferRequest(document={"x": []}, text=b'{"x": [1]}', priority=2)
    again = once_more(model, asked)
    assert (again.document, again.priority) == ({"x": [1]}, 2)
    tensors = InferRequest({})
    assert once_more(model, tensors) is tensors

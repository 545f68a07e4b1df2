"""A worker is proved by what it answers through its socket, and by nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.adapters.memory.workers import Behaviour
from fairlead.agent import records
from fairlead.agent.asking import WorkerClient, flat, nested, shape_of
from fairlead.agent.logs import last_words
from fairlead.agent.prove import prove
from fairlead.agent.settings import AgentSettings
from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_to_bytes
from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSignature,
    TensorSpec,
)

TENSORS = TensorSignature(
    (TensorSpec("text", DataType.BYTES, (-1,)), TensorSpec("x", DataType.FP32, (-1, 2))),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("label", DataType.INT64, (-1,))),
)
EXAMPLE = {
    "request": {"text": ["a", "b"], "x": [[1.0, 2.0], [3.0, 4.0]]},
    "response": {"y": [[0.1, 0.2], [0.3, 0.4]]},
}
GOLDEN = {"tolerance": {"y": 0.01}, "examples": [EXAMPLE]}
Run = Callable[..., WorkerSpec]


def output(name: str, shape: list[int], data: list[float]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": shape, "data": data}


@pytest.fixture
def run(world: Any) -> Run:
    """Start a fake worker of an artifact with that signature and golden examples."""

    def start(signature: Signature, golden: dict[str, Any], behaviour: Behaviour) -> WorkerSpec:
        data = json.dumps(golden).encode()
        file = ManifestFile("golden.json", len(data), hashlib.sha256(data).hexdigest())
        manifest = Manifest(
            ArtifactRef("digits", 1), "onnx", "golden.json", (file,), signature, "golden.json"
        )
        directory: Path = world.home.artifact(manifest.digest)
        directory.mkdir(parents=True)
        (directory / "golden.json").write_bytes(data)
        (directory / "manifest.json").write_bytes(manifest_to_bytes(manifest))
        world.home.sockets.mkdir(parents=True)
        spec = WorkerSpec(
            "0123abcd",
            RevisionId("digits", "v1", "1"),
            directory,
            manifest.digest,
            socket=world.home.worker_socket("0123abcd"),
        )
        world.launcher.behave = lambda _: behaviour
        records.announce(world.home, spec)
        world.launcher.start(
            [spec], records.spec_file(world.home, spec.worker), world.scratch / "log"
        )
        return spec

    return start


async def verdict(spec: WorkerSpec, *, examples: int = 20, **changes: Any) -> str:
    """Empty if the worker is proved, else why not."""
    settings = AgentSettings(proof_seconds=2.0)
    try:
        await prove(spec, replace(settings, **changes), examples=examples)
    except FairleadError as error:
        return error.message
    return ""


class TestTensors:
    async def test_they_are_sent_and_read_as_the_open_inference_protocol_says(
        self, run: Run
    ) -> None:
        seen: list[Any] = []

        def answers(request: Any) -> Any:
            seen.append(request)
            return {"outputs": [output("y", [2, 2], [0.1, 0.2, 0.3, 0.405])]}

        assert await verdict(run(TENSORS, GOLDEN, Behaviour(answers=answers))) == ""
        assert seen == [
            {
                "inputs": [
                    {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [2, 2],
                        "data": [1.0, 2.0, 3.0, 4.0],
                    },
                ]
            }
        ]

    async def test_an_output_the_example_does_not_name_is_not_judged(self, run: Run) -> None:
        outputs = [output("y", [2, 2], [0.1, 0.2, 0.3, 0.4]), output("label", [2], [7, 8])]
        spec = run(TENSORS, GOLDEN, Behaviour(answers=lambda _: {"outputs": outputs}))
        assert await verdict(spec) == ""

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (
                {"outputs": [output("y", [2, 2], [0.1, 0.2, 0.3, 0.42])]},
                "y[1][1]: 0.4 expected within 0.01, 0.42 answered",
            ),
            ({"outputs": [output("y", [1, 2], [0.1, 0.2])]}, "y: 2 elements expected, 1 answered"),
            ({"outputs": []}, "y is missing in the answer"),
            ({"outputs": [output("y", [2, 2], [0.1])]}, "1 elements for shape [2, 2]"),
            ({"predictions": []}, "the worker's answer is no inference response"),
        ],
    )
    async def test_a_wrong_answer_is_told_with_its_place(
        self, run: Run, answer: Any, reason: str
    ) -> None:
        found = await verdict(run(TENSORS, GOLDEN, Behaviour(answers=lambda _: answer)))
        assert found.startswith("golden example 1 of 1: ")
        assert reason in found


class TestDocuments:
    EXAMPLES = [{"request": number, "response": number * 2} for number in range(5)]  # noqa: RUF012 - never changed

    async def test_every_example_counts(self, run: Run) -> None:
        behaviour = Behaviour(answers=lambda number: number * 2 if number != 3 else 7)
        spec = run(DocumentSignature(), {"examples": self.EXAMPLES}, behaviour)
        assert (
            await verdict(spec)
            == "golden example 4 of 5: response: 6 expected within 0, 7 answered"
        )
        assert await verdict(spec, examples=3) == "", "unless fewer are asked for"

    async def test_a_worker_that_does_not_answer_in_time_is_not_proved(
        self, run: Run, world: Any
    ) -> None:
        import threading

        gate = threading.Event()
        spec = run(
            DocumentSignature(),
            {"examples": self.EXAMPLES},
            Behaviour(answers=lambda _: gate.wait(5)),
        )
        assert "golden" in await verdict(spec, proof_seconds=0.2)
        gate.set()
        assert world.launcher.running()

    async def test_a_worker_that_is_not_there_is_not_proved(self, run: Run, world: Any) -> None:
        spec = run(DocumentSignature(), {"examples": self.EXAMPLES}, Behaviour())
        world.launcher.close()
        assert await verdict(spec) == "the worker does not say who it is"
        (spec.artifact / "golden.json").unlink()
        assert await verdict(spec) == f"{spec.artifact / 'golden.json'}: No such file or directory"

    async def test_a_worker_that_is_not_loaded_any_more_is_not_proved(self, run: Run) -> None:
        spec = run(DocumentSignature(), {"examples": self.EXAMPLES}, Behaviour(loads=False))
        assert await verdict(spec) == "the worker is not loaded any more"

    async def test_a_refusal_is_told(self, run: Run) -> None:
        spec = run(DocumentSignature(), {"examples": self.EXAMPLES}, Behaviour())
        assert spec.socket is not None
        async with WorkerClient(spec.socket, 2.0) as client:
            assert await client.predict("/v1/model/digits/predict", 4) == 8
            with pytest.raises(FairleadError, match="the worker answered 404") as caught:
                await client.predict("/v1/models", 4)
            assert caught.value.kind is Kind.MODEL


NESTED = st.recursive(
    st.integers(),
    lambda inner: st.integers(1, 3).flatmap(lambda size: inner.map(lambda one: [one] * size)),
    max_leaves=20,
)


@given(NESTED)
def test_lists_are_flattened_and_nested_back(values: Any) -> None:
    assert nested(flat(values), shape_of(values)) == values


def test_an_empty_batch_has_a_shape() -> None:
    assert shape_of([]) == [0]
    assert nested([], [0, 3]) == []
    with pytest.raises(ValueError, match=r"2 elements for shape \[3\]"):
        nested([1, 2], [3])


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ('{"levelname": "INFO", "message": "starts"}\n', ""),
        (
            '{"levelname": "ERROR", "message": "no model"}\n{"levelname": "INFO", "message": "x"}\n',
            "no model",
        ),
        ('{"levelname": "INFO", "message": "x"}\nMemoryError\n', "MemoryError"),
        ('half a line"}\n{"levelname": "CRITICAL", "message": "out"}\n', "out"),
        ("x" * 20_000 + "\nlast", "last"),
    ],
)
def test_last_words_are_the_last_error_or_the_last_line_that_is_no_json(
    tmp_path: Path, log: str, words: str
) -> None:
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == words


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert last_words(tmp_path / "log") == ""


@pytest.mark.parametrize("name", ["cores", "golden_examples", "pulls_at_once", "max_replicas"])
def test_a_setting_that_could_never_work_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; write a whole number from 1 up"):
        AgentSettings(**{name: 0})  # type: ignore[arg-type]

"""The protocol's messages: as upstream has them, and beside other copies of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairlead.api._generated import descriptors
from fairlead.api.oip_messages import PACKAGE, message, pool

ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(60)
def test_the_descriptors_are_what_protoc_makes_of_proto() -> None:
    program = (
        "import sys; from proto import descriptor_set; sys.stdout.buffer.write(descriptor_set())"
    )
    made = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=ROOT / "scripts",
        timeout=50,
    )
    assert made.stdout == descriptors(), "run `make proto`"


@pytest.mark.parametrize("first", ["fairlead", "tritonclient"])
@pytest.mark.timeout(60)
def test_it_lives_in_one_process_with_tritonclients_copy(first: str) -> None:
    imports = [
        "from fairlead.api.oip_messages import message; message('ModelInferRequest')()",
        "from tritonclient.grpc import service_pb2; service_pb2.ModelInferRequest()",
    ]
    program = "\n".join(imports if first == "fairlead" else reversed(imports))
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def fields(descriptor: Any) -> dict[str, tuple[int, int, bool]]:
    return {one.name: (one.number, one.type, one.is_repeated) for one in descriptor.fields}


@pytest.mark.filterwarnings("ignore")
def test_names_numbers_and_types_are_upstreams() -> None:
    from tritonclient.grpc import model_config_pb2, service_pb2

    for theirs in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR):
        for name, upstream in theirs.message_types_by_name.items():
            try:
                ours = pool().FindMessageTypeByName(f"{PACKAGE}.{name}")
            except KeyError:
                continue  # we answer nothing with it
            assert fields(ours).items() <= fields(upstream).items(), name
            for inner in ours.nested_types:
                assert (
                    fields(inner).items()
                    <= fields(upstream.nested_types_by_name[inner.name]).items()
                )
    ours = pool().FindServiceByName("inference.GRPCInferenceService")
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in ours.methods:
        upstream = theirs.methods_by_name[method.name]
        assert method.input_type.full_name == upstream.input_type.full_name
        assert method.output_type.full_name == upstream.output_type.full_name
        assert method.server_streaming == upstream.server_streaming


def test_a_message_is_read_by_upstreams_class() -> None:
    from tritonclient.grpc import service_pb2

    ours = message("ModelInferRequest")(model_name="m", id="1", raw_input_contents=[b"abc"])
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert (theirs.model_name, list(theirs.raw_input_contents)) == ("m", [b"abc"])

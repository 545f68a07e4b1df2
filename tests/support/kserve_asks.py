"""Run by a Python that has KServe: its own clients ask a server, and this program ends with 0 if all is as it should be.

kserve_asks.py URL [KEY]
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


def inputs(*, binary: bool) -> list[InferInput]:
    given = []
    for name, values in (("INPUT0", np.arange(16)), ("INPUT1", np.ones(16))):
        given.append(InferInput(name, [1, 16], "INT32"))
        given[-1].set_data_from_numpy(values.astype(np.int32).reshape(1, 16), binary_data=binary)
    return given


async def main(url: str, headers: dict[str, str]) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url, headers=headers) is True
        assert await client.is_server_ready(url, headers=headers) is True
        assert await client.is_model_ready(url, "simple", headers=headers) is True
        assert await client.is_model_ready(url, "nobody", headers=headers) is False
        for binary in (False, True):
            request = InferRequest(
                model_name="simple",
                infer_inputs=inputs(binary=binary),
                request_id="42",
                parameters={"binary_data_output": binary},
            )
            answer = await client.infer(url, request, model_name="simple", headers=dict(headers))
            assert answer.id == "42"
            assert answer.model_name == "simple"
            found = {one.name: one.as_numpy().tolist() for one in answer.outputs}
            assert found == {
                "OUTPUT0": [list(range(1, 17))],
                "OUTPUT1": [list(range(-1, 15))],
            }, found
        plain = {
            "inputs": [
                {"name": "x", "shape": [1, 3], "datatype": "INT32", "data": [1, 3, 2]},
            ],
            "outputs": [{"name": "y", "parameters": {"classification": 1}}],
        }
        answer = await client.infer(url, plain, model_name="classes", headers=dict(headers))
        assert answer.outputs[0].data == ["3:1:dog"], answer.outputs[0].data
        try:
            await client.infer(url, {"inputs": []}, model_name="simple", headers=dict(headers))
        except Exception as error:  # noqa: BLE001 - whatever the client makes of it
            assert "input 'INPUT0' is missing" in str(error), error
        else:
            raise AssertionError("a request without inputs was answered")


if __name__ == "__main__":
    key = {"X-Api-Key": sys.argv[2]} if len(sys.argv) > 2 else {}
    asyncio.run(main(sys.argv[1], key))
    print("PASS")

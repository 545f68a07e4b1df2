"""The floor: the model alone, `onnxruntime.run` in a loop in one process. Prints runs a second."""

import sys
from time import perf_counter

import numpy as np
import onnxruntime  # type: ignore[import-untyped]


def main(model: str, seconds: float) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pixels = {"pixels": np.zeros((1, 64), np.float32)}
    names = ["probabilities"]
    runs = 0
    start = perf_counter()
    while (spent := perf_counter() - start) < seconds:
        for _ in range(1000):
            session.run(names, pixels)
        runs += 1000
    print(runs / spent)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

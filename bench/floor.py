"""The floor: a model alone, `onnxruntime.run` in a loop. Prints the rows a second that all processes did.

`python bench/floor.py MODEL SECONDS --processes 2 --threads 1 --rows 32`
"""

import argparse
import subprocess
import sys
from time import perf_counter

import numpy as np
import onnxruntime  # type: ignore[import-untyped]


def alone(model: str, seconds: float, threads: int, rows: int) -> float:
    """Rows a second of one process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    source, target = session.get_inputs()[0], session.get_outputs()[0]
    batch = {source.name: np.zeros((rows, source.shape[1]), np.float32)}
    names = [target.name]
    session.run(names, batch)
    once = perf_counter()
    session.run(names, batch)
    step = max(1, min(1000, int(0.01 / (perf_counter() - once))))
    runs = 0
    start = perf_counter()
    while (spent := perf_counter() - start) < seconds:
        for _ in range(step):
            session.run(names, batch)
        runs += step
    return runs * rows / spent


def main() -> None:
    parser = argparse.ArgumentParser(description="A model alone, in a loop.")
    parser.add_argument("model")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1)
    asked = parser.parse_args()
    if asked.processes == 1:
        print(alone(asked.model, asked.seconds, asked.threads, asked.rows))
        return
    command = [sys.executable, __file__, asked.model, str(asked.seconds)]
    command += ["--threads", str(asked.threads), "--rows", str(asked.rows)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(asked.processes)
    ]
    print(sum(float(child.communicate(timeout=asked.seconds + 60)[0]) for child in children))


if __name__ == "__main__":
    main()

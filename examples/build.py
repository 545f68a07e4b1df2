"""Build the example artifacts: `python examples/build.py [--out DIR] [NAME ...]`.

Writes `<out>/<name>/<version>/`, the folders `fairlead publish` reads. An example is built again only
when something it is made from has changed: its own folder, this script, or the libraries that train it.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "models"
_STAMP = ".built.json"  # beside the version folders: what they were made from, and what they hold

Artifacts = tuple[dict[str, Mapping[str, bytes]], str]


@dataclass(frozen=True)
class Example:
    """One example: what makes its artifacts, and everything that goes into them."""

    name: str
    make: Callable[[], Artifacts]
    sources: tuple[str, ...]  # files and folders below examples/<name>
    libraries: tuple[str, ...] = ()


def _trained(name: str) -> Callable[[], Artifacts]:
    def make() -> Artifacts:
        # Imported here: scikit-learn takes seconds, and mostly there is nothing to do.
        module = importlib.import_module(f"examples.{name}.train")
        made: Artifacts = module.artifacts()
        return made

    return make


def _copied(name: str, *files: str) -> Callable[[], Artifacts]:
    def make() -> Artifacts:
        contents = {file: (HERE / name / file).read_bytes() for file in files}
        return {f"{name}/1": contents}, "nothing to train, it is code"

    return make


def _folders(name: str, *versions: str) -> Callable[[], Artifacts]:
    def make() -> Artifacts:
        made: dict[str, Mapping[str, bytes]] = {
            f"{name}/{version}": {
                path.name: path.read_bytes() for path in sorted((HERE / name / version).iterdir())
            }
            for version in versions
        }
        return made, "nothing to train, its voices need no weights"

    return make


_LSH_FILES = ("model.yaml", "model.py", "golden.json", "model_card")
EXAMPLES = (
    Example(
        "sentiment",
        _trained("sentiment"),
        ("train.py", "features.py", "export.py", "data"),
        ("scikit-learn", "numpy", "onnx"),
    ),
    Example(
        "digits",
        _trained("digits"),
        ("train.py",),
        ("scikit-learn", "numpy", "onnx", "skl2onnx"),
    ),
    Example("lsh", _copied("lsh", *_LSH_FILES), _LSH_FILES),
    Example("speech", _folders("speech", "1", "2"), ("1", "2")),
)


def build(out: Path, names: tuple[str, ...] = ()) -> None:
    """Bring the artifacts of the named examples (all, if none is named) up to date; one line each."""
    for example in EXAMPLES:
        if names and example.name not in names:
            continue
        started = perf_counter()
        inputs = _inputs(example)
        if _is_current(out / example.name, inputs):
            note = "up to date"
        else:
            if sys.stdout.isatty():
                print(f"build {example.name} ...", end="\r", flush=True)
            note = _write(example, out, inputs)
        print(f"build {example.name}: {note} ({perf_counter() - started:.1f} s)", flush=True)


def _inputs(example: Example) -> str:
    """One digest over everything the example's artifacts are made from."""
    digest = hashlib.sha256()
    paths = [Path(__file__)]
    for source in example.sources:
        path = HERE / example.name / source
        paths += sorted(path.iterdir()) if path.is_dir() else [path]
    for path in paths:
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for library in example.libraries:
        digest.update(f"{library}=={_version(library)}\n".encode())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        sys.exit(
            f"{library} is not installed: it trains the example models. Run `make run`, which sets "
            f"everything up, or: pip install {library}"
        )


def _is_current(folder: Path, inputs: str) -> bool:
    try:
        stamp: dict[str, Any] = json.loads((folder / _STAMP).read_bytes())
        there = {path: _sha256((folder / path).read_bytes()) for path in stamp["files"]}
        return bool(stamp["inputs"] == inputs and stamp["files"] == there)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _write(example: Example, out: Path, inputs: str) -> str:
    folder = out / example.name
    (folder / _STAMP).unlink(missing_ok=True)  # a build that dies half-way counts for nothing
    made, note = example.make()
    written = {}
    for name, files in made.items():
        for file, content in files.items():
            path = out / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed into place: two builds at once write the same bytes, and nobody reads half of them.
            beside = path.with_name(f".{file}.{os.getpid()}")
            beside.write_bytes(content)
            beside.replace(path)
            written[str(path.relative_to(folder))] = _sha256(content)
    (folder / _STAMP).write_text(json.dumps({"inputs": inputs, "files": written}, indent=1))
    return note


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the example artifacts.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="build only these examples")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where to (default: {OUT})")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {example.name for example in EXAMPLES})
    if unknown:
        known = ", ".join(example.name for example in EXAMPLES)
        parser.error(f"no example is called {unknown[0]!r}; there are: {known}")
    build(arguments.out, tuple(arguments.names))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # as a script, Python looks for imports in examples/ only
    main()

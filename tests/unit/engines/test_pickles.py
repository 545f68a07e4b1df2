"""Pickles are known by what they hold, however they are called and packed; what is none is left alone."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import pickle
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fairlead.domain.errors import FairleadError
from fairlead.engines.pickles import check_files, pickled
from support.models import scaled


@functools.cache
def model() -> object:
    from sklearn.linear_model import LogisticRegression  # late: it takes seconds

    return LogisticRegression().fit(np.eye(3), [0, 1, 0])


def pickled_model(protocol: int | None = None) -> bytes:
    return pickle.dumps(model(), protocol)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return file.getvalue()


def dumped(compress: int | tuple[str, int]) -> bytes:
    import joblib  # late, as above

    file = io.BytesIO()
    joblib.dump(model(), file, compress=compress)
    return file.getvalue()


PICKLES: dict[str, Callable[[], bytes]] = {
    **{f"protocol {one}": functools.partial(pickled_model, one) for one in range(6)},
    **{
        f"plain data {one}": functools.partial(pickle.dumps, {"a": [1, 2.5]}, one)
        for one in range(2, 6)
    },
    **{
        f"joblib {one}": functools.partial(dumped, one)
        for one in (0, 3, ("bz2", 3), ("xz", 3), ("lzma", 3))
    },
    "gzip": lambda: gzip.compress(pickled_model()),
    "twice packed": lambda: bz2.compress(lzma.compress(pickled_model())),
    "zlib": lambda: zlib.compress(pickled_model()),
    "objects": lambda: npy(np.array([model(), None], object)),
    "objects in a field": lambda: npy(np.zeros(2, dtype=[("a", "f4"), ("b", "O")])),
    "objects in an npz": lambda: npz(a=np.eye(2), b=np.array([{}], object)),
    "torch": lambda: zipped(
        archive__data_pkl=pickle.dumps(OrderedDict(a=1)), archive__version=b"3"
    ),
    "a zip with another name in it": lambda: zipped(a__weights=pickled_model()),
}
HARMLESS = {
    "empty": b"",
    "text": b"I am a text.\n",
    "a vocabulary": b"cat\ndog\n.\nc\nR\n.\n",
    "json": b'{"a": 1}',
    "onnx": scaled(),
    "numbers": npy(np.eye(3)),
    "fields": npy(np.zeros(2, dtype=[("O", "f4"), ("b", "S5")])),
    "an npz": npz(a=np.eye(3), names=np.array(["a", "b"])),
    "a zip": zipped(config_json=b"{}", README_md=b"hello"),
    "half a zip": zipped(config_json=b"{}")[:30],
    "gzip": gzip.compress(b"hello " * 1000),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_found_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(PICKLES[name]())
    assert pickled(tmp_path / "weights.bin")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_pickle_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(HARMLESS[name])
    assert pickled(tmp_path / "weights.bin") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.binary(max_size=300))
def test_any_bytes_are_looked_at_without_a_stumble(tmp_path: Path, data: bytes) -> None:
    for beginning in (b"", b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x1f\x8b", b"BZh9"):
        (tmp_path / "f").write_bytes(beginning + data)
        pickled(tmp_path / "f")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * (200 << 20))
    assert pickled(tmp_path / "f") is None
    with zipfile.ZipFile(tmp_path / "many", "w") as archive:
        for number in range(10_001):
            archive.writestr(f"{number}", b"")
    assert "too many" in (pickled(tmp_path / "many") or "")


def test_the_file_and_the_setting_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"whatever")
    with pytest.raises(FairleadError, match=r"model\.joblib is a pickle.*FAIRLEAD_ALLOW_PICKLE=1"):
        check_files(tmp_path, ["model.joblib"])


@pytest.mark.timeout(60)
def test_in_a_process_that_refuses_them_no_pickle_names_code() -> None:
    program = f"""
import pickle, io, copy, numpy as np
from fairlead.engines.pickles import PickleRefused, refuse_pickles
refuse_pickles()
assert pickle.loads({pickle.dumps({"plain": [1, 2.5]})!r}) == {{"plain": [1, 2.5]}}
copy.deepcopy(np.eye(3))
for load in (pickle.loads, lambda data: pickle._Unpickler(io.BytesIO(data)).load()):
    try:
        load({pickle.dumps(OrderedDict(a=1))!r})
    except PickleRefused as error:
        assert "collections.OrderedDict" in str(error) and "FAIRLEAD_ALLOW_PICKLE" in str(error)
    else:
        raise SystemExit("it was loaded")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)

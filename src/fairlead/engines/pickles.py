"""Pickles: found among an artifact's files, and kept from being loaded by accident.

A pickle is a program: loading one runs what its author wrote. So an artifact that holds one is refused,
when it is published and when it is loaded, unless the node says otherwise (`FAIRLEAD_ALLOW_PICKLE`).

What counts is the content: only the beginning of each file is read, and of each member of a zip. A pickle
that hides (in base64, behind a header of its own) is not found here; `refuse_pickles` then stops the
loading itself. Neither holds against malice: a code-only model is code, and may do all that its user may.
"""

from __future__ import annotations

import ast
import bz2
import functools
import lzma
import pickletools
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fairlead.domain.errors import Kind, Refused

SETTING = "FAIRLEAD_ALLOW_PICKLE"

_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle"})
_HEAD_BYTES = 1 << 20  # a block of bzip2 is only there as a whole
_UNPACKED_BYTES = 64 * 1024
_MOST_MEMBERS = 10_000  # of a zip: a model's has some hundred
_MOST_LAYERS = 3  # of compression around a file
_ENOUGH = 3  # opcodes after a header: what is no pickle stumbles before
_HEADER = re.compile(rb"\x80[\x02-\x05]", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")  # a global's module and name
_NAMES = frozenset({"GLOBAL", "INST"})
_CALLS = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"})
_NUMPY = b"\x93NUMPY"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_Read = Callable[[bytes], bytes]


def check_files(directory: Path, paths: Iterable[str]) -> None:
    """Raises Refused (INVALID), naming the file and the setting, if one of these files holds a pickle."""
    for path in paths:
        why = pickled(directory / path)
        if why is not None:
            raise Refused(Kind.INVALID, f"{path} {why}; {remedy()}")


def remedy() -> str:
    """What somebody who meets a pickle can do."""
    return (
        f"loading a pickle runs whatever code is in it: save the model as ONNX, or set {SETTING}=1 "
        "for this node if you trust everybody who may publish here"
    )


def pickled(path: Path) -> str | None:
    """Why this file counts as a pickle, as the rest of a sentence; None if it does not."""
    if path.suffix.lower() in _SUFFIXES:
        return f"is a pickle by its name (*{path.suffix.lower()})"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        why = _pickled_head(head)
        if why is None and head.startswith(_ZIP):
            file.seek(0)
            why = _pickled_member(file)
    return why


def _pickled_head(head: bytes) -> str | None:
    for _ in range(_MOST_LAYERS):
        unpacked = _unpacked(head)
        if unpacked is None:
            break
        head = unpacked
    if head.startswith(_NUMPY):
        objects = _holds_objects(head)
        return "holds Python objects, which numpy keeps as a pickle" if objects else None
    return "is a pickle" if _is_pickle(head) else None


def _holds_objects(head: bytes) -> bool:
    """Is an element of this `.npy` file an object? Its header is the text of a Python dict."""
    try:
        described = ast.literal_eval(head[head.index(b"{") : head.index(b"\n")].decode("latin-1"))
        return "O" in "".join(_types(described["descr"]))
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return True  # numpy would stumble over it too; nobody needs such a file


def _types(described: Any) -> Iterator[str]:  # noqa: ANN401 - numpy's description of a type
    if isinstance(described, str):
        yield described
    elif isinstance(described, list):
        for field in described:
            yield from _types(field[1])
    elif isinstance(described, tuple):  # a type and a shape
        yield from _types(described[0])


def _pickled_member(file: Any) -> str | None:  # noqa: ANN401 - a binary file
    """The members of a zip: torch keeps `data.pkl` in one, numpy an `.npy` for each array."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                return f"is a zip of {len(members)} files, too many to be looked through"
            for member in members:
                if PurePosixPath(member.filename).suffix.lower() in _SUFFIXES:
                    return f"holds a pickle ({member.filename!r})"
                # Only its beginning is unpacked, however large it says it is.
                with archive.open(member) as inside:
                    why = _pickled_head(inside.read(_HEAD_BYTES))
                if why is not None:
                    return f"holds {member.filename!r}, which {why}"
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, zlib.error):
        return None  # nothing that could be loaded from a zip
    return None


def _is_pickle(head: bytes) -> bool:
    """Does this start as a pickle does? Protocols from 2 on say so; older ones must be whole and call something."""
    seen: set[str] = set()
    named = False
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(head):
            count += 1
            seen.add(opcode.name)
            named = named or (opcode.name in _NAMES and _NAME.fullmatch(str(argument)) is not None)
    except Exception:  # noqa: BLE001 - cut off, or no pickle: what was read until then decides
        return _HEADER.match(head) is not None and count > _ENOUGH
    if _HEADER.match(head) is not None:
        return True
    return named and bool(seen & _CALLS)


def _unpacked(head: bytes) -> bytes | None:
    """The beginning of what is compressed here; None if nothing is."""
    for magic, unpack in _PACKERS:
        if head.startswith(magic):
            try:
                return unpack(head) or None
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                return None
    return None


def _inflate(wbits: int, data: bytes) -> bytes:
    return zlib.decompressobj(wbits).decompress(data, _UNPACKED_BYTES)


def _bunzip(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, _UNPACKED_BYTES)


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=1 << 27).decompress(data, _UNPACKED_BYTES)


_PACKERS: tuple[tuple[bytes, _Read], ...] = (
    (b"\x1f\x8b", functools.partial(_inflate, 31)),
    (b"\x78", functools.partial(_inflate, 15)),
    (b"BZh", _bunzip),
    (b"\xfd7zXZ\0", _unxz),
    (b"\x5d\0\0", _unxz),
)


class PickleRefused(Exception):
    """A model's code wanted to load a pickle that names code of its own."""


def refuse_pickles() -> None:
    """From now on, no pickle that names a class or a function can be loaded in this process.

    For good: such a hook cannot be taken away. Plain data (lists, numbers, texts) still loads.
    """
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        module, name = arguments[:2]
        raise PickleRefused(
            f"the model's code loads a pickle that names {module}.{name}; {remedy()}"
        )

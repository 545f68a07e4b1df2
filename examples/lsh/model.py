"""The LSH fingerprint of a text: two texts that share one of its strings are probably near-duplicates.

The text is cut into overlapping runs of words (shingles); MinHash keeps, for each of `num_perm`
hash functions, the smallest hash of any shingle, so that two texts agree in a place as often as their
shingles overlap. The places are then folded into bands, one string each, sized so that texts more
alike than `threshold` are likely to share a band and others are not.
"""

import functools
import hashlib
import pathlib
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic

# Articles say nothing about what a text is about, and editors change them freely.
_ARTICLES = {
    "en": {"a", "an", "the"},
    "de": {
        "der",
        "die",
        "das",
        "den",
        "dem",
        "des",
        "ein",
        "eine",
        "einen",
        "einem",
        "einer",
        "eines",
    },
    "fr": {"le", "la", "les", "l", "un", "une", "des", "du"},
    "es": {"el", "la", "los", "las", "un", "una", "unos", "unas"},
}
_WORDS = re.compile(r"\w+")
_MAX_CHARACTERS = 1_000_000  # a long book; keeps one request to about a second
_CHUNK = 4096  # shingles hashed at once: 4 MiB at 128 hash functions
_STEPS = 200  # of the integral behind the choice of bands

Hashes = npt.NDArray[np.uint64]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Configuration(_Strict):
    """How to fingerprint; only fingerprints made with the same configuration compare."""

    language: Literal["en", "de", "fr", "es"] = "en"
    shingle_list: int = pydantic.Field(5, ge=1, le=50, description="words in a shingle")
    threshold: float = pydantic.Field(0.6, gt=0, lt=1, description="overlap that counts as alike")
    num_perm: int = pydantic.Field(128, ge=2, le=512, description="hash functions")


class Inputs(_Strict):
    content: str = pydantic.Field(max_length=_MAX_CHARACTERS)


class Request(_Strict):
    configuration: Configuration = Configuration()
    inputs: Inputs


class Response(_Strict):
    """`signature` is null for a text of fewer words (articles aside) than one shingle takes."""

    signature: list[str] | None


class Model:
    """What Fairlead loads: `load` once, `predict` for every request."""

    def load(self, directory: pathlib.Path) -> None:
        """Nothing to read: this model is its code."""

    def predict(self, request: Request) -> Response:
        settings = request.configuration
        shingles = shingle_hashes(request.inputs.content, settings.language, settings.shingle_list)
        if shingles.size == 0:
            return Response(signature=None)
        bands, rows = best_bands(settings.threshold, settings.num_perm)
        smallest = min_hashes(shingles, settings.num_perm)[: bands * rows].reshape(bands, rows)
        return Response(signature=[_digest(band.tobytes()).hex() for band in smallest])


def shingle_hashes(text: str, language: str, length: int) -> Hashes:
    """One 64-bit hash for each different run of `length` words."""
    articles = _ARTICLES[language]
    words = [word for word in _WORDS.findall(text.casefold()) if word not in articles]
    shingles = {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}
    return np.array([_number(shingle) for shingle in shingles], dtype=np.uint64)


def min_hashes(shingles: Hashes, count: int) -> Hashes:
    """For each of `count` hash functions, the smallest hash of any shingle."""
    seeds = _seeds(count)
    smallest = np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, shingles.size, _CHUNK):
        mixed = shingles[start : start + _CHUNK, None] ^ seeds
        # Two rounds of multiply and fold: one flipped bit of the seed changes half of all bits.
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        np.minimum(smallest, (mixed ^ (mixed >> np.uint64(31))).min(axis=0), out=smallest)
    return smallest


@functools.lru_cache(maxsize=256)
def best_bands(threshold: float, count: int) -> tuple[int, int]:
    """Bands and rows per band (at most `count` places) that err least around `threshold`.

    With overlap s, a band of r rows agrees with chance s**r, and one of b bands with 1-(1-s**r)**b.
    The error is the area under that curve below the threshold plus the area above it beyond.
    """
    low = (np.arange(_STEPS) + 0.5) / _STEPS * threshold
    high = threshold + (np.arange(_STEPS) + 0.5) / _STEPS * (1 - threshold)

    def error(choice: tuple[int, int]) -> float:
        bands, rows = choice
        wrongly = float(np.mean(1 - (1 - low**rows) ** bands)) * threshold
        missed = float(np.mean((1 - high**rows) ** bands)) * (1 - threshold)
        return wrongly + missed

    choices = [
        (bands, rows) for rows in range(1, count + 1) for bands in range(1, count // rows + 1)
    ]
    return min(choices, key=error)


@functools.lru_cache(maxsize=256)
def _seeds(count: int) -> Hashes:
    return np.array(
        [_number(f"hash function {number}") for number in range(count)], dtype=np.uint64
    )


def _number(text: str) -> int:
    return int.from_bytes(_digest(text.encode(errors="surrogatepass")), "little")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()

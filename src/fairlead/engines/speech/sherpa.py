"""sherpa-onnx: neural voices (VITS and so Piper, Matcha, Kokoro) from the files of the artifact.

It comes with the extra `speech-neural`. It makes sound a sentence at a time, and each sentence is handed over as
soon as it is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairlead.engines.speech.synthesizer import Cannot, Emit

_LOUDEST = 32767
_PIECE_SAMPLES = 4096  # handed over at once, so that somebody who leaves is noticed
# What of an artifact each kind of model is made of: the setting's name, and whether it must be there.
_FILES: Mapping[str, Mapping[str, bool]] = {
    "vits": {"model": True, "tokens": True, "lexicon": False, "data_dir": False},
    "matcha": {
        "acoustic_model": True,
        "vocoder": True,
        "tokens": True,
        "lexicon": False,
        "data_dir": False,
    },
    "kokoro": {"model": True, "voices": True, "tokens": True, "lexicon": False, "data_dir": False},
}


class Sherpa:
    """`settings.kind` says what model it is; the other settings name its files, from the artifact's folder on."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        try:
            import sherpa_onnx  # type: ignore[import-untyped] # noqa: PLC0415 - an extra; it ships no types
        except ImportError:
            message = "sherpa-onnx is not installed here; it comes with the extra: pip install 'fairlead[speech-neural]'"
            raise Cannot(message) from None
        settings = dict(order.get("settings", {}))
        kind = settings.pop("kind", None)
        if kind not in _FILES:
            raise Cannot(f"settings.kind is {kind!r}; write one of {', '.join(_FILES)}")
        paths = _paths(kind, settings, Path(order["directory"]))
        kinds = {
            "vits": sherpa_onnx.OfflineTtsVitsModelConfig,
            "matcha": sherpa_onnx.OfflineTtsMatchaModelConfig,
            "kokoro": sherpa_onnx.OfflineTtsKokoroModelConfig,
        }
        model = sherpa_onnx.OfflineTtsModelConfig(
            **{kind: kinds[kind](**paths)}, num_threads=max(1, int(order.get("threads", 1)))
        )
        config = sherpa_onnx.OfflineTtsConfig(model=model, max_num_sentences=1)
        if not config.validate():
            raise Cannot(f"sherpa-onnx refuses the files of this {kind} model; its log says why")
        try:
            self._voice = sherpa_onnx.OfflineTts(config)
        except Exception as error:  # noqa: BLE001 - the library's own classes share no base but this
            raise Cannot(f"sherpa-onnx cannot load this {kind} model: {error}") from None
        self.rate: int = self._voice.sample_rate

    def lacks(self, voices: Sequence[Any]) -> list[Any]:
        """Its voices are numbers."""
        there = range(max(1, self._voice.num_speakers))
        return [one for one in voices if type(one) is not int or one not in there]

    def say(self, order: Mapping[str, Any], emit: Emit) -> None:
        for segment in order["segments"]:
            gain = math.pow(10, segment["loudness"] / 20)
            speed = order["speed"] * segment["tempo"]
            if not self._say(segment["text"], (order["voice"], speed, gain), emit):
                return

    def _say(self, text: str, how: tuple[int, float, float], emit: Emit) -> bool:
        voice, speed, gain = how
        going_on = True

        def made(samples: Any, _progress: float) -> int:  # noqa: ANN401 - an array of the library's
            nonlocal going_on
            whole = np.clip(np.asarray(samples, np.float32) * gain, -1.0, 1.0) * _LOUDEST
            for start in range(0, len(whole), _PIECE_SAMPLES):
                piece = whole[start : start + _PIECE_SAMPLES].astype("<i2")
                try:
                    going_on = going_on and emit(piece.tobytes())
                except OSError:
                    going_on = False
                if not going_on:
                    return 0
            return 1

        if text.strip():
            self._voice.generate(text, sid=voice, speed=speed, callback=made)
        return going_on


def _paths(kind: str, settings: Mapping[str, Any], directory: Path) -> dict[str, str]:
    known = _FILES[kind]
    for name in settings:
        if name not in known:
            raise Cannot(
                f"settings.{name} is not known of a {kind} model; it has {', '.join(known)}"
            )
    found = {}
    for name, required in known.items():
        if name not in settings and required:
            raise Cannot(f"settings.{name} is missing; name the file of the artifact")
        if name in settings:
            path = (directory / str(settings[name])).resolve()
            if not path.is_relative_to(directory.resolve()) or not path.exists():
                raise Cannot(f"settings.{name}: {settings[name]!r} is not in the artifact")
            found[name] = str(path)
    return found

"""`voice.json`: which synthesizer an artifact is for, and its speakers.

Public ids are the places in a list, so they have no gaps and are never renumbered: a voice that is withdrawn keeps its
place. Custom voices have ids of their own, large ones, best chosen at random, so that nobody guesses them (S0-33).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlead.domain.reading import Node, read_json

SYNTHESIZERS = ("espeak-ng", "sherpa-onnx", "tone")
FIRST_CUSTOM = 10_000  # public ids stay below
_CUSTOM = re.compile(r"[1-9][0-9]{4,17}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")
_SETTINGS = ("rate", "pitch")
_KEYS = ("synthesizer", "speakers", "custom", "settings", "characters")
_SPEAKER_KEYS = ("name", "voice", "language", "aliases", "settings", "withdrawn")


@dataclass(frozen=True, slots=True)
class Speaker:
    """One voice as callers know it. `voice` is what its synthesizer calls it."""

    name: str
    voice: str | int
    language: str = "en"
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class VoiceFile:
    """A synthesizer, its settings, its speakers by id, and the characters it takes beyond the usual ones."""

    synthesizer: str
    speakers: Mapping[int, Speaker]
    settings: Mapping[str, Any] = field(default_factory=dict)
    characters: str = ""

    def names(self) -> Mapping[str, int]:
        """What each speaker that can speak is called, in small letters."""
        found: dict[str, int] = {}
        for number, speaker in self.speakers.items():
            if not speaker.withdrawn:
                for name in (speaker.name, *speaker.aliases):
                    found.setdefault(name.lower(), number)
        return found


def voice_file(data: bytes, source: str) -> VoiceFile:
    """Read `voice.json`; raises InvalidInput with every problem."""
    document = read_json(data, source, "write one JSON object")
    node = Node(document)
    node.mapping(_KEYS, ["synthesizer", "speakers"])
    synthesizer = node.child("synthesizer").one_of(SYNTHESIZERS)
    speakers = {
        number: _speaker(child) for number, child in enumerate(node.child("speakers").elements())
    }
    if node.has("custom") and node.child("custom").mapping():
        for name, child in node.child("custom").items():
            if not _CUSTOM.fullmatch(name):
                child.wrong(
                    "is no id of a custom voice",
                    f"write a number from {FIRST_CUSTOM} up, of at most 18 digits",
                )
                continue
            speakers[int(name)] = _speaker(child)
    settings = node.child("settings").value if node.has("settings") else {}
    if not isinstance(settings, Mapping):
        node.child("settings").wrong("is no object", "write the synthesizer's settings by name")
        settings = {}
    characters = node.child("characters").text() if node.has("characters") else ""
    _check_names(node, speakers)
    node.done(source)
    return VoiceFile(synthesizer, speakers, settings, characters)


def _speaker(node: Node) -> Speaker:
    node.mapping(_SPEAKER_KEYS, ["name", "voice"])
    voice = node.child("voice").value
    if type(voice) not in (str, int):
        node.child("voice").wrong("is no voice", "write its name, or its number in the model")
    withdrawn = node.child("withdrawn").value if node.has("withdrawn") else False
    if type(withdrawn) is not bool:
        node.child("withdrawn").wrong("is neither true nor false", "write true or leave it out")
    settings = {}
    if node.has("settings") and node.child("settings").mapping(_SETTINGS):
        settings = {name: child.number() for name, child in node.child("settings").items()}
    language = node.child("language")
    return Speaker(
        node.child("name").text(),
        voice if isinstance(voice, str | int) else "",
        language.text(_LANGUAGE, "write a language tag: en, en-us")
        if node.has("language")
        else "en",
        tuple(one.text() for one in node.child("aliases").elements())
        if node.has("aliases")
        else (),
        settings,
        withdrawn is True,
    )


def _check_names(node: Node, speakers: Mapping[int, Speaker]) -> None:
    """A name that two speakers have would be one of them by chance."""
    owner: dict[str, int] = {}
    for number, speaker in speakers.items():
        for name in (speaker.name, *speaker.aliases):
            first = owner.setdefault(name.lower(), number)
            if first != number and not speaker.withdrawn:
                node.child("speakers").wrong(
                    f"call {first} and {number} {name!r}", "a name for each"
                )
    if not speakers:
        node.child("speakers").wrong("is empty", "name at least one speaker")

"""Respelling: how a word sounds, in plain letters: `suh-SPEL-ing`, the stressed syllable in capitals.

Syllables are read from left to right, the longest spelling first, and become phonemes as espeak-ng's English voices
know them. docs/guides/speech.md holds the guide for people.
"""

from __future__ import annotations

VOWELS = {
    "ah": "A:",
    "air": "e@",
    "ar": "A@",
    "aw": "O:",
    "ay": "eI",
    "ee": "i:",
    "eer": "i@",
    "eh": "E",
    "er": "3:",
    "eye": "aI",
    "igh": "aI",
    "ih": "I",
    "oh": "oU",
    "oo": "u:",
    "oor": "U@",
    "or": "O@",
    "ow": "aU",
    "oy": "OI",
    "uh": "V",
    "ur": "3:",
    "uu": "U",
    "a": "a",
    "e": "E",
    "i": "I",
    "o": "0",
    "u": "V",
    "y": "aI",
}
CONSONANTS = {
    "b": "b",
    "c": "k",
    "ch": "tS",
    "ck": "k",
    "d": "d",
    "dh": "D",
    "f": "f",
    "g": "g",
    "h": "h",
    "j": "dZ",
    "k": "k",
    "l": "l",
    "m": "m",
    "n": "n",
    "ng": "N",
    "nk": "Nk",
    "p": "p",
    "ph": "f",
    "q": "k",
    "r": "r",
    "s": "s",
    "sh": "S",
    "t": "t",
    "tch": "tS",
    "th": "T",
    "v": "v",
    "w": "w",
    "wh": "w",
    "x": "ks",
    "z": "z",
    "zh": "Z",
}
_SOUNDS = {**CONSONANTS, **VOWELS}
_LONGEST = 3


def is_respelling(text: str) -> bool:
    """Letters in syllables, each all small or all capitals, joined by single hyphens."""
    syllables = text.split("-")
    return text.isascii() and all(
        one.isalpha() and (one.islower() or one.isupper()) for one in syllables
    )


def phonemes_of(respelling: str) -> str:
    """A well-formed respelling as espeak-ng's phonemes, the stress before its vowel."""
    syllables = respelling.split("-")
    stressed = [one.isupper() for one in syllables]
    if len(syllables) == 1:
        stressed = [True]
    return "".join(
        _syllable(one.lower(), stress=mark) for one, mark in zip(syllables, stressed, strict=True)
    )


def _syllable(letters: str, *, stress: bool) -> str:
    found, at, voiced = [], 0, False
    while at < len(letters):
        spelling = _longest(letters, at)
        at += len(spelling)
        if spelling == "y" and not voiced and at < len(letters) and _longest(letters, at) in VOWELS:
            found.append("j")
            continue
        sound = _SOUNDS[spelling]
        if spelling in VOWELS:
            if spelling == "uh" and not stress:
                sound = "@"
            if stress and not voiced:
                sound = f"'{sound}"
            voiced = True
        elif found and found[-1] == sound:
            continue  # a letter written twice is one sound
        found.append(sound)
    return "".join(found)


def _longest(letters: str, at: int) -> str:
    """Every single letter has a sound, so one is always found."""
    return next(
        part
        for length in range(_LONGEST, 0, -1)
        if len(part := letters[at : at + length]) == length and part in _SOUNDS
    )

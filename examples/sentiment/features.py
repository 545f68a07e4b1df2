"""How a text becomes countable terms, said once for scikit-learn and matched by the ONNX graph.

Only ASCII letters are lower-cased and only ASCII words are counted. That is what the graph's string
operators do in every locale, the bare "C" of a fresh container included, so both sides agree to the
last term on any text.
"""

import re
from string import ascii_lowercase, ascii_uppercase

WORD = "[a-z']+"  # the Tokenizer operator takes the same expression
_WORDS = re.compile(WORD)
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


class Terms:
    """An analyzer for scikit-learn's vectorizers: all runs of `least` to `most` words or characters.

    A term is a tuple of its parts, so that the ONNX graph, which looks at parts, can be built from
    the vocabulary.
    """

    def __init__(self, kind: str, least: int, most: int) -> None:
        self.kind = kind  # "words" or "characters"
        self.least = least
        self.most = most

    def __call__(self, text: str) -> list[tuple[str, ...]]:
        lower = text.translate(_LOWER)
        parts = _WORDS.findall(lower) if self.kind == "words" else list(lower)
        return [
            tuple(parts[start : start + length])
            for length in range(self.least, self.most + 1)
            for start in range(len(parts) - length + 1)
        ]

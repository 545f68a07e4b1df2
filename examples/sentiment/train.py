"""Train the three sentiment models and write them as artifacts. Run by `examples/build.py`.

1 counts single words; 2 adds pairs of words ("not good"); 3 adds runs of characters, which see
through misspellings. All three are logistic regressions on the same sentences.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import FeatureUnion, Pipeline  # type: ignore[import-untyped]

# scikit-learn brings it along.
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from examples.sentiment import export
from examples.sentiment.features import Terms

DATA = Path(__file__).parent / "data"
# Coefficients are kept to this many decimals: it costs no accuracy, and the same data gives the
# same bytes even where a linear algebra library differs in the last bits.
_DECIMALS = 4
_GOLDEN = (
    "What a wonderful little bakery, I loved the fresh bread.",
    "The train was late, dirty and very uncomfortable.",
    "Not a single dish was good.",
    "It is old, but it still works perfectly.",
    "",  # no term at all: the intercept decides
    "The new phoone is slow and the staaff were rude.",  # misspelled
)


@dataclass(frozen=True)
class Recipe:
    """One model: its artifact version, what it is, its feature blocks and how much it may fit."""

    version: int
    description: str
    blocks: tuple[tuple[Terms, float], ...]  # each with its share in the union
    tfidf: bool
    least_documents: int
    strength: float  # scikit-learn's C


RECIPES = (
    Recipe(
        version=1,
        description="single words, counted",
        blocks=((Terms("words", 1, 1), 1.0),),
        tfidf=False,
        least_documents=2,
        strength=1.0,
    ),
    Recipe(
        version=2,
        description="words and pairs of words",
        blocks=((Terms("words", 1, 2), 1.0),),
        tfidf=True,
        least_documents=1,
        strength=10.0,
    ),
    Recipe(
        version=3,
        description="words, pairs of words and runs of 2 to 4 characters",
        blocks=((Terms("words", 1, 2), 1.0), (Terms("characters", 2, 4), 0.5)),
        tfidf=True,
        least_documents=1,
        strength=10.0,
    ),
)


def read(name: str) -> tuple[list[str], list[str]]:
    """Texts and labels of `data/<name>.tsv`."""
    lines = (DATA / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [text for _, text in rows], [label for label, _ in rows]


def misspell(text: str) -> str:
    """The same text with two letters in the middle of its longest word swapped."""
    words = text.split(" ")
    longest = max(range(len(words)), key=lambda index: len(words[index].strip(".,")))
    word = words[longest]
    middle = len(word.strip(".,")) // 2
    if middle + 1 < len(word):
        words[longest] = word[:middle] + word[middle + 1] + word[middle] + word[middle + 2 :]
    return " ".join(words)


def train(recipe: Recipe, texts: Sequence[str], labels: Sequence[str]) -> Pipeline:
    """Fit one recipe; same data in, same model out."""
    kind = TfidfVectorizer if recipe.tfidf else CountVectorizer
    union = FeatureUnion(
        [
            (f"b{number}", kind(analyzer=terms, min_df=recipe.least_documents))
            for number, (terms, _) in enumerate(recipe.blocks)
        ],
        transformer_weights={
            f"b{number}": share for number, (_, share) in enumerate(recipe.blocks)
        },
    )
    classifier = LogisticRegression(C=recipe.strength, max_iter=3000, tol=1e-8, random_state=0)
    pipeline = Pipeline([("features", union), ("classifier", classifier)])
    with threadpool_limits(limits=1):  # on data this small more threads only wait for each other
        pipeline.fit(texts, labels)
    classifier.coef_ = np.round(classifier.coef_, _DECIMALS)
    classifier.intercept_ = np.round(classifier.intercept_, _DECIMALS)
    return pipeline


def to_onnx(recipe: Recipe, pipeline: Pipeline) -> bytes:
    """The fitted pipeline as an ONNX model with the same answers."""
    classifier = pipeline["classifier"]
    branches = []
    start = 0
    for (terms, share), (_, vectorizer) in zip(
        recipe.blocks, pipeline["features"].transformer_list, strict=True
    ):
        stop = start + len(vectorizer.vocabulary_)
        branches.append(
            export.Branch(
                terms=terms,
                vocabulary={term: int(column) for term, column in vectorizer.vocabulary_.items()},
                idf=vectorizer.idf_.astype(np.float32) if recipe.tfidf else None,
                weights=(classifier.coef_[0, start:stop] * share).astype(np.float32),
            )
        )
        start = stop
    return export.to_onnx(branches, float(classifier.intercept_[0]))


def answers(pipeline: Pipeline, texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """Label and probability of that label, by scikit-learn."""
    chances: npt.NDArray[np.float64] = pipeline.predict_proba(texts)
    best = chances.argmax(axis=1)
    names = [str(pipeline.classes_[index]) for index in best]
    return names, [float(row[index]) for row, index in zip(chances, best, strict=True)]


def accuracy(pipeline: Pipeline, texts: Sequence[str], labels: Sequence[str]) -> float:
    """Share of texts that get their label."""
    found, _ = answers(pipeline, texts)
    return round(sum(map(str.__eq__, found, labels)) / len(labels), 4)


def artifacts() -> tuple[dict[str, Mapping[str, bytes]], str]:
    """Files of each artifact by `<name>/<version>`, and a line about how good they are."""
    texts, labels = read("train")
    test_texts, test_labels = read("test")
    wrong_texts = [misspell(text) for text in test_texts]
    found: dict[str, Mapping[str, bytes]] = {}
    notes = []
    for recipe in RECIPES:
        pipeline = train(recipe, texts, labels)
        card: dict[str, Any] = {
            "name": "sentiment",
            "version": recipe.version,
            "model_type": "trained",
            "description": f"Sentiment of a short English text: logistic regression on {recipe.description}",
            "labels": [str(label) for label in pipeline.classes_],
            "training": {"sentences": len(texts), "terms": int(pipeline["classifier"].coef_.size)},
            "held_out": {
                "sentences": len(test_texts),
                "accuracy": accuracy(pipeline, test_texts, test_labels),
                "accuracy_misspelled": accuracy(pipeline, wrong_texts, test_labels),
            },
            "limits": "Short reviews in English. Other languages and irony get an answer that means nothing.",
        }
        found[f"sentiment/{recipe.version}"] = _files(recipe, pipeline, card)
        scores = card["held_out"]
        notes.append(
            f"{recipe.version}: {scores['accuracy']:.1%} ({scores['accuracy_misspelled']:.1%} misspelled)"
        )
    return found, f"right on {len(test_texts)} held-out sentences: " + ", ".join(notes)


def _files(recipe: Recipe, pipeline: Pipeline, card: Mapping[str, Any]) -> Mapping[str, bytes]:
    found, scores = answers(pipeline, _GOLDEN)
    examples = [
        {
            "request": {"text": [text]},
            "response": {"label": [label], "score": [round(score, 6)]},
        }
        for text, label, score in zip(_GOLDEN, found, scores, strict=True)
    ]
    settings = (
        f"name: sentiment\nversion: {recipe.version}\nengine: onnx\nfile: model.onnx\n"
        f"description: {json.dumps(card['description'])}\n"
    )
    golden = {"tolerance": {"score": 1e-4}, "examples": examples}
    return {
        "model.yaml": settings.encode(),
        "model.onnx": to_onnx(recipe, pipeline),
        "golden.json": json.dumps(golden, indent=1).encode() + b"\n",
        "model_card": json.dumps(card, indent=1).encode() + b"\n",
    }

"""A linear text classifier as one ONNX graph: a string tensor in, a label and its probability out.

The graph is written by hand, since general converters do not reproduce scikit-learn's tokenisation
exactly: lower-case -> tokenise -> count terms (x idf, / norm) -> weigh -> sigmoid -> name the class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.sentiment.features import WORD, Terms

# The newest operators used here are opset 18's (ReduceL2); older runtimes may load the file.
_OPSETS = [("", 18), ("com.microsoft", 1)]
_IR_VERSION = 8
_LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Branch:
    """One block of features: its terms with their columns, idf if any, and what each column weighs."""

    terms: Terms
    vocabulary: dict[tuple[str, ...], int]
    idf: npt.NDArray[np.float32] | None  # with idf, the block is scaled to length 1 as well
    weights: npt.NDArray[np.float32]


def to_onnx(branches: Sequence[Branch], intercept: float) -> bytes:
    """The graph: `text` BYTES [-1] -> `label` BYTES [-1], `score` FP32 [-1] (of that label)."""
    graph = _Graph()
    graph.node("StringNormalizer", ["text"], "lower", case_change_action="LOWER", locale="C")
    margin = graph.constant("intercept", np.array([[intercept]], np.float32))
    for number, branch in enumerate(branches):
        block = _block(graph, branch, f"b{number}")
        margin = graph.node("Add", [margin, block], f"margin{number}")
    _answer(graph, margin)
    batch = ["batch"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "sentiment",
            [helper.make_tensor_value_info("text", TensorProto.STRING, batch)],
            [
                helper.make_tensor_value_info("label", TensorProto.STRING, batch),
                helper.make_tensor_value_info("score", TensorProto.FLOAT, batch),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in _OPSETS],
        ir_version=_IR_VERSION,
        producer_name="fairlead-examples",
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and constants as they are added; each node has one output, whose name is returned."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:  # noqa: ANN401 - an operator's attributes are of any type
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _block(graph: _Graph, branch: Branch, name: str) -> str:
    """One branch's share of the margin, [batch, 1]."""
    split: dict[str, Any] = (
        {"tokenexp": WORD} if branch.terms.kind == "words" else {"separators": [""]}
    )
    parts = graph.node(
        "Tokenizer",
        ["lower"],
        f"{name}_parts",
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value="",  # never a term: every term has at least one character
        **split,
    )
    features = graph.node(
        "TfIdfVectorizer", [parts], f"{name}_features", **_vectorizer(branch), max_skip_count=0
    )
    if branch.idf is not None:
        axis = graph.constant(f"{name}_axis", np.array([1], np.int64))
        tiny = graph.constant(f"{name}_tiny", np.array([1e-12], np.float32))  # a text without terms
        norm = graph.node("ReduceL2", [features, axis], f"{name}_norm", keepdims=1)
        divisor = graph.node("Max", [norm, tiny], f"{name}_divisor")
        features = graph.node("Div", [features, divisor], f"{name}_unit")
    column = graph.constant(f"{name}_weights", branch.weights.reshape(-1, 1))
    return graph.node("MatMul", [features, column], f"{name}_margin")


def _vectorizer(branch: Branch) -> dict[str, Any]:
    """Attributes of the operator: the pool lists terms by length, the indexes give their columns."""
    terms = sorted(branch.vocabulary, key=lambda term: (len(term), branch.vocabulary[term]))
    pool: list[str] = []
    starts = []
    for length in range(1, branch.terms.most + 1):
        starts.append(len(pool))
        pool += [part for term in terms if len(term) == length for part in term]
    columns = [branch.vocabulary[term] for term in terms]
    attributes: dict[str, Any] = {
        "mode": "TF",
        "min_gram_length": branch.terms.least,
        "max_gram_length": branch.terms.most,
        "ngram_counts": starts,
        "ngram_indexes": columns,
        "pool_strings": pool,
    }
    if branch.idf is not None:
        # The operator takes a weight per pool entry, not per column.
        attributes |= {
            "mode": "TFIDF",
            "weights": [float(branch.idf[column]) for column in columns],
        }
    return attributes


def _answer(graph: _Graph, margin: str) -> None:
    flat = graph.constant("flat", np.array([-1], np.int64))
    zero = graph.constant("zero", np.array(0, np.float32))
    negative, positive = (graph.constant(label, np.array(label, np.object_)) for label in _LABELS)
    row = graph.node("Reshape", [margin, flat], "row")
    wins = graph.node("Greater", [row, zero], "wins")
    graph.node("Where", [wins, positive, negative], "label")
    # sigmoid(|margin|) is the probability of whichever label won.
    graph.node("Sigmoid", [graph.node("Abs", [row], "distance")], "score")

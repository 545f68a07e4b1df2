"""Which dimensions of a model's answers are as long as a padded input, learned by asking it at several lengths.

A size does not say where it comes from: four scores are as many as a text of four words has. So golden
examples are asked again with other lengths, each on its own, and a dimension belongs to the length it moves
with. One that moves otherwise cannot be cut to what it would have been alone: such a model is not padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.errors import FairleadError

Dimension = tuple[str, int]  # an input's name, and which of its dimensions
Lengths = tuple[int, ...]  # of one request: of the dimensions that may be padded, in order
Group = tuple[int, ...]  # places in `Lengths` that always hold the same
_Shapes = Mapping[str, tuple[int, ...]]  # of an answer's tensors, behind their rows
_Seen = tuple[Lengths, _Shapes]


class _Size(NamedTuple):
    """Of one dimension of an output: as long as the padded dimension at `place`, or else always `fixed`."""

    place: int | None
    fixed: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of a model's lengths. `least` are the shortest it was seen to answer."""

    groups: tuple[Group, ...]
    least: Lengths
    sizes: Mapping[str, tuple[_Size, ...]]

    def covers(self, lengths: Lengths) -> bool:
        """Is a request of these lengths one of those that were learned from, so that it may be padded?

        Lengths that were always the same belong together, such as a text's and its mask's. A request in which they
        differ is wrong, or broadcast: padded, it would be neither.
        """
        return all(map(int.__ge__, lengths, self.least)) and all(
            lengths[place] == lengths[group[0]] for group in self.groups for place in group
        )

    def shape(self, output: str, lengths: Lengths) -> tuple[int, ...]:
        """What an answer of these lengths has behind its rows."""
        return tuple(
            size.fixed if size.place is None else lengths[size.place] for size in self.sizes[output]
        )


def lengths_of(request: InferRequest, padded: Sequence[Dimension]) -> Lengths:
    return tuple(request.tensors[name].shape[axis] for name, axis in padded)


def stretched(
    request: InferRequest, padded: Sequence[Dimension], lengths: Mapping[int, int]
) -> InferRequest:
    """The same with other lengths at some places: its values over again, as far as they go."""
    tensors = dict(request.tensors)
    for place, length in lengths.items():
        name, axis = padded[place]
        values = np.arange(length) % tensors[name].shape[axis]
        tensors[name] = np.take(tensors[name], values, axis)
    return InferRequest(tensors)


def learn(
    ask: Callable[[InferRequest], InferResponse],
    requests: Sequence[InferRequest],
    padded: Sequence[Dimension],
) -> Learned | str:
    """What these golden examples, and the first of them with other lengths, show; why it is not enough, in words."""
    every = [lengths_of(request, padded) for request in requests]
    first = next((number for number, own in enumerate(every) if all(own)), None)
    if first is None:
        return "no golden example has values in all inputs that are padded"
    seen: list[_Seen] = [
        (own, _shapes(ask(request))) for own, request in zip(every, requests, strict=True)
    ]
    groups = _groups(every)
    for group in groups:
        found = _tried(ask, requests[first], padded, group)
        # One is not enough: many operators take a length of one for any other.
        if not any(lengths[group[0]] > 1 for lengths, _ in found):
            names = " and ".join(sorted({repr(padded[place][0]) for place in group}))
            length = every[first][group[0]]
            return f"{names} cannot be padded: the model answers no other length than {length}, its golden example's"
        seen += found
    sizes = {}
    for name in seen[0][1]:
        own_sizes = _sizes(name, seen, groups, padded)
        if isinstance(own_sizes, str):
            return own_sizes
        sizes[name] = own_sizes
    least = tuple(min(lengths[place] for lengths, _ in seen) for place in range(len(padded)))
    return Learned(groups, least, sizes)


def _groups(every: Sequence[Lengths]) -> tuple[Group, ...]:
    """Places whose lengths are the same in every example: they may have to be, and nothing says otherwise."""
    groups: dict[Lengths, list[int]] = {}
    for place, column in enumerate(zip(*every, strict=True)):
        groups.setdefault(column, []).append(place)
    return tuple(map(tuple, groups.values()))


def _tried(
    ask: Callable[[InferRequest], InferResponse],
    request: InferRequest,
    padded: Sequence[Dimension],
    group: Group,
) -> list[_Seen]:
    """The request with other lengths of this group, as far as the model answers them."""
    own = lengths_of(request, padded)[group[0]]
    found = []
    # The odd ones find sizes that are rounded up; a model that wants multiples of something answers twice the length.
    for length in sorted({1, own - 1, own + 1, 2 * own} - {0, own}):
        other = stretched(request, padded, dict.fromkeys(group, length))
        try:
            found.append((lengths_of(other, padded), _shapes(ask(other))))
        except FairleadError:
            continue  # nobody said that the model can answer it
    return found


def _sizes(
    name: str, seen: Sequence[_Seen], groups: Sequence[Group], padded: Sequence[Dimension]
) -> tuple[_Size, ...] | str:
    shapes = [shapes[name] for _, shapes in seen]
    if len(set(map(len, shapes))) > 1:
        return f"output {name!r} has not always the same number of dimensions"
    sizes = []
    for axis, column in enumerate(zip(*shapes, strict=True)):
        follows = [
            group[0]
            for group in groups
            if all(
                lengths[group[0]] == size for (lengths, _), size in zip(seen, column, strict=True)
            )
        ]
        if len(follows) == 1:
            sizes.append(_Size(follows[0], 0))
        elif len(set(column)) == 1:
            sizes.append(_Size(None, column[0]))
        else:
            return _unclear(name, axis, column, seen, padded)
    return tuple(sizes)


def _unclear(
    name: str,
    axis: int,
    column: Sequence[int],
    seen: Sequence[_Seen],
    padded: Sequence[Dimension],
) -> str:
    other = next(number for number, size in enumerate(column) if size != column[0])
    told = []
    for number in (0, other):
        lengths = zip(padded, seen[number][0], strict=True)
        where = ", ".join(f"{name!r} is {length} long" for (name, _), length in lengths)
        told.append(f"{column[number]} where {where}")
    return (
        f"dimension {axis + 1} of output {name!r} is neither as long as one padded input nor always the same: "
        f"{told[0]}, {told[1]}; what padding adds to it cannot be told apart"
    )


def _shapes(answer: InferResponse) -> _Shapes:
    return {name: tensor.shape[1:] for name, tensor in answer.tensors.items()}

"""What stands for the objects of a checkpoint while its instructions are followed on paper.

Here: the stand-ins, what they are called in a message, and whether a tensor stays inside its storage. Not here:
the instructions (torch_instructions.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from postval_assets.core.failures import Rejected

_MAX_TUPLE_DEPTH = 100
_MAX_DIMENSIONS = 8
_MAX_NUMBERS = 2**40

STORAGE_BYTES = {
    f"torch.{kind}Storage": size
    for size, kinds in {
        8: ("Double", "Long"),
        4: ("Float", "Int"),
        2: ("Half", "BFloat16", "Short"),
        1: ("Char", "Byte", "Bool"),
    }.items()
    for kind in kinds
}


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that is asked for."""

    name: str


@dataclass(frozen=True, eq=False)
class Tuple:
    """A tuple.

    Attributes:
        items: what is in it.
        n_parts: everything in it at any depth, what it shares counted each time: what hashing it costs.
        depth: tuples inside tuples.
    """

    items: tuple[object, ...]
    n_parts: int
    depth: int


@dataclass(frozen=True, eq=False)
class List:
    """A list, with what is in it so far."""

    items: list[object] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Dict:
    """A dict with its keys so far; ordered where it is an ``OrderedDict``."""

    keys: list[object] = field(default_factory=list)
    ordered: bool = False


@dataclass(frozen=True, eq=False)
class Storage:
    """One storage of the file: its type's name, and how many numbers of that type it is stated with."""

    kind: str
    n_numbers: int


@dataclass(frozen=True, eq=False)
class Made:
    """Something of which only the kind matters: a tensor, a record, a device, a set."""

    kind: str


def check_tensor(arguments: Sequence[object]) -> None:
    """Hold one tensor against the storage that it is a view of."""
    match arguments:
        case (
            Storage() as storage,
            int(offset),
            Tuple(items=sizes),
            Tuple(items=strides),
            bool(),
            Dict(ordered=True, keys=[]),
            *metadata,
        ) if (
            not any(kind_of(more) != "nothing" and not _is_empty(more) for more in metadata)
            and len(metadata) < 2
        ):
            pass
        case _:
            kinds = ", ".join(kind_of(argument) for argument in arguments[:8])
            raise Rejected(f"the checkpoint makes a tensor from ({kinds}), which torch.save never does")
    shape = f"a tensor of shape ({', '.join(map(number_shown, sizes[:_MAX_DIMENSIONS]))})"
    if len(sizes) != len(strides) or len(sizes) > _MAX_DIMENSIONS:
        raise Rejected(
            f"the checkpoint has {shape} with {len(sizes)} sizes and {len(strides)} strides; expected as many, "
            f"at most {_MAX_DIMENSIONS}"
        )
    places = [place for place in (*sizes, *strides, offset) if isinstance(place, int)]
    if len(places) != 2 * len(sizes) + 1 or any(isinstance(place, bool) for place in places):
        raise Rejected(f"the checkpoint has {shape} with sizes or strides that are no whole numbers")
    if min(places) < 0 or max(places) > _MAX_NUMBERS:
        raise Rejected(
            f"the checkpoint has {shape}, strides ({', '.join(map(number_shown, strides))}), offset "
            f"{number_shown(offset)}; expected none below 0 or above {_MAX_NUMBERS}"
        )
    whole = places[: len(sizes)]
    n_numbers = math.prod(whole)
    if n_numbers > _MAX_NUMBERS:
        raise Rejected(f"the checkpoint has {shape}: {number_shown(n_numbers)} numbers")
    reach = (
        offset
        + 1
        + sum((size - 1) * stride for size, stride in zip(whole, places[len(sizes) : -1], strict=True))
    )
    if (reach if n_numbers else offset) > storage.n_numbers:
        raise Rejected(
            f"the checkpoint has {shape} that reaches to number {number_shown(reach)} of a storage of "
            f"{storage.n_numbers}"
        )


def tuple_of(items: Sequence[object]) -> Tuple:
    """A tuple of these items; raises Rejected where it is nested too deeply."""
    inner = [item for item in items if isinstance(item, Tuple)]
    depth = 1 + max((item.depth for item in inner), default=0)
    if depth > _MAX_TUPLE_DEPTH:
        raise Rejected(f"the checkpoint nests tuples more than {_MAX_TUPLE_DEPTH} deep")
    n_parts = 1 + len(items) + sum(item.n_parts for item in inner)
    return Tuple(tuple(items), min(n_parts, _MAX_NUMBERS), depth)


def are_whole(values: Sequence[object]) -> bool:
    """Whether all of them are whole numbers."""
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _is_empty(value: object) -> bool:
    return isinstance(value, Dict) and not value.keys


def kind_of(value: object) -> str:
    """What a value is, in words, harmless whatever it is."""
    match value:
        case Name(name=name) | Made(kind=name):
            return ascii(name)[1:-1][:120]
        case Storage(kind=kind):
            return f"a storage of {kind}"
        case Tuple():
            return "a tuple"
        case List():
            return "a list"
        case Dict():
            return "a dict"
        case str() | bytes():
            return "a text"
        case None:
            return "nothing"
        case _:
            return "a number"


def shown(value: object) -> str:
    """A text as it is, shortened and harmless, and of anything else its kind."""
    return ascii(value)[1:-1][:60] if isinstance(value, str) else kind_of(value)


def number_shown(value: object) -> str:
    """A whole number of any size as short text."""
    if not isinstance(value, int):
        return kind_of(value)
    return str(value) if abs(value) < 10**30 else f"a number of {value.bit_length()} bits"

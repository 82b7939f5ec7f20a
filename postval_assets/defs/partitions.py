"""Partitions: by archive, by symbol, by symbol and fold.

Here: the definitions and the translation between partition keys and the domain's words. Multi-partition keys order
their dimensions by name, so a fold of a symbol is ``365d-01|AAPL``.
"""

import itertools
from collections.abc import Iterable, Sequence

import dagster as dg

from postval_assets.core.folds import PLANS, parse_fold_key
from postval_assets.pipeline.fold_jobs import FoldSelection

ARCHIVE = "archive"
SYMBOL = "symbol"

archive_partitions = dg.DynamicPartitionsDefinition(name=ARCHIVE)
symbol_partitions = dg.DynamicPartitionsDefinition(name=SYMBOL)
fold_partitions = dg.StaticPartitionsDefinition([key for plan in PLANS.values() for key in plan.fold_keys()])
symbol_fold_partitions = dg.MultiPartitionsDefinition({"fold": fold_partitions, SYMBOL: symbol_partitions})


def fold_partition_key(symbol: str, fold_key: str) -> dg.MultiPartitionKey:
    """The partition key of one fold of a symbol."""
    return dg.MultiPartitionKey({"fold": fold_key, "symbol": symbol})


def selections_by_symbol(keys: Iterable[str]) -> dict[str, list[FoldSelection]]:
    """The folds that multi-partition keys ask for, by symbol and plan."""
    folds: dict[str, dict[str, set[int]]] = {}
    for key in keys:
        fold_key, _, symbol = str(key).partition("|")
        plan, fold = parse_fold_key(fold_key)
        folds.setdefault(symbol, {}).setdefault(plan.name, set()).add(fold)
    return {
        symbol: [FoldSelection(PLANS[name], frozenset(numbers)) for name, numbers in plans.items()]
        for symbol, plans in folds.items()
    }


def contiguous_blocks(wanted: Iterable[str], ordered: Sequence[str], most: int) -> list[tuple[str, str]]:
    """Ranges (first, last) of partition keys that together hold exactly the wanted ones.

    Args:
        wanted: partition keys.
        ordered: all keys in the order of the partitions definition, which is the order they were added in.
        most: keys in one range.

    Raises:
        ValueError: where a wanted key is not among the ordered ones: a range over it would run nothing.
    """
    position = {key: i for i, key in enumerate(ordered)}
    missing = sorted(set(wanted) - set(position))
    if missing:
        raise ValueError(f"not registered as partitions: {', '.join(missing)}")
    indices = sorted(position[key] for key in set(wanted))
    ranges = []
    for _, group in itertools.groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        ranges += [run[i : i + most] for i in range(0, len(run), most)]
    return [(ordered[r[0]], ordered[r[-1]]) for r in ranges]

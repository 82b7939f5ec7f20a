"""``postval rebuild``: Dagster's partitions and events from the warehouse, where its own directory was lost.

Here: what is told to the instance. Not here: what was made (pipeline/made.py).

Results are in the warehouse; Dagster only remembers that they were made. What it still knows stays as it is, what it
lacks is reported anew and says of itself that it was rebuilt. Runs, ticks and the logs of runs do not come back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import clear_orphans, held
from postval_assets.commands.run_history import asset_names, newest_materializations
from postval_assets.core.bar_quality import Severity
from postval_assets.core.failures import Rejected
from postval_assets.defs.catalogue import shown
from postval_assets.defs.partitions import ARCHIVE, SYMBOL, fold_partition_key
from postval_assets.pipeline.made import Made, Rows, what_was_made
from postval_assets.pipeline.platform import Platform

log = logging.getLogger("postval.rebuild")

FOLDS = "fold_results"


@dataclass(frozen=True)
class Rebuilt:
    """What Dagster had lost and was told again.

    Attributes:
        archives: partitions.
        symbols: partitions.
        events: materializations by asset; 0 where nothing was missing.
    """

    archives: int
    symbols: int
    events: Mapping[str, int]

    def text(self) -> str:
        """In words."""
        n_events = sum(self.events.values())
        if not (self.archives or self.symbols or n_events):
            return "nothing is missing: Dagster knows every partition that the warehouse holds"
        lines = [f"partitions: {self.archives} archive(s), {self.symbols} symbol(s)"]
        lines += [f"{name}: {n} materialization(s)" for name, n in self.events.items() if n]
        lines.append("runs and their logs are gone, and schedules that were on are off: turn them on again")
        return "\n".join(lines)


def rebuild(platform: Platform) -> Rebuilt:
    """Bring Dagster's partitions, materializations and verdicts up to the warehouse; again changes nothing.

    Raises:
        Rejected: while postval up works here, or where there is no warehouse.
    """
    if not platform.warehouse.path.is_file():
        raise Rejected(f"there is no warehouse in {platform.settings.data_dir}: nothing to rebuild from")
    with held(platform.settings):
        instance = open_instance(platform.settings)
        clear_orphans(instance, nobody_else_works=True)
        made = what_was_made(platform)
        n_archives = _add(instance, ARCHIVE, made.archives)
        n_symbols = _add(instance, SYMBOL, made.symbols)
        missing = {asset: _missing(instance, asset, _partitions(made, asset)) for asset in asset_names()}
        for asset, partitions in missing.items():
            for key, rows in partitions.items():
                instance.report_runless_asset_event(_event(asset, key, rows))
            if partitions:
                # After the events: the web UI shows a verdict that is older than its asset as one of another state.
                for verdict in _verdicts(made, asset):
                    instance.report_runless_asset_event(verdict)
                log.info("%s: %d partition(s)", asset, len(partitions))
        return Rebuilt(n_archives, n_symbols, {asset: len(keys) for asset, keys in missing.items()})


def _add(instance: dg.DagsterInstance, name: str, keys: tuple[str, ...]) -> int:
    known = set(instance.get_dynamic_partitions(name))
    new = [key for key in keys if key not in known]
    if new:
        instance.add_dynamic_partitions(name, new)
    return len(new)


def _partitions(made: Made, asset: str) -> dict[str, Rows]:
    """Every partition of an asset that was made, in the order of the partitions."""
    if asset in made.by_archive:
        rows = made.by_archive[asset]
        return {key: rows[key] for key in made.archives if key in rows}
    if asset == FOLDS:
        known = set(made.symbols)
        return {
            str(fold_partition_key(symbol, fold)): rows
            for (symbol, fold), rows in sorted(made.folds.items())
            if symbol in known
        }
    rows = made.by_symbol[asset]
    return {key: rows[key] for key in made.symbols if key in rows}


def _missing(instance: dg.DagsterInstance, asset: str, partitions: Mapping[str, Rows]) -> dict[str, Rows]:
    there = newest_materializations(instance, asset)
    return {key: rows for key, rows in partitions.items() if key not in there}


def _event(asset: str, key: str, rows: Rows) -> dg.AssetMaterialization:
    partition: str = key
    if asset == FOLDS:
        fold, _, symbol = key.partition("|")
        partition = fold_partition_key(symbol, fold)
    return dg.AssetMaterialization(
        asset_key=asset,
        partition=partition,
        description="Rebuilt from the warehouse; the run that made it is not known any more.",
        metadata={
            "dagster/partition_row_count": rows.n_rows,
            "rebuilt": True,
            "written_at": rows.written_at.isoformat(),
        },
    )


def _verdicts(made: Made, asset: str) -> Iterator[dg.AssetCheckEvaluation]:
    """One of each symbol with a problem, then one over all, as a run reports them."""
    for (of_asset, check), problems in made.problems.items():
        if of_asset != asset:
            continue
        found = {symbol: said for symbol, said in problems.items() if symbol in made.by_symbol[asset]}
        for symbol, said in found.items():
            yield _verdict(asset, check, said, symbol)
        yield _verdict(asset, check, tuple(f"{s} {p}" for s, said in found.items() for p in said), None)


def _verdict(
    asset: str, check: str, problems: tuple[str, ...], symbol: str | None
) -> dg.AssetCheckEvaluation:
    is_error = any(f"{Severity.ERROR}: " in problem for problem in problems)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=check,
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=shown(problems),
        metadata={"rebuilt": True, "problems": len(problems)},
        partition=symbol,
    )

"""Which feature sets there are, and which one a checkpoint means.

Here: the reference sets with the plug-ins of entry point group ``postval.feature_sets``, and the resolution
of a checkpoint to a set. Not here: what a set is and how it is run (feature_set.py), or any formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points

from postval_assets.core.failures import Rejected
from postval_assets.core.features.feature_set import FeatureSet, compute_features
from postval_assets.core.features.reference import REFERENCE_SETS

__all__ = [
    "ENTRY_POINT_GROUP",
    "BrokenPlugin",
    "FeatureSet",
    "FeatureSetBasis",
    "LoadedFeatureSets",
    "compute_features",
    "load_feature_sets",
    "registered_feature_sets",
    "resolve_feature_set",
]

ENTRY_POINT_GROUP = "postval.feature_sets"


class FeatureSetBasis(StrEnum):
    """How a model's feature set was found."""

    NAMED = "NAMED"
    CONFIGURED = "CONFIGURED"
    ASSUMED = "ASSUMED"


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that brought no usable feature set.

    Attributes:
        entry_point: its name.
        value: what it points at, ``module:attribute``.
        reason: one line.
    """

    entry_point: str
    value: str
    reason: str


@dataclass(frozen=True)
class LoadedFeatureSets:
    """The usable feature sets by name, and the plug-ins that brought none."""

    sets: dict[str, FeatureSet]
    broken: tuple[BrokenPlugin, ...]


def registered_feature_sets() -> dict[str, FeatureSet]:
    """The usable feature sets by name: the reference sets and those of installed plug-ins."""
    return load_feature_sets().sets


def load_feature_sets(plugins: Iterable[EntryPoint] | None = None) -> LoadedFeatureSets:
    """The reference sets and those that entry points bring; a broken plug-in does not hinder the others.

    The reference sets are there even where the distribution's own metadata is not (a checkout that is not
    installed). A plug-in cannot replace them. Two different plug-in sets of one name are both left out: which
    one a checkpoint means could not be told, and would change with the order of installation.

    Args:
        plugins: entry points to load; by default the installed ones of ENTRY_POINT_GROUP.
    """
    found: dict[str, list[tuple[EntryPoint, FeatureSet]]] = {}
    broken: list[BrokenPlugin] = []
    for point in entry_points(group=ENTRY_POINT_GROUP) if plugins is None else plugins:
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code: whatever it raises is its verdict
            broken.append(_broken(point, f"importing it failed with {type(error).__name__}: {error}"))
            continue
        if isinstance(loaded, FeatureSet):
            found.setdefault(loaded.name, []).append((point, loaded))
        else:
            broken.append(_broken(point, f"it is of type {type(loaded).__name__}; expected a FeatureSet"))
    sets = {s.name: s for s in REFERENCE_SETS}
    for name, candidates in found.items():
        known = sets.get(name, candidates[0][1])
        if all(candidate is known for _, candidate in candidates):
            sets[name] = known
            continue
        others = ", ".join(point.value for point, _ in candidates)
        taken_by = "a reference set" if name in sets else f"several plug-ins ({others})"
        broken += [
            _broken(point, f"the name {name!a} is taken by {taken_by}; give the set a name of its own")
            for point, candidate in candidates
            if name not in sets or candidate is not known
        ]
    return LoadedFeatureSets(sets=sets, broken=tuple(broken))


def _broken(point: EntryPoint, reason: str) -> BrokenPlugin:
    return BrokenPlugin(entry_point=point.name, value=point.value, reason=" ".join(reason.split())[:500])


def resolve_feature_set(
    sets: Mapping[str, FeatureSet],
    *,
    named: str | None,
    feature_names: Sequence[str] | None,
    configured: str | None,
    n_features: int,
    account_features: tuple[str, ...],
) -> tuple[FeatureSet, FeatureSetBasis]:
    """The feature set of a checkpoint, and how it was found.

    NAMED where the checkpoint names a registered set, or its feature names are a set's in order (all of them,
    or the market features alone); else CONFIGURED where the settings map it to a set; else ASSUMED, the
    reference set whose dimensions fit.

    Args:
        sets: the registered sets by name.
        named: the set that the checkpoint names.
        feature_names: the features that the checkpoint lists, in its order.
        configured: the set that the user's settings give for this archive or version.
        n_features: features of one bar of the checkpoint's observation, account features included.
        account_features: those of the checkpoint's version, in order.

    Raises:
        Rejected: the set named or configured is not registered; the listed names are no set's, and none is
            configured; or the set does not have the checkpoint's dimensions.
    """
    names = tuple(feature_names) if feature_names else None
    if named is not None:
        chosen = _registered(sets, named, "the checkpoint names")
        if names is not None and not _lists(chosen, names):
            raise Rejected(
                f"the checkpoint names feature set {named}, but its feature names are others: "
                f"{_first_difference(chosen, names)}"
            )
        return _fitting(chosen, n_features, account_features), FeatureSetBasis.NAMED
    if names is not None:
        matches = [s for s in sets.values() if _lists(s, names)]
        # The market features alone are the names of a set of every version: the dimensions tell them apart.
        matches = [s for s in matches if _fits(s, n_features, account_features)] or matches[:1]
        if len(matches) == 1:
            return _fitting(matches[0], n_features, account_features), FeatureSetBasis.NAMED
        if configured is None:
            raise Rejected(_not_one_match(sets, matches, names, n_features))
    if configured is not None:
        chosen = _registered(sets, configured, "the settings name")
        return _fitting(chosen, n_features, account_features), FeatureSetBasis.CONFIGURED
    return _assumed(n_features, account_features), FeatureSetBasis.ASSUMED


_HOW_TO_PLUG_IN = (
    f"To use another trainer's features, install a package that declares an entry point of group "
    f"{ENTRY_POINT_GROUP} (docs/plugins.md)"
)


def _assumed(n_features: int, account_features: tuple[str, ...]) -> FeatureSet:
    for reference in REFERENCE_SETS:
        if _fits(reference, n_features, account_features):
            return reference
    there_are = "; ".join(
        f"{s.name}: {s.n_features} with {_shown(s.account_features)}" for s in REFERENCE_SETS
    )
    raise Rejected(
        f"no reference feature set has {n_features} features with {_shown(account_features)}; there are "
        f"{there_are}. {_HOW_TO_PLUG_IN}"
    )


def _registered(sets: Mapping[str, FeatureSet], name: str, who: str) -> FeatureSet:
    if name in sets:
        return sets[name]
    raise Rejected(
        f"{who} feature set {ascii(name)[:80]}, which is not registered; "
        f"registered are {', '.join(sorted(sets))}. {_HOW_TO_PLUG_IN}"
    )


def _lists(feature_set: FeatureSet, names: tuple[str, ...]) -> bool:
    return names in (feature_set.feature_names, feature_set.market_features)


def _fits(feature_set: FeatureSet, n_features: int, account_features: tuple[str, ...]) -> bool:
    return feature_set.n_features == n_features and feature_set.account_features == account_features


def _fitting(feature_set: FeatureSet, n_features: int, account_features: tuple[str, ...]) -> FeatureSet:
    if _fits(feature_set, n_features, account_features):
        return feature_set
    raise Rejected(
        f"feature set {feature_set.name} has {feature_set.n_features} features with "
        f"{_shown(feature_set.account_features)}, but the checkpoint has {n_features} with "
        f"{_shown(account_features)}"
    )


def _shown(account_features: tuple[str, ...]) -> str:
    if not account_features:
        return "no account features"
    return f"{len(account_features)} account features ({', '.join(account_features)})"


def _not_one_match(
    sets: Mapping[str, FeatureSet], matches: Sequence[FeatureSet], names: tuple[str, ...], n_features: int
) -> str:
    if matches:
        return (
            f"the checkpoint's feature names are those of several feature sets: "
            f"{', '.join(s.name for s in matches)}; say in the settings which one it is"
        )
    # The set that agrees longest is the one that was probably meant; of equal ones, that of the same size.
    nearest = max(sets.values(), key=lambda s: (_agreement(s, names), s.n_features == n_features))
    return (
        f"the checkpoint's feature names are no registered set's; the nearest is {nearest.name}: "
        f"{_first_difference(nearest, names)}. {_HOW_TO_PLUG_IN}, or map the archive to a set in the settings"
    )


def _agreement(feature_set: FeatureSet, names: tuple[str, ...]) -> int:
    pairs = zip(feature_set.feature_names, names, strict=False)
    return next(
        (i for i, (ours, theirs) in enumerate(pairs) if ours != theirs),
        min(feature_set.n_features, len(names)),
    )


def _first_difference(feature_set: FeatureSet, names: tuple[str, ...]) -> str:
    i = _agreement(feature_set, names)
    ours = ascii(feature_set.feature_names[i]) if i < feature_set.n_features else "nothing"
    theirs = ascii(names[i])[:80] if i < len(names) else "nothing"
    return f"feature {i + 1} is {theirs} in the checkpoint and {ours} in the set"

"""Ferry's partition schemes as Dagster's partitions definitions; the keys are the same."""

import datetime
from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.partitions.context import partition_loading_context

from ferry.declaration import Migration
from ferry.partition import FORMATS, Cut, Scheme, floor, following, scheme_of

CRON = {
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "week": "0 0 * * 0",
    "month": "0 0 1 * *",
    "year": "0 0 1 1 *",
}


def partitions_of(scheme: Scheme) -> dg.PartitionsDefinition | None:
    """The definition whose keys are the scheme's, or None for an entity that is not partitioned.

    Two columns make a `MultiPartitionsDefinition` whose dimensions have their names.
    """
    each = {cut.by: _of_cut(scheme.root, cut) for cut in scheme.cuts}
    if len(each) > 1:
        return dg.MultiPartitionsDefinition(each)
    return next(iter(each.values()), None)


def _of_cut(root: str, cut: Cut) -> dg.PartitionsDefinition:
    """One column's; the window that is still open is included, while Dagster by itself begins with the one before."""
    if cut.discovered:
        return dg.DynamicPartitionsDefinition(name=dynamic_name(root, cut))
    if isinstance(cut.every, str) and cut.start is not None:
        last = following(floor(cut.end, cut.every), cut.every) if cut.end else None
        return dg.TimeWindowPartitionsDefinition(
            start=cut.start.replace(tzinfo=datetime.UTC),
            cron_schedule=CRON[cut.every],
            fmt=FORMATS[cut.every],
            end=last.replace(tzinfo=datetime.UTC) if last else None,
            end_offset=1,
            timezone="UTC",
        )
    return dg.StaticPartitionsDefinition([window.key for window in cut.windows])


def dynamic_name(root: str, cut: Cut) -> str:
    """Under which name Dagster keeps the keys of a column that is cut by what it holds."""
    return f"{root}.{cut.by}"


def is_discovered(definition: dg.PartitionsDefinition | None) -> bool:
    """Whether only an instance of Dagster knows the keys."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return any(is_discovered(dimension.partitions_def) for dimension in definition.partitions_defs)
    return isinstance(definition, dg.DynamicPartitionsDefinition)


def missing_keys(migration: Migration, instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """Name → the keys of discovered partitions that a migration knows and an instance of Dagster does not."""
    found: dict[str, list[str]] = {}
    for name in migration.entities:
        scheme = scheme_of(migration, name)
        for cut in scheme.cuts:
            if cut.discovered:
                there = set(instance.get_dynamic_partitions(dynamic_name(scheme.root, cut)))
                new = [window.key for window in cut.windows if window.key not in there]
                found |= {dynamic_name(scheme.root, cut): new} if new else {}
    return found


def show_keys(migration: Migration, instance: dg.DagsterInstance) -> None:
    """Let an instance of Dagster know the keys that the migration knows."""
    for name, keys in missing_keys(migration, instance).items():
        instance.add_dynamic_partitions(name, keys)


def dimension_tags(definition: dg.PartitionsDefinition | None, key: str | None) -> dict[str, str]:
    """What Dagster tags an event of a partition of two dimensions with, so that it is found by either."""
    if key is None or not isinstance(definition, dg.MultiPartitionsDefinition):
        return {}
    parts = definition.get_partition_key_from_str(key).keys_by_dimension
    return {f"dagster/partition/{dimension}": part for dimension, part in parts.items()}


def tags_of_runs(
    definition: dg.PartitionsDefinition | None, keys: Sequence[str], instance: dg.DagsterInstance
) -> list[dict[str, str]]:
    """The tags of the runs that some partitions need: one run, unless they lie apart in Dagster's order."""
    if definition is None:
        return [{}]
    with partition_loading_context(dynamic_partitions_store=instance):
        wanted = set(keys)
        ordered = [key for key in definition.get_partition_keys() if key in wanted]
        ranges = [dg.PartitionKeyRange(ordered[0], ordered[-1])]
        if set(definition.get_partition_keys_in_range(ranges[0])) != wanted:
            ranges = list(definition.subset_with_partition_keys(ordered).get_partition_key_ranges(definition))
    return [range_tags(definition, one.start, one.end) for one in ranges]


def range_tags(definition: dg.PartitionsDefinition | None, first: str, last: str) -> dict[str, str]:
    """The tags of a run over the partitions from one to another; of two dimensions, from and to in each."""
    if definition is None:
        return {}
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}

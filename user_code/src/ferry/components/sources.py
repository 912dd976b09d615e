"""Observed sources: what a legacy table holds, partition by partition, as the source itself computes it."""

from contextlib import closing

import dagster as dg

from ferry.components.partitions import dimension_tags, partitions_of
from ferry.components.pools import holding
from ferry.components.resources import FerryResource
from ferry.declaration import Entity, Migration
from ferry.errors import DeclarationError
from ferry.extract import kind_of, open_source
from ferry.known_keys import with_known_keys
from ferry.partition import scheme_of
from ferry.settings import read_settings


def observe(migration: Migration, entity: Entity, key: dg.AssetKey) -> dg.AssetsDefinition:
    """An observable source asset whose data versions change with the rows, and only with them."""
    partitions = partitions_of(scheme_of(migration, entity.name))
    declaration = entity.declaration

    @dg.multi_observable_source_asset(
        name=f"observe_{'_'.join(key.path)}",
        specs=[
            dg.AssetSpec(
                key,
                description=f"{declaration.source.label} of the old system.",
                group_name=declaration.group,
                owners=list(declaration.owners),
                kinds={"source", _kind(migration, entity)},
                partitions_def=partitions,
            )
        ],
        partitions_def=partitions,
    )
    def look(context: dg.AssetExecutionContext, ferry: FerryResource):
        settings = ferry.settings()
        with (
            holding(context, declaration.source.connection),
            closing(
                open_source(with_known_keys(migration, settings, [entity.name]), entity.name, settings)
            ) as source,
        ):
            found = source.fingerprints(entity.name)
        if not found:
            context.log.info(f"{declaration.source.label} is known by reading it only; nothing was observed")
        cut = partitions and (context.has_partition_key or context.has_partition_key_range)
        keys = context.partition_keys if cut else [None]
        for partition in keys if found else []:
            # Somebody may have added a partition in the UI of which nothing was loaded yet.
            rows, total = found.get(partition or next(iter(found)), (None, "unknown"))
            context.log_event(
                dg.AssetObservation(
                    key,
                    partition=partition,
                    metadata={"dagster/partition_row_count" if partition else "dagster/row_count": rows}
                    if rows is not None
                    else {},
                    tags={"dagster/data_version": f"{rows}-{total}"} | dimension_tags(partitions, partition),
                )
            )
        yield dg.Output(
            None,
            output_name=context.assets_def.get_output_name_for_asset_key(key),
            metadata={"__source_asset_observation__": True},
        )

    return look


def _kind(migration: Migration, entity: Entity) -> str:
    try:
        return kind_of(migration, entity.name, read_settings())
    except DeclarationError:  # definitions load without connections as well
        return "table"

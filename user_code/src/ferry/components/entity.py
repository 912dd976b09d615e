"""The component `ferry.components.Entity`: one folder becomes one subsettable multi-asset with its checks.

Three assets in the graph, one op: reading, judging and loading overlap, and a batch of partitions gives an outcome
for each. The op logs a materialization for each partition and stage as it succeeds, goes on after a partition that
failed, and ends with one failure that names those that did.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

from ferry.components.automation import condition_of
from ferry.components.connections import owned_keys
from ferry.components.events import Recorder
from ferry.components.partitions import partitions_of
from ferry.components.pools import holding
from ferry.components.recovery import still_to_do
from ferry.components.resources import FerryResource
from ferry.contract import compile_contract
from ferry.declaration import Entity as DeclaredEntity
from ferry.declaration import EntityDeclaration, Migration, build_entity, fingerprint, migration_in
from ferry.edges import circular_parents
from ferry.errors import FerryError
from ferry.known_keys import register
from ferry.mapping import code_of
from ferry.partition import WHOLE, scheme_of, through_path
from ferry.pipeline import LOADED, RAW, VALIDATED, PartitionFailed, carry
from ferry.plan import plan_migration
from ferry.sources.declaration import FromFiles

CHECKS = {
    "accounted_for": (
        LOADED,
        "Every extracted row is inserted, updated, unchanged, preserved, rejected or waiting",
    ),
    "reconciled": (LOADED, "Every loaded row in the target is what was staged"),
    "settled": (LOADED, "No row waits for a parent any more"),
    "no_orphans": (LOADED, "No row was rejected for want of its parent"),
    "contract_pass_rate": (VALIDATED, "Rows that the contract accepts"),
}


class Entity(dg.Component, dg.Resolvable):
    """One entity of a migration: where its rows come from, what they may be, where they go."""

    def __init__(self, declaration: EntityDeclaration) -> None:
        """Args: the attributes of the `defs.yaml`."""
        self.declaration = declaration

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The attributes are the declaration's own model: one language, declared once."""
        return EntityDeclaration

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "Entity":  # noqa: ARG003
        """Make the component of its checked attributes."""
        assert isinstance(attributes, EntityDeclaration)
        return cls(attributes)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The entity's assets, checks and observed source. No connection is opened here."""
        path = Path(context.path) / "defs.yaml"
        entity = build_entity(self.declaration.model_dump(by_alias=True, exclude_unset=True), path)
        folder = Path(context.defs_module_path)
        migration = migration_in(folder)
        observed = [] if source_key(entity) in owned_keys(folder) else observed_source(migration, entity)
        return dg.Definitions(
            assets=[*observed, entity_assets(migration, entity), *delivered_target(migration, entity)]
        )


def source_key(entity: DeclaredEntity) -> dg.AssetKey:
    """`legacy/orders`: the connection's name, then the table's (its schema unless it is `public`), or the path's."""
    source = entity.declaration.source
    parts = [part for part in re.split(r"\W+", source.label) if part]
    return dg.AssetKey([source.connection, *(parts[1:] if parts[0] == "public" and parts[1:] else parts)])


def asset_keys(entity: DeclaredEntity) -> dict[str, dg.AssetKey]:
    """The keys of the three assets, by stage."""
    loaded = f"loaded_{entity.name}"
    if entity.declaration.id_map == "published":
        loaded += "_and_id_mapping"
    return {
        RAW: dg.AssetKey(f"raw_{entity.name}"),
        VALIDATED: dg.AssetKey(f"validated_{entity.name}"),
        LOADED: dg.AssetKey(loaded),
    }


def code_versions(migration: Migration, entity: DeclaredEntity) -> dict[str, str]:
    """What matters in declaration and contract, by stage: reformatting a file makes nothing stale."""
    cut_by = migration[through_path(migration, entity.name)[-1]].declaration.partition
    declared = entity.declaration.model_dump(mode="json", by_alias=True)
    contract = compile_contract(entity.contract).fingerprint()
    reading = {name: declared[name] for name in ("source", "partition", "duplicates")}
    if cut_by is not entity.declaration.partition:
        reading["through"] = cut_by and cut_by.model_dump(mode="json", by_alias=True)
    loading = ("target", "columns", "drop", "references", "match", "mode", "id_map", "on_vanished")
    raw = fingerprint(reading)
    validated = fingerprint([raw, contract, declared["parse"]])
    rules = entity.declaration.mapping
    made = {
        name: code_of(rule, entity.path, f"{entity.path}: mapping.{name}") for name, rule in rules.items()
    }
    return {
        RAW: raw,
        VALIDATED: validated,
        LOADED: fingerprint([validated, {name: declared[name] for name in loading}, made]),
    }


def entity_assets(migration: Migration, entity: DeclaredEntity) -> dg.AssetsDefinition:
    """The multi-asset of one entity."""
    declaration, keys, versions = entity.declaration, asset_keys(entity), code_versions(migration, entity)
    scheme = scheme_of(migration, entity.name)
    partitions = partitions_of(scheme)
    # A reference that closes a circle is filled in afterwards; as an arrow it would be a cycle in the graph.
    circular = circular_parents(migration, entity.name)
    parents = [asset_keys(migration[n])[LOADED] for n in migration.parents(entity.name) if n not in circular]
    upstream = {RAW: [source_key(entity)], VALIDATED: [keys[RAW]], LOADED: [keys[VALIDATED], *parents]}
    specs = [
        dg.AssetSpec(
            keys[stage],
            deps=[_dependency(migration, entity, key) for key in upstream[stage]],
            description=_description(entity, stage),
            group_name=declaration.group,
            owners=list(declaration.owners),
            tags={**declaration.tags, "ferry/entity": entity.name},
            kinds={RAW: {"parquet"}, VALIDATED: {"pydantic"}, LOADED: {"postgres", "table"}}[stage],
            code_version=versions[stage],
            automation_condition=condition_of(
                declaration.automation, upstream[stage][0], own_stage=stage != RAW
            ),
            skippable=True,
            metadata=_declared_metadata(entity, stage),
        )
        for stage in (RAW, VALIDATED, LOADED)
    ]
    if declaration.id_map == "published":
        specs[2] = specs[2].with_io_manager_key("id_map")
    batch = declaration.batch

    @dg.multi_asset(
        name=entity.name,
        specs=specs,
        check_specs=[
            dg.AssetCheckSpec(name, asset=keys[stage], description=text)
            for name, (stage, text) in CHECKS.items()
        ],
        can_subset=True,
        partitions_def=partitions,
        backfill_policy=(dg.BackfillPolicy.multi_run(batch) if batch else dg.BackfillPolicy.single_run())
        if partitions
        else None,
        op_tags={"ferry/memory": declaration.resources.memory},
        pool=declaration.source.connection,
    )
    def run(context: dg.AssetExecutionContext, ferry: FerryResource) -> Iterator[Any]:
        stages = tuple(
            stage for stage in (RAW, VALIDATED, LOADED) if keys[stage] in context.selected_asset_keys
        )
        # The partition of a run is its partitioned assets'; others may be in the same run.
        wanted = tuple(context.partition_keys) if partitions and _is_cut(context) else ()
        todo = still_to_do(
            context.instance, context.run, context.op_execution_context.op.name, keys[stages[-1]], wanted
        )
        if len(todo) < len(wanted):
            context.log.info(
                f"{len(wanted) - len(todo)} of {len(wanted)} partitions were made before the failure"
            )
        recorder = Recorder(context, entity, keys, versions, upstream, stages)
        failed: list[PartitionFailed] = []
        try:
            settings = ferry.settings()
            recorder.stage_root = settings.stage_root
            # Somebody may have added the partition in Dagster, where Ferry has not heard of it.
            known = register(migration, entity.name, wanted, settings) if scheme.discovers else migration
            plans = plan_migration(known, settings, only=(entity.name,))
            recorder.plan = plans[entity.name]
            # A run that goes on from one whose partitions were all made has nothing to read.
            partition_keys = todo if wanted else (WHOLE,)
            # The slot of the source's pool is the op's own; a connection that is both has one.
            writes = LOADED in stages and declaration.target.connection != declaration.source.connection
            with holding(context, *([declaration.target.connection] if writes else [])):
                for event in carry(
                    plans, entity.name, partition_keys, settings, run_id=context.run.run_id, stages=stages
                ):
                    recorder.record(event)
                    if isinstance(event, PartitionFailed):
                        failed.append(event)
        except FerryError as error:
            raise failure(context, [PartitionFailed(key, error, RAW) for key in todo or (WHOLE,)]) from None
        finally:
            recorder.flush()
        if failed:
            raise failure(context, failed)
        # The events are logged already, one a partition; the output only tells later steps that this one is done.
        for stage in stages:
            yield recorder.output(stage)

    return run


def _dependency(migration: Migration, entity: DeclaredEntity, key: dg.AssetKey) -> dg.AssetDep:
    """On the same partition of what is cut alike, otherwise on all: a row may refer to a parent of any month."""
    # Of several entities that read one table the first observes it.
    owners = [e.name for e in migration.entities.values() if key in (source_key(e), *asset_keys(e).values())]
    cut = partitions_of(scheme_of(migration, min(owners)))
    if cut is None or cut == partitions_of(scheme_of(migration, entity.name)):
        return dg.AssetDep(key)
    return dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping())


def _is_cut(context: dg.AssetExecutionContext) -> bool:
    return context.has_partition_key_range or context.has_partition_key


def failure(context: dg.AssetExecutionContext, failed: list[PartitionFailed]) -> dg.Failure:
    """One failure for all partitions that did not make it: what, where, why, what next."""
    permanent = [event for event in failed if not event.error.retryable]
    if permanent:
        # `allow_retries=False` binds the op's retries only; the run's own would try again all the same.
        context.instance.add_run_tags(context.run.run_id, {"dagster/max_retries": "0"})
    lines = [str(event.error) for event in failed]
    shown = "\n".join(dict.fromkeys(lines[:20]))
    return dg.Failure(
        description=shown if len(lines) == 1 else f"{len(lines)} partitions failed:\n{shown}",
        metadata={
            "partitions": dg.MetadataValue.json([event.partition for event in failed]),
            "errors": dg.MetadataValue.json([event.error.as_dict() for event in failed[:100]]),
        },
        allow_retries=not permanent,
    )


def observed_source(migration: Migration, entity: DeclaredEntity) -> list[dg.AssetsDefinition]:
    """`legacy/orders`, observed: rows and a fingerprint of each partition, computed by the source."""
    from ferry.components.sources import observe

    key = source_key(entity)
    first = min(other.name for other in migration.entities.values() if source_key(other) == key)
    return [observe(migration, entity, key)] if first == entity.name else []


def delivered_target(migration: Migration, entity: DeclaredEntity) -> list[dg.AssetsDefinition]:
    """`delivered_orders`, where the target is an API."""
    if not entity.declaration.target.api:
        return []
    # Here, because every run imports this module and hardly one needs a client for HTTP.
    from ferry.components.delivery import delivery

    return [delivery(migration, entity, lambda one: asset_keys(one)[LOADED])]


def _description(entity: DeclaredEntity, stage: str) -> str:
    declaration = entity.declaration
    what = {
        RAW: f"Rows of {declaration.source.label} as they were read, staged as Parquet.",
        VALIDATED: f"The verdict of the contract `{declaration.contract}` over the staged rows.",
        LOADED: f"Rows in {declaration.target.table}, with the outcome of each."
        + (
            " Its id map, old key to new key, is what other assets load."
            if declaration.id_map == "published"
            else ""
        ),
    }[stage]
    return f"{declaration.description}\n\n{what} {_grain(declaration)}".strip()


def _grain(declaration: EntityDeclaration) -> str:
    """What one row and one partition is: `A row is one id of orders; a partition is a month of placed_at`."""
    partition = declaration.partition
    pieces = [
        f"{cut.every} of them by {cut.by}"
        if isinstance(cut.every, int)
        else f"one {cut.every} of {cut.by}"
        if cut.every
        else f"one {cut.by}"
        for cut in (partition.cuts if partition else ())
    ]
    if partition and partition.through:
        pieces = [f"that of its {partition.through}"]
    row = f"A row is one {', '.join(declaration.source.key)} of {declaration.source.label}"
    return f"{row}; a partition is {' and '.join(pieces)}." if pieces else f"{row}."


def _declared_metadata(entity: DeclaredEntity, stage: str) -> dict[str, Any]:
    declaration = entity.declaration
    match stage:
        case "loaded":
            told = {"dagster/table_name": declaration.target.table, "target": declaration.target.connection}
            return told | _columns_of_partitions(declaration)
        case "raw":
            return {"source": declaration.source.connection, "table": declaration.source.label}
        case _:
            return {"contract": declaration.contract, "declared in": os.path.basename(entity.path.parent)}


def _columns_of_partitions(declaration: EntityDeclaration) -> dict[str, Any]:
    """For whoever loads the table through `DatabaseIOManager`: the columns that tell partitions apart.

    Nothing, where the target does not hold what the source was cut by: a reference, an old key, a file's name.
    """
    cuts = declaration.partition.cuts if declaration.partition else ()
    columns = {}
    for cut in cuts:
        by, read = cut.by or "", declaration.source
        into = declaration.target_column(by)
        kept = by in declaration.columns or not (
            by in declaration.drop
            or into in declaration.mapping
            or any(by in reference.column for reference in declaration.references)
            or (declaration.target.key.source != "natural" and by in read.key)
            or (isinstance(read, FromFiles) and by not in (read.fields or {}))
        )
        if not kept:
            return {}
        columns[by] = {"column": into, "ranges": isinstance(cut.every, int), "every_row": True}
    if not columns:
        return {}
    return {"partition_expr": columns if len(columns) > 1 else next(iter(columns.values()))}

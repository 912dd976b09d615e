"""What a pipeline's events look like in Dagster: materializations, checks and their metadata, one a partition."""

import os
import time
from collections.abc import Callable
from typing import Any

import dagster as dg
from dagster import DagsterEvent
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.events import DagsterEventBatchMetadata, generate_event_batch_id

from ferry.components.partitions import dimension_tags
from ferry.components.picture import outcome_bar
from ferry.components.preview import preview
from ferry.components.versions import Versions, stamp
from ferry.contract import compile_contract
from ferry.declaration import Entity, fingerprint
from ferry.ledger import OF_THE_PARENT, Outcomes
from ferry.memory import peak_mib
from ferry.partition import WHOLE
from ferry.pipeline import (
    LOADED,
    RAW,
    STAGES,
    VALIDATED,
    Event,
    Judged,
    LoadedPartition,
    PartitionFailed,
    Progress,
    Staged,
)
from ferry.plan import EntityPlan
from ferry.reconcile import Reconciliation

listeners: list[Callable[[str, Event], None]] = []
"""Who else wants to hear of events in this process: the command line's progress bar."""

# Storing an event costs Dagster several connections, storing a hundred at once costs hardly more. What is held back
# is at most this many partitions and this many seconds; a run that is killed then repeats them, by the ledger.
BATCH_PARTITIONS, BATCH_SECONDS = 25, 3.0
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")


class Recorder:
    """Records the events of one run of one entity, a few partitions at a time; call `flush` at the end."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        entity: Entity,
        keys: dict[str, dg.AssetKey],
        versions: dict[str, str],
        upstream: dict[str, list[dg.AssetKey]],
        stages: tuple[str, ...],
    ) -> None:
        """Args: the op's context, the entity, and by stage its asset key, code version and upstream assets."""
        self._context, self._entity, self._keys = context, entity, keys
        self._versions, self._upstream, self._stages = versions, upstream, stages
        self._lookup = Versions(context.instance)
        self._made: dict[str, list[tuple[str | None, str, dict[str, Any]]]] = {stage: [] for stage in STAGES}
        self._checked: list[dg.AssetCheckEvaluation] = []
        self._flushed = time.monotonic()
        self.plan: EntityPlan | None = None
        self.stage_root = ""

    def record(self, event: Event) -> None:
        """Log an event as Dagster's own, and tell the listeners."""
        for listener in listeners:
            listener(self._entity.name, event)
        match event:
            case Staged():
                self._staged(event)
            case Judged():
                self._judged(event)
            case LoadedPartition():
                self._loaded(event)
            case Reconciliation():
                self._reconciled(event)
            case PartitionFailed():
                self._context.log.error(str(event.error))
            case Progress():
                pass
        held = max(len(made) for made in self._made.values())
        if held >= BATCH_PARTITIONS or time.monotonic() - self._flushed > BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what is held back: each stage's materializations at once, upstream first, then the checks."""
        step = self._context.op_execution_context.get_step_execution_context()
        for stage, made in self._made.items():
            stamped = self._stamped(stage, made)
            batch = generate_event_batch_id()
            for position, one in enumerate(stamped, 1):
                DagsterEvent.asset_materialization(
                    step, one, DagsterEventBatchMetadata(batch, position == len(stamped))
                )
            made.clear()
        for check in self._checked:
            # Dagster takes check evaluations here, and its annotation has not heard of it.
            self._context.log_event(check)  # pyright: ignore[reportArgumentType]
        self._checked.clear()
        self._flushed = time.monotonic()

    def _stamped(
        self, stage: str, made: list[tuple[str | None, str, dict[str, Any]]]
    ) -> list[dg.AssetMaterialization]:
        if not made:
            return []
        keys = [partition for partition, _, _ in made if partition is not None]
        versions = {
            upstream: self._lookup.of(upstream, keys if keys and self._is_cut_alike(upstream) else None)
            for upstream in self._upstream[stage]
        }
        return [
            dg.AssetMaterialization(
                self._keys[stage],
                partition=partition,
                metadata=metadata,
                tags=stamp(
                    self._versions[stage],
                    data_version,
                    [
                        (key, found[partition if partition in found else None])
                        for key, found in versions.items()
                    ],
                )
                | dimension_tags(self._context.assets_def.partitions_def, partition),
            )
            for partition, data_version, metadata in made
        ]

    def output(self, stage: str) -> dg.Output:
        """The output of a stage: it carries nothing and makes no event of its own, those are logged already."""
        name = self._context.assets_def.get_output_name_for_asset_key(self._keys[stage])
        return dg.Output(
            None, output_name=name, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
        )

    def _staged(self, event: Staged) -> None:
        if RAW not in self._stages:
            return
        manifest = event.manifest
        metadata: dict[str, Any] = {
            **self._row_count(event.partition, manifest.rows),
            "dagster/uri": f"{self.stage_root}/{manifest.entity}/{manifest.partition}/{manifest.stage_id}",
            "dagster/storage_kind": "parquet",
            "dagster/column_schema": dg.TableSchema(
                columns=[dg.TableColumn(name, type_) for name, type_ in manifest.columns.items()]
            ),
            "parts": len(manifest.parts),
            "bytes": manifest.bytes,
            "repeated keys": manifest.duplicate_keys,
            "seconds": round(event.seconds, 3),
            "rows per second": round(manifest.rows / event.seconds) if event.seconds else 0,
        }
        if event.drift:
            metadata["columns changed"] = dg.MetadataValue.text(event.drift)
        for name, said in manifest.said.items():
            # What an API or a file said of itself, against what arrived.
            metadata[f"source {name}"] = dg.MetadataValue.text(
                "; ".join(map(str, said))
                if isinstance(said, list)
                else "not told"
                if said is None
                else str(said)
            )
        if event.sample is not None:
            # A column that the contract does not know may hold anything: nobody has said that it is not personal.
            shown = {
                column.name
                for column in compile_contract(self._entity.contract).fields
                if not column.personal
            }
            metadata["preview"] = preview(event.sample, set(event.sample.column_names) - shown)
        self._materialize(RAW, event.partition, manifest.content_hash, metadata)

    def _judged(self, event: Judged) -> None:
        tally = event.tally
        rows = tally.accepted + tally.rejected
        metadata: dict[str, Any] = {
            **self._row_count(event.partition, tally.accepted),
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "seconds": round(event.seconds, 3),
            "rows per second": round(rows / event.seconds) if event.seconds else 0,
        }
        examples = {}
        if tally.rules:
            often = sorted(tally.rules.items(), key=lambda pair: -pair[1])[:20]
            metadata["reasons"] = dg.MetadataValue.table(
                [
                    dg.TableRecord({"reason": name, "rows": count, "values": tally.top(name)})
                    for name, count in often
                ]
            )
            metadata["examples"] = examples["examples"] = dg.MetadataValue.table(
                [
                    dg.TableRecord({k: "" if v is None else str(v) for k, v in row.items() if k != "row"})
                    for row in tally.examples
                ]
            )
        version = fingerprint([event.manifest.content_hash, self._versions[VALIDATED]])
        self._materialize(VALIDATED, event.partition, version, metadata)
        rate = tally.accepted / rows if rows else 1.0
        self._check(
            "contract_pass_rate",
            VALIDATED,
            event.partition,
            passed=not tally.rejected,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"rate": rate, "accepted": tally.accepted, "rejected": tally.rejected, **examples},
            description=f"{tally.rejected} of {rows} rows are rejected; `ferry rejects` lists them all"
            if tally.rejected
            else "",
        )

    def _loaded(self, event: LoadedPartition) -> None:
        outcomes, manifest = event.outcomes, event.manifest
        declaration = self._entity.declaration
        metadata: dict[str, Any] = {
            **self._row_count(
                event.partition,
                outcomes.inserted + outcomes.updated + outcomes.unchanged + outcomes.preserved,
            ),
            **outcomes.as_dict(),
            "outcomes": outcome_bar(outcomes.as_dict()),
            "dagster/table_name": declaration.target.table,
            "chunks": len(manifest.parts),
            "chunks skipped": event.skipped_chunks,
            "seconds": round(event.seconds, 3),
            "rows per second": round(outcomes.extracted / event.seconds) if event.seconds else 0,
            "peak MiB": round(peak_mib()),
            "bytes": manifest.bytes,
            "dagster/storage_kind": "postgres",
        }
        if self.plan is not None:
            metadata |= _columns(self.plan, self._upstream[RAW][0])
        if event.rejections:
            metadata["rejections"] = _counts("reason", event.rejections)
        self._materialize(LOADED, event.partition, self._loaded_version(event), metadata)
        ends = Outcomes(**outcomes.as_dict())
        accounted = ends.extracted == sum(list(ends.as_dict().values())[1:])
        self._check(
            "accounted_for",
            LOADED,
            event.partition,
            passed=accounted,
            metadata={**outcomes.as_dict(), **_examples("rejected", event.examples)},
        )
        orphans = sum(event.rejections.get(reason, 0) for reason in OF_THE_PARENT)
        self._check("settled", LOADED, event.partition, **settled(outcomes.waiting, event.examples))
        self._check("no_orphans", LOADED, event.partition, **no_orphans(orphans, event.examples))

    def _loaded_version(self, event: LoadedPartition) -> str:
        """Children read nothing of a parent but its pairs, and pairs never change: new rows make no child stale."""
        if self._entity.declaration.id_map != "none":
            return fingerprint(
                ["pairs", self._entity.name, self._entity.declaration.target.model_dump(by_alias=True)]
            )
        return fingerprint([event.manifest.content_hash, self._versions[LOADED]])

    def _reconciled(self, event: Reconciliation) -> None:
        self._check(
            "reconciled",
            LOADED,
            event.partition,
            **reconciled(
                event.different,
                compared=event.compared,
                examples=dg.MetadataValue.md("\n".join(f"- {one}" for one in event.differences) or "none"),
            ),
        )
        if not event.reconciled:
            self._context.log.error(
                f"{self._entity.name}, {event.partition}: {event.different} rows of the target are not as staged: "
                + "; ".join(str(one) for one in event.differences[:3])
            )

    def _row_count(self, partition: str, rows: int) -> dict[str, int]:
        return {"dagster/row_count" if partition == WHOLE else "dagster/partition_row_count": rows}

    def _materialize(self, stage: str, partition: str, data_version: str, metadata: dict[str, Any]) -> None:
        self._made[stage].append((None if partition == WHOLE else partition, data_version, metadata))

    def _is_cut_alike(self, upstream: dg.AssetKey) -> bool:
        """Whether an upstream asset has the same partitions; one that is unknown here is taken to have them."""
        graph = self._context.job_def.asset_layer.asset_graph
        if not graph.has(upstream):
            return upstream in self._upstream["raw"]
        return graph.get(upstream).partitions_def == self._context.assets_def.partitions_def

    def _check(
        self,
        name: str,
        stage: str,
        partition: str,
        *,
        passed: bool,
        metadata: dict[str, Any],
        severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
        description: str = "",
    ) -> None:
        self._checked.append(
            dg.AssetCheckEvaluation(
                asset_key=self._keys[stage],
                check_name=name,
                passed=passed,
                metadata=metadata,
                severity=severity,
                description=description or None,
                partition=None if partition == WHOLE else partition,
            )
        )


def settled(waiting: int, examples: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """The check `settled` of a partition, as arguments of its evaluation."""
    return {
        "passed": not waiting,
        "severity": dg.AssetCheckSeverity.WARN,
        "metadata": {"waiting": waiting, **_examples("waiting", examples)},
        "description": "Load the parents, then settle (`ferry settle`, job `settle`)" if waiting else "",
    }


def no_orphans(orphans: int, examples: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """The check `no_orphans` of a partition, as arguments of its evaluation."""
    return {
        "passed": not orphans,
        "severity": dg.AssetCheckSeverity.WARN,
        "metadata": {"orphans": orphans, **_examples("orphans", examples)},
        "description": "They come back by themselves when their parent does" if orphans else "",
    }


def reconciled(different: int, **metadata: Any) -> dict[str, Any]:
    """The check `reconciled` of a partition, as arguments of its evaluation."""
    return {
        "passed": not different,
        "severity": dg.AssetCheckSeverity.ERROR,
        "metadata": {**metadata, "different": different},
        "description": "Rows that refer to this partition wait until it is put right: `ferry reconcile --repair`, or"
        " the job `reconcile` with `repair: true`; then settle"
        if different
        else "",
    }


def _examples(end: str, examples: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """Old keys of rows that met an end, with the reason or the parents that they lack, as a table."""
    rows = examples.get(end)
    if not rows:
        return {}
    why = {"rejected": "reason", "waiting": "waits for", "orphans": "why"}[end]
    return {
        "examples": dg.MetadataValue.table([dg.TableRecord({"key": key, why: text}) for key, text in rows])
    }


def _counts(what: str, counts: dict[str, int]) -> Any:
    top = sorted(counts.items(), key=lambda pair: -pair[1])[:20]
    return dg.MetadataValue.table([dg.TableRecord({what: name, "rows": count}) for name, count in top])


def _columns(plan: EntityPlan, source: dg.AssetKey) -> dict[str, Any]:
    """The target's columns and where each comes from."""
    lineage = {
        column.target: [dg.TableColumnDep(asset_key=source, column_name=name) for name in column.origins]
        for column in plan.columns
    }
    for edge in plan.edges:
        for target, name in zip(edge.target_columns, edge.source_columns, strict=False):
            lineage[target] = [dg.TableColumnDep(asset_key=source, column_name=name)]
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name, column.type, constraints=dg.TableColumnConstraints(nullable=not column.not_null)
            )
            for column in plan.target.columns.values()
        ]
    )
    return {"dagster/column_schema": schema, "dagster/column_lineage": dg.TableColumnLineage(lineage)}

"""The loading half of the pipeline: what was handed over goes into the target, then is held against its stage."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg

from ferry import constraints, ledger, vanished
from ferry.digest import digest
from ferry.errors import FerryError, PromiseBroken
from ferry.handover import (
    LOADED,
    Begin,
    Channel,
    Chunk,
    End,
    Event,
    Kept,
    LoadedPartition,
    PartitionFailed,
    Progress,
    Rows,
)
from ferry.ledger import Outcomes
from ferry.load import loaded_before
from ferry.loader import Loader
from ferry.loaders import Loaders, most_loaders
from ferry.plan import EntityPlan
from ferry.reconcile import Reconciliation, compare
from ferry.settings import Settings
from ferry.stage import Manifest, Stage
from ferry.targets.errors import told
from ferry.verdict import Judge


def load_all(loader: Loader, settings: Settings, channel: Channel) -> Iterator[Event]:
    """Load what the reading thread hands over, then hold every partition that was loaded against its stage."""
    plan, most = loader.plan, most_loaders(loader.plan, settings.loaders)
    done: dict[str, Manifest] = {}
    broken: set[str] = set()
    outcomes, skipped, began = Outcomes(), 0, time.monotonic()
    before: dict[int, dict[str, Any]] = {}

    def another() -> Loader:
        return Loader(loader.plans, plan.name, settings, loader.run_id)

    def counted(ended: list[Chunk]) -> Iterator[Event]:
        nonlocal skipped
        for chunk in ended:
            outcomes.add(chunk.outcomes)
            skipped += chunk.skipped
            yield Progress(plan.name, chunk.partition, chunk.rows, LOADED)

    with Loaders[Chunk](loader, another, most) as side_by_side:
        while (item := channel.get()) is not None:
            try:
                if not isinstance(item, Rows | Kept):
                    yield from counted(side_by_side.finish())
                if isinstance(item, PartitionFailed):
                    broken.add(item.partition)
                    yield item
                    continue
                if item.partition in broken:
                    continue
                match item:
                    case Begin(partition):
                        outcomes, skipped, began = Outcomes(), 0, time.monotonic()
                        before = loader.begin(partition)
                        always = plan.ahead or plan.unordered
                        if plan.declaration.target.constraints == "at_end" and (always or not before):
                            constraints.set_aside(loader.connection, plan)
                    case Rows():
                        yield from counted(side_by_side.start(item.load(before)))
                    case Kept(partition, manifest):
                        stage = Stage(settings.stage_root, plan.name, partition)
                        for chunk in _kept(loader, stage, manifest, before):
                            if isinstance(chunk, Chunk):
                                yield from counted([chunk])
                            else:
                                yield from counted(side_by_side.start(chunk.load(before)))
                        yield from counted(side_by_side.finish())
                    case End(partition, manifest):
                        close(loader, manifest, partition)
                        outcomes.check(f"{plan.name}, {partition}")
                        Stage(settings.stage_root, plan.name, partition).forget_arrived()
                        done[partition] = manifest
                        rejections = ledger.rejections(loader.connection, plan.name, (partition,))
                        seconds = time.monotonic() - began
                        some = outcomes.rejected or outcomes.waiting
                        examples = examples_of(loader.connection, plan, partition) if some else {}
                        yield LoadedPartition(
                            partition, manifest, outcomes, skipped, rejections, seconds, examples
                        )
                    case _:
                        yield item
            except (FerryError, psycopg.Error) as error:
                broken.add(item.partition)
                yield PartitionFailed(item.partition, worded(error, plan.name, item.partition), LOADED)
                if loader.connection.closed or loader.connection.broken:
                    raise
    loader.unlock()
    yield from reconcile(loader, settings, done)


def close(loader: Loader, manifest: Manifest, partition: str) -> None:
    """Write the partition's row in the ledger, see what vanished, fill in references that were NULL first."""
    loader.link()
    if _may_have_lost(loader, manifest, partition):
        vanished.note(loader, manifest, partition)
    try:
        with loader.connection.transaction():
            loader.take_turn()
            ledger.close_partition(
                loader.connection,
                entity=loader.plan.name,
                partition=partition,
                stage_id=manifest.stage_id,
                content_hash=manifest.content_hash,
                plan_hash=loader.plan.plan_hash,
                taken_at=manifest.taken_at,
                rows=manifest.rows,
                chunks=len(manifest.parts),
                run_id=loader.run_id,
            )
    except PromiseBroken:
        # The next load goes by what is in the target, and writes what was found wrong anew.
        ledger.doubt(loader.connection, loader.plan.name, partition)
        raise


def _may_have_lost(loader: Loader, manifest: Manifest, partition: str) -> bool:
    """Whether this partition was loaded, wholly or in part, with rows that may not be in its stage now.

    Also whether any that had vanished may be back.
    """
    row = loader.connection.execute(
        "select content_hash, exists (select from ferry.vanished_rows v where v.entity = p.entity)"
        " from ferry.partitions p where entity = %s and partition = %s",
        (loader.plan.name, partition),
    ).fetchone()
    if row is None:
        return partition in loader.begun
    if partition in loader.torn:
        return True
    return row[0] != manifest.content_hash and (row[0] != manifest.since or row[1])


def examples_of(
    connection: psycopg.Connection, plan: EntityPlan, partition: str
) -> dict[str, list[tuple[str, str]]]:
    """Some keys of what was not loaded; none of an entity whose keys, or those it refers to, are personal."""
    shown = {*plan.source_key, *(name for edge in plan.edges for name in edge.source_columns)}
    return {} if plan.personal & shown else ledger.examples(connection, plan.name, partition)


def _kept(
    loader: Loader, stage: Stage, manifest: Manifest, before: dict[int, dict[str, Any]]
) -> Iterator[Chunk | Rows]:
    """The parts of a stage that was kept: done by the ledger, or read back because they were not loaded yet."""
    judge = None
    for part in manifest.parts:
        again = loaded_before(loader, part, before)
        # Which rows of a part repeat a key, the others decide: `load_part` compares them.
        if again is not None and not (manifest.duplicate_keys or again.rejected):
            yield Chunk(stage.partition, part.rows, again, True)
            continue
        judge = judge or Judge(loader.plan)
        table = stage.read(manifest, part)
        verdict = judge.judge(table, stage.duplicates(manifest))
        yield Rows(stage.partition, manifest.stage_id, part, table, verdict)


def reconcile(loader: Loader, settings: Settings, manifests: dict[str, Manifest]) -> Iterator[Reconciliation]:
    """The second hop for some partitions: the digest first, row by row where it cannot tell or does not agree.

    The ledger keeps what was found: nothing comes to, or is decided about, the children of what is not as it should be.
    """
    found = digest(loader, manifests) or {}
    judge: Judge | None = None
    for partition, manifest in manifests.items():
        result = found.get(partition)
        if result is None or not result.reconciled:
            judge = judge or Judge(loader.plan)
            stage = Stage(settings.stage_root, loader.plan.name, partition)
            detailed = compare(loader, stage, manifest, judge)
            if result is not None and detailed.reconciled and not result.reconciled:
                # The target was altered in rows that the stage no longer has: the digest's count stands.
                detailed.different = result.different
            result = detailed
        ledger.reconciled(loader.connection, loader.plan.name, partition, result.different, loader.run_id)
        yield result


def worded(error: FerryError | psycopg.Error, name: str, partition: str) -> FerryError:
    """What went wrong in a partition, as an error that says whether trying again can help."""
    return error if isinstance(error, FerryError) else told(error, f"{name}, {partition}")

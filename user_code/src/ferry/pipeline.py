"""The way a row takes through all stages, for one entity and a batch of its partitions.

One thread reads, stages and judges; the caller's thread loads. Between them lies a short queue, so that memory holds
a few parts whatever the size of the data. A partition that fails does not stop the others: its error is an event
like any other, and the caller decides what to make of it.
"""

import random
import threading
import time
from collections.abc import Iterator

import psycopg

from ferry import ledger, lost_entries
from ferry.errors import FerryError, TransientError
from ferry.handover import (
    LOADED,
    RAW,
    STAGES,
    VALIDATED,
    Begin,
    Channel,
    End,
    Event,
    Judged,
    Kept,
    LoadedPartition,
    PartitionFailed,
    Progress,
    Rows,
    Staged,
)
from ferry.loader import Loader
from ferry.loading import load_all, reconcile, worded
from ferry.memory import give_back
from ferry.plan import EntityPlan, MigrationPlan
from ferry.reading import read_all
from ferry.reconcile import Reconciliation
from ferry.replay import replay
from ferry.settings import Settings
from ferry.stage import Stage

__all__ = [
    "LOADED",
    "RAW",
    "STAGES",
    "VALIDATED",
    "Event",
    "Judged",
    "LoadedPartition",
    "PartitionFailed",
    "Progress",
    "Staged",
    "carry",
    "hold",
]

LONGEST_PAUSE = 240.0

give_back()


def carry(
    plans: MigrationPlan,
    name: str,
    partitions: tuple[str, ...],
    settings: Settings,
    *,
    run_id: str = "",
    stages: tuple[str, ...] = STAGES,
) -> Iterator[Event]:
    """Take the rows of some partitions of one entity through the stages that are asked for.

    Transient errors are tried again, the partition concerned only, with growing pauses; what is loaded stays loaded.

    Args:
        plans: the whole plan.
        name: the entity.
        partitions: keys of its scheme; each is checked before anything is read.
        settings: chunk sizes, retries, connections.
        run_id: recorded in the ledger.
        stages: a run of later stages alone reads what the earlier ones left in the staging area.

    Yields:
        Events in the order in which things happen; `PartitionFailed` last for each partition that failed.
    """
    plan = plans[name]
    for partition in partitions:
        plan.scheme.window(partition, name)
    todo, wanted = partitions, set(stages)
    staged: set[str] = set()
    for attempt in range(settings.retries + 1):
        failed: list[PartitionFailed] = []
        for event in _carry_once(plans, plan, todo, settings, run_id, wanted, frozenset(staged)):
            if isinstance(event, PartitionFailed):
                failed.append(event)
            else:
                if isinstance(event, Staged):
                    staged.add(event.partition)
                yield event
        retryable = [event for event in failed if event.error.retryable and attempt < settings.retries]
        for event in failed:
            if event not in retryable:
                if event.stage == LOADED and not event.error.retryable:
                    # Somebody has to mend something, in the source perhaps: the next run reads it anew.
                    Stage(settings.stage_root, name, event.partition).forget_arrived()
                yield event
        if not retryable:
            return
        todo = tuple(event.partition for event in retryable)
        time.sleep(pause(settings, attempt, [event.error for event in retryable]))


def hold(
    plans: MigrationPlan,
    entities: tuple[str, ...],
    settings: Settings,
    *,
    run_id: str = "",
    repair: bool = False,
) -> Iterator[tuple[str, Reconciliation]]:
    """Hold the target against whatever is staged of some entities (all if none is named), partition by partition.

    Args:
        plans: the whole plan.
        entities: whose rows.
        settings: connections and the staging area.
        run_id: recorded in the ledger, where something is put right.
        repair: load what differs from the stage again: rows get their values, and their keys, back.

    Yields:
        The entity and what was found; what is put right is counted, and named, as `repaired`.
    """
    repaired = False
    for name in plans.order:
        if entities and name not in entities:
            continue
        with Loader(plans, name, settings, run_id) as loader:
            stages = {key: Stage(settings.stage_root, name, key) for key in plans[name].scheme.keys}
            staged = {key: manifest for key, stage in stages.items() if (manifest := stage.manifest())}
            found = {one.partition: one for one in reconcile(loader, settings, staged)}
            wrong = [one for one in found.values() if repair and one.different]
            for one in wrong:
                loader.lock(one.partition)
                ledger.doubt(loader.connection, name, one.partition)
                loader.unlock()
        todo = tuple(one.partition for one in wrong)
        for event in carry(plans, name, todo, settings, run_id=run_id, stages=(LOADED,)) if todo else ():
            if isinstance(event, PartitionFailed):
                raise event.error
            if isinstance(event, Reconciliation):
                event.repaired = found[event.partition].different - event.different
                event.differences = event.differences or found[event.partition].differences
                found[event.partition] = event
                repaired = True
        yield from ((name, one) for one in found.values())
    if repaired:
        # A row may have been refused because somebody had removed its parent, which is back only now.
        replay(plans, settings, entities, reason="target_refused", run_id=run_id)


def pause(settings: Settings, attempt: int, errors: list[FerryError]) -> float:
    """Seconds until the next attempt: they double, with jitter, up to a few minutes, or are what somebody asked for."""
    asked = [e.retry_after for e in errors if isinstance(e, TransientError) and e.retry_after]
    grown = min(settings.retry_seconds * 2**attempt, LONGEST_PAUSE)
    return max([grown * random.uniform(0.5, 1.5), *asked])  # noqa: S311 - jitter


def _carry_once(
    plans: MigrationPlan,
    plan: EntityPlan,
    partitions: tuple[str, ...],
    settings: Settings,
    run_id: str,
    wanted: set[str],
    staged: frozenset[str],
) -> Iterator[Event]:
    channel = Channel(settings.read_ahead)
    stopped = threading.Event()
    finished: set[str] = set()
    reader: threading.Thread | None = None

    def read(some: tuple[str, ...]) -> threading.Thread:
        what = (plans, plan, some, settings, wanted, staged, channel, stopped)
        thread = threading.Thread(target=read_all, args=what, name=f"read {plan.name}", daemon=True)
        thread.start()
        return thread

    try:
        if LOADED in wanted:
            try:
                with Loader(plans, plan.name, settings, run_id) as loader:
                    # The stage tells of what was loaded, until reading makes it anew.
                    for partition, error in lost_entries.put_back(loader, partitions).items():
                        finished.add(partition)
                        yield PartitionFailed(partition, error, LOADED)
                    reader = read(tuple(one for one in partitions if one not in finished))
                    for event in load_all(loader, settings, channel):
                        if isinstance(event, Reconciliation | PartitionFailed):
                            finished.add(event.partition)
                        yield event
            except (FerryError, psycopg.Error) as error:
                for partition in partitions:
                    if partition not in finished:
                        yield PartitionFailed(partition, worded(error, plan.name, partition), LOADED)
        else:
            reader = read(partitions)
            while (item := channel.get()) is not None:
                if not isinstance(item, Rows | Kept | Begin | End):
                    yield item
    finally:
        stopped.set()
        while reader is not None and reader.is_alive():
            channel.drain()
            reader.join(0.05)

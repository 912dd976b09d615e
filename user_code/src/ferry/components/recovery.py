"""What a run has still to do that goes on from a failed one.

Dagster repeats a failed op with all partitions that its run had. Those that the run before did make need not be read
from the source again: their materializations say that they are there.
"""

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG, RESUME_RETRY_TAG

GOES_ON = (RESUME_RETRY_TAG, ASSET_RESUME_RETRY_TAG)
"""Tags of a run that goes on from the failed one before it, rather than from scratch."""


def still_to_do(
    instance: DagsterInstance, run: DagsterRun, step: str, asset: dg.AssetKey, partitions: tuple[str, ...]
) -> tuple[str, ...]:
    """The partitions that no run of the chain of re-executions made; all of them if this run begins anew.

    Args:
        instance: whose events count.
        run: the run that has to know.
        step: the op's step.
        asset: the last asset that the op makes of a partition.
        partitions: what the run was given.
    """
    made: set[str] = set()
    while "true" in map(run.tags.get, GOES_ON) and run.parent_run_id:
        before = instance.get_run_by_id(run.parent_run_id)
        if before is None:
            break
        run = before
        made |= _made(instance, run.run_id, asset) - _failed(instance, run.run_id, step)
    return tuple(partition for partition in partitions if partition not in made)


def _made(instance: DagsterInstance, run_id: str, asset: dg.AssetKey) -> set[str]:
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    events = (record.event_log_entry.asset_materialization for record in records)
    return {e.partition for e in events if e is not None and e.asset_key == asset and e.partition}


def _failed(instance: DagsterInstance, run_id: str, step: str) -> set[str]:
    """What the step's failure names: a partition may be loaded, and found wrong after that."""
    for record in instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.step_key == step:
            data = event.step_failure_data.user_failure_data
            told = data.metadata.get("partitions") if data else None
            if isinstance(told, dg.JsonMetadataValue) and isinstance(told.data, list):
                return {str(partition) for partition in told.data}
    return set()

"""Checks evaluated anew: what settling, a replay or a repair changed of partitions that no run loads just then."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType

from ferry import ledger
from ferry.catalogue import connect
from ferry.components import events
from ferry.components.entity import asset_keys
from ferry.loading import examples_of
from ferry.pipeline import LOADED
from ferry.plan import MigrationPlan
from ferry.settings import Settings

_LOG = logging.getLogger(__name__)
Counts = dict[tuple[str, str, str], int]
"""Of an entity, its partition and a check, how many rows are in its way, by the ledger."""


@dg.op
def ferry_command() -> None:
    """Stands in the run of a command for what it did; it is never executed."""


@dg.job
def told_by_a_command() -> None:
    """A command outside of Dagster, in the list of runs, because checks changed by it."""
    ferry_command()


@contextmanager
def evaluating_checks(
    plans: MigrationPlan, settings: Settings, instance: dg.DagsterInstance, run_id: str = ""
) -> Iterator[None]:
    """Evaluate `settled`, `no_orphans` and `reconciled` wherever the block changes how many rows are in their way.

    What a load changes it tells itself. If the block fails, what it did before that is told all the same. What cannot
    be told is a warning: the block has done its work, and the ledger knows.

    Args:
        plans: the whole plan.
        settings: connections.
        instance: Dagster's.
        run_id: the run that the block is of. Without one each block that changes something is a run of its own, to
            which the UI leads from the evaluation: Dagster keeps one evaluation of a partition's check for a run, and
            one in all for what is of none.
    """
    before = _counts(plans, settings)
    try:
        yield
    finally:
        try:
            own = run_id or str(uuid.uuid4())
            if _tell(plans, settings, instance, before, own) and not run_id:
                _record(instance, own)
        except Exception as error:
            _LOG.warning("Dagster does not hear of what changed: %s", _first_line(error))


@contextmanager
def evaluating_checks_at_home(plans: MigrationPlan, settings: Settings) -> Iterator[None]:
    """The same, in the instance of `DAGSTER_HOME`."""
    with dg.DagsterInstance.get() as instance, evaluating_checks(plans, settings, instance):
        yield


def _tell(
    plans: MigrationPlan, settings: Settings, instance: dg.DagsterInstance, before: Counts, run_id: str
) -> bool:
    after = _counts(plans, settings)
    changed = [place for place in {**before, **after} if before.get(place, 0) != after.get(place, 0)]
    for target in _targets(plans):
        with connect(settings.url(target), target, autocommit=True) as connection:
            for name, partition, check in changed:
                plan, count = plans[name], after.get((name, partition, check), 0)
                if plan.declaration.target.connection != target:
                    continue
                examples = examples_of(connection, plan, partition) if count else {}
                evaluation = dg.AssetCheckEvaluation(
                    asset_key=asset_keys(plan.entity)[LOADED],
                    check_name=check,
                    partition=partition if plan.scheme.cuts else None,
                    **{
                        "settled": events.settled(count, examples),
                        "no_orphans": events.no_orphans(count, examples),
                        "reconciled": events.reconciled(count),
                    }[check],
                )
                event = DagsterEvent(
                    DagsterEventType.ASSET_CHECK_EVALUATION.value, "ferry", event_specific_data=evaluation
                )
                instance.report_dagster_event(event, run_id)
    return bool(changed)


def _record(instance: dg.DagsterInstance, run_id: str) -> None:
    """Keep the command as a run that is over: it has begun nowhere, so that nobody looks for its process meanwhile."""
    instance.create_run_for_job(told_by_a_command, run_id=run_id)
    for kind in (DagsterEventType.PIPELINE_START, DagsterEventType.PIPELINE_SUCCESS):
        words = "A command has changed what these checks say"
        instance.report_dagster_event(DagsterEvent(kind.value, told_by_a_command.name, message=words), run_id)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _counts(plans: MigrationPlan, settings: Settings) -> Counts:
    found: Counts = {}
    for target in _targets(plans):
        with connect(settings.url(target), target, autocommit=True) as connection:
            if not ledger.is_prepared(connection):
                continue
            for name, plan in plans.entities.items():
                if plan.declaration.target.connection == target:
                    ends = ledger.by_partition(connection, name)
                    found |= {(name, key, "settled"): one.waiting for key, one in ends.items()}
                    orphans, different = (
                        ledger.orphans(connection, name),
                        ledger.unreconciled(connection, name),
                    )
                    found |= {(name, key, "no_orphans"): count for key, count in orphans.items()}
                    found |= {(name, key, "reconciled"): count for key, count in different.items()}
    return found


def _targets(plans: MigrationPlan) -> list[str]:
    return sorted({plan.declaration.target.connection for plan in plans.entities.values()})

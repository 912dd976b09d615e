"""Checks evaluated anew: what settling, a replay or a repair changed of partitions that no run loads just then."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dagster as dg

from ferry import ledger
from ferry.catalogue import connect
from ferry.components import events
from ferry.components.entity import asset_keys
from ferry.errors import FerryError
from ferry.loading import examples_of
from ferry.pipeline import LOADED
from ferry.plan import MigrationPlan
from ferry.settings import Settings

Counts = dict[tuple[str, str, str], int]
"""Of an entity, its partition and a check, how many rows are in its way, by the ledger."""


@contextmanager
def evaluating_checks(
    plans: MigrationPlan, settings: Settings, instance: dg.DagsterInstance
) -> Iterator[None]:
    """Evaluate `settled`, `no_orphans` and `reconciled` wherever the block changes how many rows are in their way.

    What a load changes it tells itself. If the block fails, what it did before that is told all the same.
    """
    before = _counts(plans, settings)
    try:
        yield
    except BaseException:
        with suppress(FerryError):
            _tell(plans, settings, instance, before)
        raise
    _tell(plans, settings, instance, before)


@contextmanager
def evaluating_checks_at_home(plans: MigrationPlan, settings: Settings) -> Iterator[None]:
    """The same, in the instance of `DAGSTER_HOME`."""
    with dg.DagsterInstance.get() as instance, evaluating_checks(plans, settings, instance):
        yield


def _tell(plans: MigrationPlan, settings: Settings, instance: dg.DagsterInstance, before: Counts) -> None:
    after = _counts(plans, settings)
    changed = [place for place in {**before, **after} if before.get(place, 0) != after.get(place, 0)]
    for target in _targets(plans):
        with connect(settings.url(target), target, autocommit=True) as connection:
            for name, partition, check in changed:
                plan, count = plans[name], after.get((name, partition, check), 0)
                if plan.declaration.target.connection != target:
                    continue
                examples = examples_of(connection, plan, partition) if count else {}
                instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(
                        asset_key=asset_keys(plan.entity)[LOADED],
                        check_name=check,
                        partition=partition if plan.scheme.cuts else None,
                        **{
                            "settled": events.settled(count, examples),
                            "no_orphans": events.no_orphans(count, examples),
                            "reconciled": events.reconciled(count),
                        }[check],
                    )
                )


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

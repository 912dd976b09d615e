"""What Dagster hears of settling: the check `no_orphans` of each partition whose waiting rows met their end."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ferry import ledger
from ferry.catalogue import connect
from ferry.components.entity import asset_keys
from ferry.pipeline import LOADED
from ferry.plan import MigrationPlan
from ferry.settings import Settings


@contextmanager
def telling_of_settled(
    plans: MigrationPlan, settings: Settings, instance: dg.DagsterInstance
) -> Iterator[None]:
    """Evaluate `no_orphans` anew wherever the block changes how many rows wait; a load tells of its own."""
    before = _waiting(plans, settings)
    yield
    for (name, partition), waiting in _waiting(plans, settings).items():
        if waiting != before.get((name, partition), waiting):
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=asset_keys(plans[name].entity)[LOADED],
                    check_name="no_orphans",
                    passed=waiting == 0,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"waiting": waiting},
                    description="Settled"
                    if not waiting
                    else "Some were settled; the others still wait for parents",
                    partition=partition if plans[name].scheme.cuts else None,
                )
            )


def _waiting(plans: MigrationPlan, settings: Settings) -> dict[tuple[str, str], int]:
    """Entity and partition → rows that wait, by the ledger."""
    found: dict[tuple[str, str], int] = {}
    for target in sorted({plan.declaration.target.connection for plan in plans.entities.values()}):
        with connect(settings.url(target), target, autocommit=True) as connection:
            if ledger.is_prepared(connection):
                for name, plan in plans.entities.items():
                    if plan.declaration.target.connection == target:
                        counts = ledger.by_partition(connection, name)
                        found |= {(name, partition): one.waiting for partition, one in counts.items()}
    return found

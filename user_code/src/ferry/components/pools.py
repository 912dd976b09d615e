"""Pools: how many runs may read from a source, and how many may write to a target, at the same time.

Each connection is a pool of Dagster's under its own name, without a limit until somebody sets one. An op takes one pool
by itself, that of its source; a run is not even started while that is full. What else it works on it takes here.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dagster as dg
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

from ferry.plan import MigrationPlan


@contextmanager
def holding(context: dg.OpExecutionContext | dg.AssetExecutionContext, *pools: str) -> Iterator[None]:
    """Hold a slot of each pool, one after the other in the order given, waiting for those that are full.

    Whoever takes several names sources before targets, so that no two wait for each other. A run that dies gives its
    slots back when Dagster has noticed (`free_slots_after_run_end_seconds`).
    """
    with InstanceConcurrencyContext(context.instance, context.run) as slots, ExitStack() as held:
        for pool in dict.fromkeys(pools):
            # A key of its own: the step's is that of the slot which the executor took.
            key = f"{context.op_execution_context.op_handle}: {pool}"
            held.callback(slots.free_step, key)
            told = False
            while not slots.claim(pool, key):
                if not told:
                    context.log.info(f"waits for a slot of the pool {pool}")
                    told = True
                time.sleep(1)
        yield


def sources_of(plans: MigrationPlan) -> list[str]:
    """The pools of all that is read."""
    return sorted({entity.declaration.source.connection for entity in plans.migration.entities.values()})


def targets_of(plans: MigrationPlan) -> list[str]:
    """The pools of all that is written to."""
    return sorted({entity.declaration.target.connection for entity in plans.migration.entities.values()})

"""The asset `delivered_<entity>`: rows of a journal over at the API behind it, with the check `delivered`."""

from collections.abc import Callable
from dataclasses import asdict

import dagster as dg

from ferry.components.resources import FerryResource
from ferry.declaration import Entity, Migration
from ferry.deliver import deliver, read_back
from ferry.edges import circular_parents
from ferry.errors import FerryError
from ferry.plan import plan_migration

# Enough to see that the API keeps what it is given; `ferry deliver --check` reads all.
LOOKED_AT = 100


def delivered_key(name: str) -> dg.AssetKey:
    """The key of an entity's delivery."""
    return dg.AssetKey(f"delivered_{name}")


def delivery(
    migration: Migration, entity: Entity, loaded: Callable[[Entity], dg.AssetKey]
) -> dg.AssetsDefinition:
    """The asset that sends an entity's journal on, after those of its parents.

    Args:
        migration: all entities.
        entity: one whose target declares `api`.
        loaded: gives the key of an entity's journal, the asset `loaded_…`.
    """
    api = entity.declaration.target.api
    assert api is not None
    # What goes inside its rows has to be loaded, and what those refer to delivered, before it is sent.
    inside = [one for one in migration.entities.values() if _goes_into(one, entity.name)]
    circular = circular_parents(migration, entity.name)
    names = [
        *migration.parents(entity.name),
        *(name for one in inside for name in migration.parents(one.name)),
    ]
    parents = [delivered_key(name) for name in dict.fromkeys(names) if name not in (*circular, entity.name)]
    key = delivered_key(entity.name)

    @dg.asset(
        key=key,
        deps=[*(loaded(one) for one in (entity, *inside)), *parents],
        description=f"Rows of {entity.declaration.target.table} at {api.label}: each sent once.",
        group_name=entity.declaration.group,
        owners=list(entity.declaration.owners),
        tags={**entity.declaration.tags, "ferry/entity": entity.name},
        kinds={"shopify" if api.shopify else "rest", "api"} if not api.within else {"api"},
        pool=api.connection,
        check_specs=[
            dg.AssetCheckSpec(
                "delivered", asset=key, description="Every row of the journal is over there, as it was sent"
            )
        ],
    )
    def run(context: dg.AssetExecutionContext, ferry: FerryResource) -> dg.MaterializeResult:
        settings = ferry.settings()
        try:
            plans = plan_migration(migration, settings, only=(entity.name,))
            done = deliver(plans, entity.name, settings, context.run.run_id)
            compared, differences = read_back(plans, entity.name, settings, LOOKED_AT)
        except FerryError as error:
            if not error.retryable:
                context.instance.add_run_tags(context.run.run_id, {"dagster/max_retries": "0"})
            raise dg.Failure(str(error), allow_retries=error.retryable) from None
        counts = {name: value for name, value in asdict(done).items() if isinstance(value, int)}
        said = [*done.problems.values(), *differences][:20]
        examples = dg.MetadataValue.md("\n".join(f"- {line}" for line in said) or "none")
        there = done.created + done.updated + done.unchanged
        return dg.MaterializeResult(
            metadata={**counts, "dagster/row_count": there, "refusals": examples},
            check_results=[
                dg.AssetCheckResult(
                    check_name="delivered",
                    passed=not (done.refused or done.held or done.waiting or differences),
                    severity=dg.AssetCheckSeverity.ERROR if differences else dg.AssetCheckSeverity.WARN,
                    metadata={
                        "refused": done.refused,
                        "held": done.held,
                        "waiting": done.waiting,
                        "read back": compared,
                    },
                )
            ],
        )

    return run


def _goes_into(entity: Entity, name: str) -> bool:
    api = entity.declaration.target.api
    return api is not None and api.within is not None and api.within.entity == name

"""Jobs for whoever has only the UI: what the command line does beside loading."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from ferry.components.entity import migration_in
from ferry.components.resources import FerryResource
from ferry.errors import FerryError
from ferry.plan import plan_migration
from ferry.settle import settle


class SettleConfig(dg.Config):
    """Which entities are settled; all of them if the list is empty."""

    entities: list[str] = Field(default_factory=list, description="entities; all if empty")


def migration_jobs(folder: Path) -> dg.Definitions:
    """The job `settle` for the entities below `folder` (the code location's `defs`)."""

    @dg.op(name="settle_entities")
    def settle_entities(context: dg.OpExecutionContext, config: SettleConfig, ferry: FerryResource) -> None:
        """Load children whose parents have come; decide about the rest where all parents are complete."""
        try:
            settings = ferry.settings()
            plans = plan_migration(migration_in(folder), settings)
            results = settle(plans, settings, context.run_id, only=tuple(config.entities))
        except FerryError as error:
            raise dg.Failure(str(error), allow_retries=error.retryable) from None
        records = [
            dg.TableRecord(
                {
                    "entity": result.entity,
                    "loaded": result.loaded,
                    "rejected": sum(result.rejected.values()),
                    "waiting": result.waiting,
                    "waits for": ", ".join(result.waits_for),
                }
            )
            for result in results
        ]
        context.add_output_metadata({"settled": dg.MetadataValue.table(records)})

    @dg.job(name="settle", description="Settle the migration: no row waits that need not wait.")
    def settle_job() -> None:
        settle_entities()

    return dg.Definitions(jobs=[settle_job])

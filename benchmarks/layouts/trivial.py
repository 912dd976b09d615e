"""An asset that does nothing, over fifty days, as the official example declares one and as Ferry's entities are."""

from typing import Any

import dagster as dg

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-20")


def declared(name: str = "trivial", **policy: Any) -> dg.AssetsDefinition:
    """The asset; without a policy a backfill makes one run of each day."""

    @dg.asset(name=name, partitions_def=DAYS, **policy)
    def trivial(context: dg.AssetExecutionContext) -> None:
        for day in context.partition_keys:
            context.log.info(day)

    return trivial


BATCHED = dg.BackfillPolicy.single_run()

official = dg.Definitions(assets=[declared(), declared("trivial_batched", backfill_policy=BATCHED)])
ferry = dg.Definitions(assets=[declared(backfill_policy=BATCHED)], executor=dg.in_process_executor)

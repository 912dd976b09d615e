"""What Dagster starts by itself: the conditions that an entity declares, and the sensor and schedule they need."""

from collections.abc import Iterable

import dagster as dg


def condition_of(declared: str, upstream: dg.AssetKey) -> dg.AutomationCondition | None:
    """The condition of one asset of an entity.

    Args:
        declared: the declaration's `automation`.
        upstream: the asset that its rows come from: the observed source, or the entity's own stage before it.
    """
    if declared == "none":
        return None
    if declared == "eager":
        # A sync may have changed rows of any month, so not only the newest partition follows it.
        return dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    changed = dg.AutomationCondition.data_version_changed() | dg.AutomationCondition.will_be_requested()
    return (
        dg.AutomationCondition.any_deps_match(changed)
        .allow(dg.AssetSelection.assets(upstream))
        .since_last_handled()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("the source changed")


def source_automation(observed: Iterable[dg.AssetsDefinition], cron: str = "5 * * * *") -> dg.Definitions:
    """The sensor `automation`, which is on, and the schedules `watch_…`, which are not.

    Args:
        observed: the observed sources; those that are cut alike are looked at in one run.
        cron: when.
    """
    alike: dict[str, list[dg.AssetsDefinition]] = {}
    for one in observed:
        cut = one.partitions_def
        alike.setdefault(cut.get_serializable_unique_identifier() if cut else "", []).append(one)
    schedules = [_schedule(group, cron) for _, group in sorted(alike.items())]
    sensor = dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts what the entities' `automation` says.",
    )
    return dg.Definitions(sensors=[sensor], schedules=schedules)


def _schedule(group: list[dg.AssetsDefinition], cron: str) -> dg.ScheduleDefinition:
    name = f"watch_{'_'.join(min(one.key for one in group).path)}"
    job = dg.define_asset_job(
        name,
        dg.AssetSelection.assets(*(one.key for one in group)),
        description="Rows and a fingerprint of each partition, as the source computes them.",
    )

    @dg.schedule(job=job, cron_schedule=cron, name=name)
    def look() -> dg.RunRequest:
        """Look at every partition of these sources."""
        return dg.RunRequest(tags=every_partition(group[0]))

    return look


def every_partition(asset: dg.AssetsDefinition) -> dict[str, str]:
    """The tags of a run over all partitions of an asset."""
    if asset.partitions_def is None:
        return {}
    keys = asset.partitions_def.get_partition_keys()
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}

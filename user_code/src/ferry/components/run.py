"""Run a migration through Dagster in this process: the same definitions, ops and events as on the platform.

One run an entity, all its partitions in one batch; then everything is settled. The instance is `DAGSTER_HOME`'s, so
that the UI shows what happened, or one that lasts as long as the process.
"""

import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ferry import ledger
from ferry.catalogue import connect
from ferry.components import events
from ferry.components.checks import evaluating_checks
from ferry.components.entity import entity_assets
from ferry.components.partitions import show_keys, tags_of_runs
from ferry.components.resources import FerryResource
from ferry.declaration import migration_in
from ferry.deliver import deliver_all
from ferry.known_keys import discover
from ferry.ledger import Outcomes
from ferry.memory import peak_mib
from ferry.pipeline import Event, LoadedPartition, PartitionFailed
from ferry.plan import MigrationPlan, plan_migration
from ferry.reconcile import Reconciliation
from ferry.settings import Settings
from ferry.settle import settle
from ferry.start import importing


@dataclass
class EntityReport:
    """What a run did to one entity, after settling."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    reconciled: bool = True
    rejections: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    reconcile_seconds: float = 0.0
    peak_rss_mib: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the report file."""
        speed = round(self.outcomes.extracted / self.seconds) if self.seconds else 0
        return {
            **self.outcomes.as_dict(),
            "reconciled": self.reconciled and not self.failed,
            "rejections": self.rejections,
            "seconds": round(self.seconds, 3),
            "reconcile_seconds": round(self.reconcile_seconds, 3),
            "rows_per_second": speed,
            "peak_rss_mib": round(self.peak_rss_mib, 1),
            "failed_partitions": sorted(self.failed),
        }


@dataclass
class Report:
    """What a run did, entity by entity."""

    entities: dict[str, EntityReport] = field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_mib: float = 0.0
    whole: bool = True
    delivered: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def kept_every_promise(self) -> bool:
        """Every row accounted for, every partition loaded and reconciled, and nothing left waiting."""
        return all(
            report.reconciled and not report.failed and (report.outcomes.waiting == 0 or not self.whole)
            for report in self.entities.values()
        )

    def as_dict(self) -> dict[str, Any]:
        """As it is written to `report.json`."""
        return {
            "reconciled": all(report.reconciled and not report.failed for report in self.entities.values()),
            "kept_every_promise": self.kept_every_promise,
            "seconds": round(self.seconds, 3),
            "peak_rss_mib": round(self.peak_rss_mib, 1),
            "rows": sum(report.outcomes.extracted for report in self.entities.values()),
            "entities": {name: report.as_dict() for name, report in self.entities.items()},
            **({"delivered": self.delivered} if self.delivered else {}),
            "errors": [
                line for report in self.entities.values() for line in dict.fromkeys(report.failed.values())
            ],
        }


def run_migration(
    folder: Path, only: tuple[str, ...], partition: str | None, *, quiet: bool = False
) -> Report:
    """Run entities (all if `only` is empty) over their partitions, settle, and report.

    Args:
        folder: of the declarations.
        only: entities, in any order; they run in the plan's.
        partition: one key, or `first:last`; all if None. Entities that are not partitioned run whole.
        quiet: show no progress bar.

    Raises:
        DeclarationError: before anything is read or written.
    """
    ferry = FerryResource()
    settings = ferry.settings()
    migration = discover(migration_in(folder), settings, only)
    plans = plan_migration(migration, settings, only=only)
    names = [name for name in plans.order if not only or name in only]
    chosen = {name: _chosen(plans, name, partition) for name in names}
    report, began = Report(whole=partition is None and not only), time.monotonic()
    with _instance() as instance, _bar(sum(len(keys) for keys in chosen.values()), quiet) as listen:
        show_keys(migration, instance)
        for name in names:
            report.entities[name] = one = EntityReport()
            started = time.monotonic()
            with _listening(one, listen):
                assets = entity_assets(migration, migration[name])
                results = [
                    dg.materialize(
                        [assets],
                        instance=instance,
                        resources={"ferry": ferry, "id_map": dg.mem_io_manager},
                        tags=tags,
                        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                        raise_on_error=False,
                    )
                    for tags in tags_of_runs(assets.partitions_def, chosen[name], instance)
                ]
            one.seconds = time.monotonic() - started
            one.peak_rss_mib = peak_mib()
            reasons = [_why(result) for result in results if not result.success]
            if reasons and not one.failed:
                one.failed[""] = "\n".join(reasons)
        with evaluating_checks(plans, settings, instance):
            settle(plans, settings, "cli")
    for delivered in deliver_all(plans, settings, "cli", tuple(names)):
        report.delivered[delivered.entity] = asdict(delivered)
    _ends(plans, settings, report, chosen)
    report.seconds = time.monotonic() - began
    report.peak_rss_mib = peak_mib()
    return report


def _why(result: dg.ExecuteInProcessResult) -> str:
    """What a run failed of that did not come as far as its partitions."""
    failures = [event for event in result.all_events if event.is_step_failure]
    data = failures[0].step_failure_data if failures else None
    message = data.user_failure_data.description if data and data.user_failure_data else None
    return message or (str(data.error) if data and data.error else "the run failed")


def _chosen(plans: MigrationPlan, name: str, partition: str | None) -> tuple[str, ...]:
    scheme = plans[name].scheme
    if partition is None or not scheme.cuts:
        return scheme.keys
    return scheme.chosen(partition, name)


def _ends(
    plans: MigrationPlan, settings: Settings, report: Report, chosen: dict[str, tuple[str, ...]]
) -> None:
    """After settling, rows that waited, or were rejected with their parent, have met their end: count them there."""
    for name, one in report.entities.items():
        target = plans[name].declaration.target.connection
        with connect(settings.url(target), target, autocommit=True) as connection:
            now = ledger.totals(connection, name, chosen[name])
            one.rejections = ledger.rejections(connection, name, chosen[name])
        mine = one.outcomes
        if mine.extracted != now.extracted:
            continue
        mine.rejected, mine.waiting = now.rejected, now.waiting
        moved = mine.extracted - sum(list(mine.as_dict().values())[1:])
        if moved < 0:  # what an API refused afterwards was counted as loaded
            mine.rejected += moved
            mine.reject(-moved)
        else:
            mine.inserted += moved


@contextmanager
def _listening(one: EntityReport, listen: Any) -> Any:
    loaded = time.monotonic()

    def hear(name: str, event: Event) -> None:
        nonlocal loaded
        listen(name, event)
        match event:
            case LoadedPartition():
                one.outcomes.add(event.outcomes)
                loaded = time.monotonic()
            case Reconciliation():
                # The target is held against the stage when all partitions are loaded.
                one.reconcile_seconds = time.monotonic() - loaded
                one.reconciled = one.reconciled and event.reconciled
            case PartitionFailed():
                one.failed[event.partition] = str(event.error)

    events.listeners.append(hear)
    try:
        yield
    finally:
        events.listeners.remove(hear)


@contextmanager
def _instance() -> Any:
    """The instance of `DAGSTER_HOME`; without it one that is gone with the process."""
    with importing():  # of the storage, and of what migrates it
        made = dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral()
    with made as instance:
        yield instance


@contextmanager
def _bar(partitions: int, quiet: bool) -> Any:
    """A progress bar over partitions, with the rows that went through, on standard error."""
    if quiet:
        yield lambda *_: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description:<14}"), BarColumn(24), MofNCompleteColumn(),
               TextColumn("{task.fields[rows]:>12,} rows"), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=partitions, rows=0)
        rows = 0

        def listen(name: str, event: Event) -> None:
            nonlocal rows
            if isinstance(event, events.Progress):
                rows += event.rows
            done = isinstance(event, LoadedPartition | PartitionFailed)
            progress.update(task, description=name, advance=1 if done else 0, rows=rows)

        yield listen

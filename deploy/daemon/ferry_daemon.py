"""Dagster's daemon, which looks at backfills when something has happened to one, not only every 30 seconds.

    python ferry_daemon.py run WORKSPACE_FILE

Dagster's loop over backfills sleeps for 30 seconds whatever happens: a backfill of two seconds' work waits 15 on
average until it is seen, and again for each step down the graph. Here the sleep ends within a second when a backfill
was launched or is being cancelled, or when a run of one has ended. All else is `dagster-daemon run`.
"""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from threading import Event

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.controller import create_daemons_from_instance, daemon_controller_from_instance
from dagster._daemon.daemon import BackfillDaemon, DaemonIterator, DagsterDaemon
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers

PAUSE = 1.0
"""Seconds between two questions whether anything has happened; each is three short queries."""

OVERLAP = timedelta(seconds=5)
"""How long after its own time stamp something may become visible in the storage."""

ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
CANCELLED = [BulkActionStatus.CANCELING, BulkActionStatus.FAILING]


class News(Event):
    """Stands in for the event that ends the daemon, where the loop over backfills sleeps on it: news end the sleep."""

    def __init__(self, stop: Event, instance: DagsterInstance) -> None:
        """Args: the event that ends the daemon, and whose backfills to watch."""
        super().__init__()
        self._stop, self._instance = stop, instance
        self._cancelled: set[str] = set()
        self._looked = self._looked_before = datetime.now(UTC)

    def wait(self, timeout: float | None = None) -> bool:
        """Return after `timeout` seconds or at the first news; with True when the daemon is to end."""
        end = time.monotonic() + (timeout or 0)
        # Each thing is news twice: at the first look the loop may still be busy with the same backfill.
        since = self._looked_before
        while not (ending := self._stop.wait(max(0.0, min(PAUSE, end - time.monotonic())))):
            asked = datetime.now(UTC)
            if time.monotonic() >= end or self._any(since):
                break
            since = max(since, asked - OVERLAP)
        self._looked_before, self._looked = self._looked, datetime.now(UTC)
        return ending

    def _any(self, since: datetime) -> bool:
        try:
            cancelled = self._instance.get_backfills(filters=BulkActionsFilter(statuses=CANCELLED))
            known, self._cancelled = self._cancelled, {each.backfill_id for each in cancelled}
            if self._cancelled - known:
                return True
            launched = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED], created_after=since)
            if self._instance.get_backfills_count(launched):
                return True
            ended = self._instance.get_runs(RunsFilter(statuses=ENDED, updated_after=since))
            return any(BACKFILL_ID_TAG in run.tags for run in ended)
        except Exception as error:
            logging.getLogger("dagster.daemon.BackfillDaemon").warning("cannot ask for news: %s", error)
            return False


class PromptBackfillDaemon(BackfillDaemon):
    """Dagster's own, with a sleep that news end."""

    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: Event
    ) -> DaemonIterator:
        """Called by Dagster in the daemon's thread."""
        news = News(shutdown_event, workspace_process_context.instance)
        yield from super().core_loop(workspace_process_context, news)


def daemons(instance: DagsterInstance) -> Iterator[DagsterDaemon]:
    """Those that Dagster would run, the one for backfills exchanged."""
    for daemon in create_daemons_from_instance(instance):
        if isinstance(daemon, BackfillDaemon):
            yield PromptBackfillDaemon(settings=instance.get_backfill_settings())
        else:
            yield daemon


def main(arguments: Sequence[str]) -> None:
    """Run until interrupted or stopped."""
    setup_interrupt_handlers()
    with ExitStack() as stack:
        stack.enter_context(capture_interrupts())
        instance = stack.enter_context(DagsterInstance.get())
        controller = stack.enter_context(
            daemon_controller_from_instance(
                instance, WorkspaceFileTarget(list(arguments)), gen_daemons=daemons
            )
        )
        controller.check_daemon_loop()


if __name__ == "__main__":
    main(sys.argv[2:])

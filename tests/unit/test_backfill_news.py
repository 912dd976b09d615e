"""The daemon's loop over backfills sleeps until something has happened to one; see deploy/daemon/ferry_daemon.py."""

import sys
import threading
import time
from pathlib import Path

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_run_for_test

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "daemon"))

from ferry_daemon import News

HOUR = 3600.0


def backfill(name: str) -> PartitionBackfill:
    """A backfill that was asked for now."""
    return PartitionBackfill(
        backfill_id=name,
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=time.time(),
    )


def launch(instance: dg.DagsterInstance) -> None:
    """A click on *Launch backfill*."""
    instance.add_backfill(backfill("new"))


def cancel(instance: dg.DagsterInstance) -> None:
    """A click on *Cancel* at the backfill that is there."""
    there = instance.get_backfill("old")
    assert there is not None
    instance.update_backfill(there.with_status(BulkActionStatus.CANCELING))


def end_a_run(instance: dg.DagsterInstance) -> None:
    """A run of the backfill that is there ends."""
    run = create_run_for_test(instance, tags={"dagster/backfill": "old"})
    instance.report_run_failed(run)


def test_the_sleep_ends_when_something_happens_to_a_backfill(tmp_path: Path) -> None:
    """An hour's sleep is over as soon as a backfill is launched or cancelled or a run of it ends, and not before."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_backfill(backfill("old"))
        news = News(threading.Event(), instance)
        for happens in (launch, cancel, end_a_run):
            news.wait(0)
            news.wait(0)  # what there was before is no news any more
            said: list[bool] = []
            sleeper = threading.Thread(target=lambda said=said: said.append(news.wait(HOUR)), daemon=True)
            sleeper.start()
            sleeper.join(1.2)
            assert said == [], f"it woke for nothing before {happens.__name__}"
            happens(instance)
            sleeper.join()
            assert said == [False]


def test_the_sleep_ends_when_the_daemon_does(tmp_path: Path) -> None:
    """The event that ends the daemon is passed on: the loop must not look once more."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        stop = threading.Event()
        news = News(stop, instance)
        stop.set()
        assert news.wait(HOUR) is True

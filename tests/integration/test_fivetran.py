"""Fivetran's connections as assets: against an emulated Fivetran over real sockets, whose syncs copy real tables."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from emulators.fivetran import CONNECTION, KEY, SECRET
from synced import Synced, each_is_refused, failure, synced

ORDERS = dg.AssetKey(["landing", "orders"])


@pytest.fixture
def shop(
    new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Synced]:
    """A connection of an emulated Fivetran, declared in a code location of this test's own."""
    account = f"fivetran+http://{KEY}:{SECRET}@{{place}}"
    with synced("fivetran", new_database, tmp_path, account) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as own:
        yield own


def looked(times: int) -> Callable[[dict[str, Any]], bool]:
    """Whether somebody has looked that often how the connection stands."""
    return lambda told: told["requests"].get(f"GET /v1/connections/{CONNECTION}", 0) >= times


def test_materializing_syncs_once_and_counts_what_landed(shop: Synced, instance: dg.DagsterInstance) -> None:
    """One sync for both tables; rows are those in the landing database, the version is the sync's end.

    Fivetran counts nothing: the rows of a sync are those that it has stamped.
    """
    assert shop.sync(instance).success
    assert shop.rows("orders") == 2000
    event = instance.get_latest_materialization_event(ORDERS)
    assert event is not None
    assert event.asset_materialization is not None
    told = event.asset_materialization.metadata
    assert told["dagster/row_count"].value == told["rows synced"].value == 2000
    assert int(str(told["bytes in the table"].value)) > 100_000
    first = (event.asset_materialization.tags or {})["dagster/data_version"]
    assert first.startswith("fivetran-20")
    assert shop.sync(instance).success
    again = instance.get_latest_materialization_event(ORDERS)
    assert again is not None
    assert again.asset_materialization is not None
    assert (again.asset_materialization.tags or {})["dagster/data_version"] > first
    assert len(shop.tool.tell()["syncs"]) == 2


def test_a_killed_run_leaves_the_sync_and_the_next_finds_it(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """SIGKILL of the run while Fivetran syncs: the next run waits for that sync and forces no second one."""
    shop.tool.control(hold=True)
    process = shop.start()
    shop.wait_for(lambda told: told["syncs"])
    process.kill()
    process.wait()
    seen = shop.tool.tell()["requests"][f"GET /v1/connections/{CONNECTION}"]
    with shop.meanwhile(looked(seen + 4), hold=False):
        assert shop.sync(instance).success
    assert [sync["status"] for sync in shop.tool.tell()["syncs"]] == ["succeeded"]


def test_a_cancelled_run_stops_its_sync_and_leaves_the_connection_enabled(shop: Synced) -> None:
    """SIGTERM: Fivetran stops a sync when its connection is paused; afterwards it is not paused any more."""
    shop.tool.control(hold=True)
    process = shop.start()
    shop.wait_for(lambda told: told["syncs"] and looked(5)(told))
    process.terminate()
    told = shop.wait_for(lambda told: told["requests"].get(f"PATCH /v1/connections/{CONNECTION}", 0) == 2)
    assert told["syncs"][0]["status"] == "cancelled"
    assert process.wait() != 0


def test_a_failed_sync_fails_with_the_reason_of_its_history(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """The connector's own words and the connection's page are in the message."""
    shop.tool.control(fail_stream="orders")
    said = failure(shop.sync(instance))
    assert "the sync failed: permission denied for table orders" in said
    assert "https://fivetran.com/dashboard/connections/" in said


def test_a_sync_that_ended_while_nobody_looked_is_taken_over(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """Fivetran goes down in the middle and the run fails; its sync ends. Re-execution takes that sync's outcome."""
    shop.declare(patience=0.5)
    shop.tool.control(hold=True)
    with shop.meanwhile(lambda told: told["syncs"] and looked(5)(told), down=True):
        dead = shop.sync(instance)
    assert "the connection broke" in failure(dead)
    shop.tool.control(hold=False)
    shop.wait_for(lambda told: told["syncs"][0]["status"] == "succeeded")
    shop.tool.control(down=False)
    assert shop.sync(instance, dagster__parent_run_id=dead.run_id).success
    assert len(shop.tool.tell()["syncs"]) == 1


def test_a_sync_that_somebody_cancels_in_fivetran_fails_the_run(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """No time of the connection moves then: its history says it, and the run does not wait for ever."""
    shop.tool.control(hold=True)
    with shop.meanwhile(lambda told: told["syncs"] and looked(5)(told), cancel=True):
        assert "the sync was cancelled" in failure(shop.sync(instance))


def test_a_sync_that_is_put_off_is_a_passing_error_and_the_next_run_asks_again(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """With a schedule by hand nobody starts it later: the run does not wait for ever. A warning is shown as one."""
    shop.tool.control(put_off=True)
    dead = shop.sync(instance)
    assert "Fivetran has put the sync off until 2030-01-01T00:00:00Z" in failure(dead)
    assert "dagster/max_retries" not in instance.get_runs()[0].tags
    shop.tool.control(put_off=False, warn="orders is not whole")
    result = shop.sync(instance, dagster__parent_run_id=dead.run_id)
    assert result.success
    warned = [log.message for log in instance.all_logs(result.run_id) if log.level == 30]
    assert any("old shop: resync_table_warning: orders is not whole" in line for line in warned)


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, {"streams": ["order"]}, "no stream 'order' in the connection 'old shop'. Did you mean"),
    ({}, {}, {"connection": "old shp"}, "Fivetran has no connection 'old shp'. Did you mean 'old shop'?"),
    ({"pause": True}, {"pause": False}, {}, "the connection is paused in Fivetran. Enable it there"),
    (
        {"break_setup": True},
        {"break_setup": False},
        {},
        "calls the connection broken: Reconnect: the password was",
    ),
    (
        {"disable_table": "orders"},
        {"disable_table": ""},
        {},
        "Fivetran syncs no stream 'orders' in the connection",
    ),
    (
        {"delete": True},
        {"delete": False},
        {},
        "no connection 'old shop'. it was there before, and was deleted",
    ),
    ({"down": True}, {"down": False}, {"patience": 0.3}, "the connection broke"),
]


def test_what_cannot_be_synced_is_said_before_a_sync_starts(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """Each refusal names Fivetran, the connection and the way out, and nothing was started; re-execution goes on."""
    each_is_refused(shop, instance, REFUSALS, SECRET)


def test_what_passes_is_waited_out_and_wrong_credentials_are_not(
    shop: Synced, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 and 5xx are tried again; a refused key is said at once, without the secret."""
    shop.tool.control(throttle_next=2, error_next=2)
    assert shop.sync(instance).success
    monkeypatch.setenv("FERRY_CONNECTIONS__TOOL", shop.account.replace(SECRET, "wrong"))
    said = failure(shop.sync(instance))
    assert "Fivetran answers HTTP 401" in said
    assert "wrong" not in said

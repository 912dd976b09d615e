"""Airbyte's connections as assets: against an emulated Airbyte over real sockets, whose syncs copy real tables."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from emulators.airbyte import CLIENT, CONNECTION, SECRET, WORKSPACE
from ferry.cli.connectors import connectors
from ferry.components.connections import recall, refresh
from ferry.components.following import open_service
from ferry.errors import FerryError
from ferry.settings import read_settings
from synced import Synced, each_is_refused, failure, synced

CUSTOMERS, ORDERS = dg.AssetKey(["landing", "customers"]), dg.AssetKey(["landing", "orders"])


@pytest.fixture
def shop(
    new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Synced]:
    """A connection of an emulated Airbyte, declared in a code location of this test's own."""
    account = f"airbyte+http://{CLIENT}:{SECRET}@{{place}}/{WORKSPACE}"
    with synced("airbyte", new_database, tmp_path, account) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as own:
        yield own


def latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.AssetMaterialization:
    """The newest materialization of an asset."""
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def logged(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, level: int) -> str:
    """What a run has logged at a level, line by line."""
    return "\n".join(log.message for log in instance.all_logs(result.run_id) if log.level == level)


def test_materializing_syncs_once_and_reports_rows_bytes_and_the_tools_page(
    shop: Synced, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync for both streams, with what has come so far; each materialization has its counts, its page and the job
    as its data version. Rows that the destination refused are a warning, and only a run's own job is cancelled.
    """
    monkeypatch.setattr("ferry.components.connector.PROGRESS_SECONDS", 0)
    shop.tool.control(hold=True)
    seen: list[int] = []

    def shown(told: dict[str, Any]) -> bool:
        """Whether somebody has looked twice since the first stream's rows are there."""
        if told["syncs"] and told["syncs"][0]["rows"] == 500:
            seen.append(told["requests"].get("POST /api/v1/jobs/get_without_logs", 0))
        return bool(seen) and seen[-1] >= seen[0] + 2

    with shop.meanwhile(shown, hold=False):
        result = shop.sync(instance)
    assert result.success
    told = logged(instance, result, 20)
    assert "Airbyte sync 1 of old shop: running, 500 rows, 21," in told
    assert "Airbyte sync 1 of old shop: succeeded, 2,500 rows, " in told
    assert (shop.rows("customers"), shop.rows("orders")) == (500, 2000)
    assert [sync["status"] for sync in shop.tool.tell()["syncs"]] == ["succeeded"]
    for key, rows in ((CUSTOMERS, 500), (ORDERS, 2000)):
        event = latest(instance, key)
        assert event.metadata["rows synced"].value == event.metadata["dagster/row_count"].value == rows
        assert int(str(event.metadata["bytes synced"].value)) > rows * 5
        assert str(event.metadata["page"].value).endswith("/timeline")
        assert event.tags
        assert event.tags["dagster/data_version"] == "airbyte-1"
    shop.tool.control(reject=3)
    result = shop.sync(instance)
    assert (latest(instance, ORDERS).tags or {})["dagster/data_version"] == "airbyte-2"
    assert latest(instance, ORDERS).metadata["rows synced"].value == 1997
    assert "old shop: 3 rows of orders were refused by the destination" in logged(instance, result, 30)
    shop.tool.control(hold=True)
    airbyte = open_service("airbyte", read_settings(), "tool", 5)
    airbyte.start(CONNECTION)
    airbyte.cancel(CONNECTION, "1")  # which has ended: what the connection does now is somebody else's
    assert [sync["status"] for sync in shop.tool.tell()["syncs"]] == ["succeeded", "succeeded", "running"]


def looked(times: int) -> Callable[[dict[str, Any]], bool]:
    """Whether somebody has looked that often how a job comes along."""
    return lambda told: told["requests"].get("POST /api/v1/jobs/get_without_logs", 0) >= times


def test_a_killed_run_leaves_the_sync_and_the_next_finds_it(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """SIGKILL of the run while Airbyte syncs: the next run waits for that sync and starts no second one."""
    shop.tool.control(hold=True)
    process = shop.start()
    seen = shop.wait_for(looked(1))["requests"]["POST /api/v1/jobs/get_without_logs"]
    process.kill()
    process.wait()
    with shop.meanwhile(looked(seen + 3), hold=False):
        assert shop.sync(instance).success
    assert [sync["status"] for sync in shop.tool.tell()["syncs"]] == ["succeeded"]
    assert shop.rows("orders") == 2000


def test_a_sync_that_ended_while_nobody_looked_is_taken_over_once(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """Airbyte goes down in the middle and the run fails; its sync ends. Re-execution takes that sync's outcome."""
    shop.declare(patience=0.5)
    shop.tool.control(hold=True)
    with shop.meanwhile(looked(2), down=True):
        dead = shop.sync(instance)
    assert "the connection broke" in failure(dead)
    assert (
        "dagster/max_retries" not in instance.get_runs()[0].tags
    )  # a passing error: the run may be tried again
    shop.tool.control(hold=False)
    shop.wait_for(lambda told: told["syncs"][0]["status"] == "succeeded")
    shop.tool.control(down=False)
    assert shop.sync(instance, dagster__parent_run_id=dead.run_id).success
    assert len(shop.tool.tell()["syncs"]) == 1
    assert shop.sync(
        instance, dagster__parent_run_id=dead.run_id
    ).success  # its rows are recorded: now a new one
    assert len(shop.tool.tell()["syncs"]) == 2


def test_a_lost_answer_starts_no_second_sync(shop: Synced, instance: dg.DagsterInstance) -> None:
    """The call that starts the sync takes effect and its answer is lost: Airbyte says it runs, and it is followed."""
    shop.tool.control(hold=True, drop_answer="POST /api/public/v1/jobs")
    with shop.meanwhile(looked(3), hold=False):
        assert shop.sync(instance).success
    told = shop.tool.tell()
    assert told["requests"]["POST /api/public/v1/jobs"] == 2
    assert [sync["status"] for sync in told["syncs"]] == ["succeeded"]


def test_a_cancelled_run_cancels_its_sync(shop: Synced) -> None:
    """SIGTERM, as Dagster's cancelling sends it: the sync that the run started is cancelled in Airbyte."""
    shop.tool.control(hold=True)
    process = shop.start()
    shop.wait_for(looked(2))
    process.terminate()
    shop.wait_for(lambda told: told["syncs"][0]["status"] == "cancelled")
    assert process.wait() != 0
    assert shop.tool.tell()["requests"]["DELETE /api/public/v1/jobs/1"] == 1


def test_a_failed_sync_fails_with_the_connectors_words_and_keeps_what_arrived(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """The second stream fails: the error and the log's last lines are shown, the first stream counts as arrived."""
    shop.tool.control(fail_stream="orders")
    said = failure(shop.sync(instance))
    assert "Airbyte, old shop, sync 1: the sync failed: permission denied for table orders" in said
    assert "INFO destination > customers: 500 records written" in said
    assert said.endswith("ERROR platform > permission denied for table orders.")
    assert "These streams had arrived before: customers. Repair it there (http" in said
    assert (latest(instance, CUSTOMERS).tags or {})["dagster/data_version"] == "airbyte-1-partial"
    assert instance.get_latest_materialization_event(ORDERS) is None
    assert instance.get_runs()[0].tags["dagster/max_retries"] == "0"
    shop.tool.control(fail_stream="")
    dead = instance.get_runs()[0]
    assert shop.sync(instance, dagster__parent_run_id=dead.run_id).success
    assert len(shop.tool.tell()["syncs"]) == 2


def test_a_sync_that_somebody_cancels_in_airbyte_fails_the_run(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """The message says that it was cancelled there, and what to do."""
    shop.tool.control(hold=True)
    with shop.meanwhile(looked(2), cancel=True):
        assert "Airbyte, old shop, sync 1: the sync was cancelled" in failure(shop.sync(instance))


def test_what_passes_is_waited_out(shop: Synced, instance: dg.DagsterInstance) -> None:
    """429s, 5xx and a token that is refused in the middle are no failure of the sync."""
    shop.tool.control(hold=True)
    with shop.meanwhile(looked(2), hold=False, throttle_next=3, error_next=3, forget_tokens=True):
        assert shop.sync(instance).success
    assert latest(instance, ORDERS).metadata["rows synced"].value == 2000


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    (
        {},
        {},
        {"streams": ["customers", "order"]},
        "no stream 'order' in the connection 'old shop'. Did you mean",
    ),
    ({}, {}, {"connection": "old shp"}, "Airbyte has no connection 'old shp'. Did you mean 'old shop'?"),
    (
        {"pause": True},
        {"pause": False},
        {},
        "connection is paused in Airbyte (status inactive). Enable it there",
    ),
    (
        {"break_schema": True},
        {"break_schema": False},
        {},
        "schema has changed in a way that breaks it. Review",
    ),
    ({"drop_stream": "orders"}, {"drop_stream": ""}, {}, "Airbyte syncs no stream 'orders'"),
    ({"clearing": True}, {"clearing": False}, {}, "Airbyte starts no sync of this connection now. A sync is"),
    (
        {"delete": True},
        {"delete": False},
        {},
        "no connection 'old shop'. it was there before, and was deleted",
    ),
    ({"down": True}, {"down": False}, {"patience": 0.3}, "Airbyte's token server does not answer"),
]


def test_what_cannot_be_synced_is_said_before_a_sync_starts(
    shop: Synced, instance: dg.DagsterInstance
) -> None:
    """Each refusal names Airbyte, the connection and the way out, and nothing was started; re-execution goes on."""
    each_is_refused(shop, instance, REFUSALS, SECRET)


def test_an_account_that_is_wrong_is_told_apart(
    shop: Synced, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workspace, credentials and form of the URL have a message each, without the secret."""
    for old, new, wanted in (
        (WORKSPACE, "another", "Airbyte does not know the workspace 'another', or not for this client"),
        (SECRET, "wrong", "Airbyte's token server refuses (HTTP 401)"),
        ("airbyte+http", "https", "this is no URL of an Airbyte workspace"),
    ):
        monkeypatch.setenv("FERRY_CONNECTIONS__TOOL", shop.account.replace(old, new))
        said = failure(shop.sync(instance))
        assert wanted in said
        assert SECRET not in said


def test_a_renamed_connection_is_known_by_its_id(shop: Synced, instance: dg.DagsterInstance) -> None:
    """Once asked, Ferry remembers the id: a new name is a warning, not a failure."""
    refresh(shop.defs, read_settings())
    shop.tool.control(rename="older shop")
    result = shop.sync(instance)
    assert result.success
    warned = [log.message for log in instance.all_logs(result.run_id) if log.level == 30]
    assert any("'old shop' is called 'older shop' now" in line for line in warned)


def test_definitions_load_without_a_socket_and_say_how_old_they_are(shop: Synced) -> None:
    """Before anything was asked and after: the tables are there, no connection is tried, the age is said.

    The commands ask, show the age and sync.
    """
    program = (
        "import sys, json, dagster as dg\nfrom pathlib import Path\n"
        "import socket\n"
        "sys.addaudithook(lambda name, args: sys.exit('socket!') if name in ('socket.connect', 'socket.getaddrinfo')"
        " else None)\n"
        f"loaded = dg.load_from_defs_folder(path_within_project=Path({str(shop.defs.parent)!r}))\n"
        "from ferry.components import FerryResource\n"
        "all = dg.Definitions.merge(loaded, dg.Definitions(resources={'ferry': FerryResource()}))\n"
        "specs = all.resolve_all_asset_specs()\n"
        "print(json.dumps({spec.key.to_user_string(): spec.description for spec in specs}))\n"
    )

    def load() -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(shop.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    def command(*words: str) -> str:
        done = CliRunner().invoke(connectors, [*words, "--defs", str(shop.defs)])
        assert done.exit_code == 0, done.exception
        return done.output

    shop.declare(patience=0.3)
    shop.tool.control(down=True)
    assert "never" in command("list")
    before = load()
    assert set(before) == {"landing/customers", "landing/orders"}
    assert "has not been asked about it yet: `ferry connectors refresh` does" in before["landing/orders"]
    shop.tool.control(down=False)
    assert command("refresh").startswith("shop: 2 streams, http://")
    assert command("sync", "shop") == "shop: customers 500 rows, orders 2,000 rows\n"
    shop.tool.control(down=True)
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    assert f"was read on {today}" in load()["landing/orders"]
    assert f" {today} " in command("list")
    told = refresh(shop.defs, read_settings())["shop"]
    assert isinstance(told, FerryError)
    assert recall(read_settings(), "shop") is not None


def test_a_changed_schema_is_said_by_column(shop: Synced, instance: dg.DagsterInstance) -> None:
    """A column that the source gained or lost since Airbyte was last asked is a warning of the run."""
    shop.declare(streams=[])
    refresh(shop.defs, read_settings())
    shop.old("alter table orders drop note", "alter table orders add remark text")
    result = shop.sync(instance)
    warned = [log.message for log in instance.all_logs(result.run_id) if log.level == 30]
    assert any("orders has changed (columns gone: note; new columns: remark)" in line for line in warned)

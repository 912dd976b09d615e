"""The jobs of the UI, run as Dagster runs them: plan, settle, replay, reconcile, rollback, with typed configuration."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ferry.cli import app
from ferry.components import FerryResource, migration_jobs
from migrating import Migrating


@pytest.fixture
def loaded(by_year: Migrating, monkeypatch: pytest.MonkeyPatch) -> Migrating:
    """Customers and employees are in the target, and this process' environment points there."""
    for name, value in by_year.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("customers", "employees"):
        by_year.load(name)
    return by_year


def run(migrating: Migrating, job: str, op: str, **config: Any) -> tuple[bool, str, list[dict[str, Any]]]:
    """Run a job; whether it succeeded, what its failure says, and the rows of the table it shows."""
    definitions = dg.Definitions.merge(
        migration_jobs(migrating.folder), dg.Definitions(resources={"ferry": FerryResource()})
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def(job).execute_in_process(
            run_config={"ops": {op: {"config": config}}} if config else None,
            instance=instance,
            raise_on_error=False,
        )
        said = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        failure = said[0].user_failure_data if said else None
        tables = [
            value.records
            for e in result.all_events
            if e.event_type_value == "ASSET_OBSERVATION"
            for value in e.asset_observation_data.asset_observation.metadata.values()
            if isinstance(value, dg.TableMetadataValue)
        ]
        shown = failure.metadata.values() if failure else ()
        tables += [value.records for value in shown if isinstance(value, dg.TableMetadataValue)]
        rows = [dict(record.data) for records in tables for record in records]
        return result.success, (failure.description or "") if failure else str(said), rows


def count(migrating: Migrating, table: str) -> int:
    """Rows of a table of the target."""
    with migrating.target() as target:
        row = target.execute(f"select count(*) from {table}".encode()).fetchone()
        assert row is not None
        return row[0]


def test_the_plan_names_every_entity_in_order_and_writes_nothing(loaded: Migrating) -> None:
    """The job `plan` lists parents before children and leaves the target's rows as they are."""
    before = loaded.row_versions("public", "ferry")
    succeeded, _, rows = run(loaded, "plan", "plan_migration")
    names = [row["entity"] for row in rows]
    assert succeeded
    assert set(names) == {"customers", "employees", "orders", "products", "order_lines"}
    assert names.index("orders") < names.index("order_lines")
    assert names.index("customers") < names.index("orders")
    assert loaded.row_versions("public", "ferry") == before


def test_a_rollback_asks_for_confirmation_and_then_takes_back_what_was_loaded(loaded: Migrating) -> None:
    """Without `confirm: true` nothing happens; with it, only the rows that were there before remain."""
    full = count(loaded, "customers")
    succeeded, said, _ = run(loaded, "rollback", "roll_back", entities=["customers"])
    assert not succeeded
    assert "confirm" in said
    assert count(loaded, "customers") == full
    succeeded, said, rows = run(loaded, "rollback", "roll_back", entities=["customers"], confirm=True)
    assert succeeded, said
    assert rows[0]["removed"] == full - count(loaded, "customers") > 0


def test_reconcile_fails_and_names_the_key_that_somebody_changed(
    loaded: Migrating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One altered credit fails the job `reconcile`, with column and both values; `repair: true` puts it right. What the
    command finds is a failed check in the instance of `DAGSTER_HOME`."""
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    succeeded, said, rows = run(loaded, "reconcile", "reconcile_target", entities=["customers"])
    assert succeeded, said
    assert rows == []
    with loaded.target() as target:
        target.execute(
            "update customers set credit = credit + 1 where customer_id ="
            " (select max(new_customer_id) from ferry.id_map_customers where status = 'inserted')"
        )
    assert CliRunner().invoke(app, ["reconcile", "customers"]).exit_code == 1
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        check = dg.AssetCheckKey(dg.AssetKey("loaded_customers_and_id_mapping"), "reconciled")
        (seen,) = instance.event_log_storage.get_asset_check_execution_history(check, 5)
        evaluated = seen.event.dagster_event.asset_check_evaluation_data
        assert (evaluated.passed, evaluated.metadata["different"].value) == (False, 1)
    succeeded, said, rows = run(loaded, "reconcile", "reconcile_target", entities=["customers"])
    assert not succeeded
    assert "1 rows" in said
    assert len(rows) == 1
    assert "credit" in rows[0]["difference"]
    for shown in (1, 0):
        succeeded, said, rows = run(
            loaded, "reconcile", "reconcile_target", entities=["customers"], repair=True
        )
        assert (succeeded, len(rows)) == (True, shown), said


def test_replay_loads_the_row_that_was_mended_in_place(loaded: Migrating) -> None:
    """A rejected row whose kept values are corrected goes in when it is replayed, and the ledger still adds up."""
    with loaded.target() as target:
        key = target.execute(
            "update ferry.rejected_rows set row = jsonb_set(row, '{email}', '\"mended@example.org\"') where id ="
            " (select min(id) from ferry.rejected_rows where entity = 'customers' and errors->0->>'column' = 'email')"
            " returning key[1]"
        ).fetchone()
        assert key is not None
    before = count(loaded, "customers")
    succeeded, said, rows = run(
        loaded, "replay", "replay_rejected_rows", entities=["customers"], key=[key[0]]
    )
    assert succeeded, said
    assert [(row["tried"], row["loaded"], row["rejected"]) for row in rows] == [(1, 1, 0)]
    assert count(loaded, "customers") == before + 1
    assert count(loaded, "ferry.rejected_rows where entity = 'customers'") + count(
        loaded, "ferry.id_map_customers"
    ) == sum(
        one
        for (one,) in loaded.target().execute("select extracted from ferry.ledger where entity = 'customers'")
    )


def test_settle_says_what_still_waits_and_for_whom(loaded: Migrating) -> None:
    """Lines loaded before their orders wait, and the job `settle` names the parents that are not complete."""
    loaded.load("order_lines", ["1994"])
    succeeded, said, rows = run(loaded, "settle", "settle_entities", entities=["order_lines"])
    assert succeeded, said
    assert rows[0]["waiting"] > 0
    assert "orders" in rows[0]["waits_for"]


def test_an_unknown_entity_is_one_message_with_the_nearest_name(loaded: Migrating) -> None:
    """A misspelt entity in the configuration fails the run with words, not with a trace."""
    succeeded, said, _ = run(loaded, "settle", "settle_entities", entities=["costumers"])
    assert not succeeded
    assert "Did you mean 'customers'?" in said


def test_the_cutover_asks_for_confirmation_and_then_signs(loaded: Migrating) -> None:
    """Without `confirm: true` nothing happens; with it the rest is loaded, and every entity is signed off."""
    succeeded, said, _ = run(loaded, "cutover", "cut_over", signed_by="Ada")
    assert not succeeded
    assert "nothing was cut over" in said
    succeeded, said, rows = run(
        loaded, "cutover", "cut_over", signed_by="Ada", confirm=True, quiet_seconds=0.1, small=1_000_000
    )
    assert succeeded, said
    assert {row["entity"] for row in rows} == {"customers", "employees", "orders", "products", "order_lines"}
    assert count(loaded, "ferry.signed_off where signed_by = 'Ada'") == 5

"""A run waits for a slot of its target, as runs wait in the queue for one of their source's (`tests/daemon`)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from asking import wait_for
from ferry.components import FerryResource
from ferry.components.entity import entity_assets
from ferry.declaration import migration_in
from small import Small


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """One entity without rows."""
    made = Small(new_database, tmp_path)
    made.source("create table quick (id int primary key)")
    made.target("create table quick (id bigint primary key)")
    made.declare("quick", "id: int", made="natural", new_key="id", columns={"id": "id"})
    return made


def test_a_run_waits_for_a_slot_of_its_target(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's one slot is another run's: nothing is read or written, the run says why, and goes on when it is
    free; afterwards it is free again."""
    for name, value in small.migrating.environment.items():
        monkeypatch.setenv(name, value)
    migration = migration_in(small.migrating.folder)
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        ThreadPoolExecutor(1) as beside,
    ):
        limits = instance.event_log_storage
        limits.set_concurrency_slots("crm", 1)
        assert limits.claim_concurrency_slot("crm", "another", "step").is_claimed
        going = beside.submit(
            dg.materialize, [entity_assets(migration, migration["quick"])], instance=instance,
            resources={"ferry": FerryResource()},
        )  # fmt: skip

        def waits() -> bool:
            runs = instance.get_runs()
            return bool(runs) and any(
                "waits for a slot of the pool crm" in e.message for e in instance.all_logs(runs[0].run_id)
            )

        wait_for("the run waits", waits, 120)
        assert not small.migrating.stage.exists()
        limits.free_concurrency_slots_for_run("another")
        assert going.result(120).success
        assert limits.get_concurrency_info("crm").active_slot_count == 0

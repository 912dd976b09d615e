"""What failed for good is repeated by nobody: neither the automation that started it nor the retries of runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asking import wait_for
from serving import INSTANCE, Served, serving
from small import Small

# As on the platform, but for every failure: what a permanent error forbids is seen, not what a setting leaves out.
RETRYING = f"{INSTANCE}run_retries: {{enabled: true, max_retries: 2, retry_on_asset_or_op_failure: true}}\n"
ASSETS = ("raw_orders", "validated_orders", "loaded_orders")


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Orders in two halves, loaded when the source changes; a trigger of the target swallows those of one half."""
    made = Small(new_database, tmp_path)
    made.source(
        "create table orders (id int primary key, half text)",
        "insert into orders values (1, 'a'), (2, 'b')",
    )
    made.target(
        "create table orders (new_id bigint generated always as identity primary key, half text)",
        "create function swallow() returns trigger language plpgsql as 'begin return null; end'",
        "create trigger swallow before insert on orders for each row when (new.half = 'b')"
        " execute function swallow()",
    )
    made.declare(
        "orders", "id: int; half: str", partition={"by": "half", "values": ["a", "b"]},
        automation="on_source_change",
    )  # fmt: skip
    return made


@pytest.fixture
def served(small: Small, tmp_path: Path) -> Iterator[Served]:
    """The UI and the daemon, with the automation sensor running and retries of runs switched on."""
    with serving(small.migrating, tmp_path / "dagster", daemon=True, instance=RETRYING) as running:
        yield running


def ticks(served: Served) -> list[str]:
    """How each evaluation of the sensor `automation` ended, the newest first."""
    said = served.graphql(
        """query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {
             sensorState { ticks { status } } } } }""",
        s={
            "repositoryLocationName": served.location,
            "repositoryName": "__repository__",
            "sensorName": "automation",
        },
    )
    return [tick["status"] for tick in said["sensorOrError"]["sensorState"]["ticks"]]


def test_a_partition_that_failed_for_good_waits_for_somebody(served: Served, small: Small) -> None:
    """Both halves are asked for once they are observed, and one is swallowed. After six more looks of the sensor, with
    retries of runs on, one run has failed and no other came; nor after what was named is mended. The next change of
    that half starts a run, which loads it."""

    def observe() -> None:
        keys = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"}
        served.succeeded(served.launch(("legacy", "orders"), location=served.location, tags=keys))

    def ended(status: str) -> list[str]:
        """The runs that the sensor started and that ended so."""
        started = served.runs_with_tag("dagster/from_automation_condition", "true")
        return [run for run in started if served.run(run)["status"] == status]

    def looked(times: int) -> None:
        before = len(ticks(served))
        wait_for(f"{times} more looks", lambda: len(ticks(served)) >= before + times, 240)

    looked(2)
    observe()
    (failed,) = wait_for("a run fails", lambda: ended("FAILURE"), 120)
    looked(6)
    assert ended("FAILURE") == [failed]
    assert any("the target holds something else than was sent" in said for said in served.messages(failed))
    assert "dagster/auto_retry_run_id" not in served.run(failed)["tags"]
    assert small.rows("select half from orders") == [("a",)]

    small.target("drop trigger swallow on orders")
    before = ended("SUCCESS")
    looked(2)
    assert (ended("FAILURE"), ended("SUCCESS")) == ([failed], before)
    small.source("update orders set id = id + 10 where half = 'b'")
    observe()
    wait_for("a run loads it", lambda: set(ended("SUCCESS")) - set(before), 120)
    assert small.rows("select half from orders order by 1") == [("a",), ("b",)]

"""A backfill through the real webserver and daemon: cancelled in the middle, gone on with, and what failed again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asking import wait_for
from ferry import ledger
from migrating import Migrating
from serving import Served, serving

ORDERS = ("raw_orders", "validated_orders", "loaded_orders")


@pytest.fixture
def served(by_year: Migrating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The UI and the daemon over a migration of this test's own, whose loads wait for a lock as long as it takes."""
    monkeypatch.setenv("FERRY_LOCK_TIMEOUT_SECONDS", "600")
    with serving(by_year, tmp_path / "dagster", daemon=True) as running:
        yield running


def test_a_cancelled_backfill_goes_on_with_what_is_missing_and_what_failed_is_made_alone(
    served: Served, by_year: Migrating
) -> None:
    """Seven years in one run, cancelled while the fourth waits for somebody's lock: three stay, and are not run again.
    What goes on makes the others but one that cannot be staged; that one alone is made as *failed and missing only*."""
    for parent in ("employees", "customers"):
        by_year.load(parent)
    broken = by_year.break_stage("orders", "1997")
    with by_year.target() as somebody:
        ledger.lock(somebody, "orders", "1995", 5)
        first = served.backfill(*ORDERS)
        wait_for("three years are loaded", lambda: len(by_year.loaded_by("orders")) == 3, 240)
        served.cancel_backfill(first)
        assert served.backfill_ends(first) == "CANCELED"
    (cancelled,) = served.runs_with_tag("dagster/backfill", first)
    assert served.run(cancelled)["status"] == "CANCELED"
    assert served.unmade_partitions("loaded_orders")["missing"] == {"1995", "1996", "1997", "1998"}

    second = served.backfill_again(first)
    assert served.backfill_ends(second) == "COMPLETED_FAILED"
    (went_on,) = served.runs_with_tag("dagster/backfill", second)
    early, late = ("1992", "1993", "1994"), ("1995", "1996", "1998")
    assert by_year.loaded_by("orders") == dict.fromkeys(early, cancelled) | dict.fromkeys(late, went_on)
    assert served.unmade_partitions("loaded_orders")["failed"] == {"1997"}

    broken.unlink()
    unmade = served.unmade_partitions("loaded_orders")
    third = served.backfill(*ORDERS, partitions=sorted(unmade["failed"] | unmade["missing"]))
    assert served.backfill_ends(third) == "COMPLETED_SUCCESS"
    (last,) = served.runs_with_tag("dagster/backfill", third)
    assert by_year.loaded_by("orders") == dict.fromkeys(early, cancelled) | dict.fromkeys(late, went_on) | {
        "1997": last
    }
    assert not any(served.unmade_partitions("loaded_orders").values())

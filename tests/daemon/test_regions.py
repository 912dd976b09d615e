"""Backfills over two dimensions, one of them discovered, through the real webserver and daemon."""

from collections.abc import Callable
from pathlib import Path

from asking import wait_for
from regions import EVERY_KEY, orders_by_region
from serving import serving


def test_a_backfill_of_months_and_regions_is_found_by_the_sensor_and_run_by_the_daemon(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    """The daemon's sensor makes the regions known; a backfill of all is a run for each month, parents before their
    children. One partition of six cannot be staged: the others are loaded once, and what goes on from the backfill
    makes that one, and the lines whose run had ended with it."""
    small = orders_by_region(new_database, tmp_path)
    broken = small.migrating.break_stage("orders", "2024-01|north")
    assets = [f"{stage}_{name}" for name in ("orders", "lines") for stage in ("raw", "validated", "loaded")]
    with serving(small.migrating, tmp_path / "dagster", daemon=True) as served:
        found = "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {... on AssetNode {partitionKeys}} }"
        key = {"path": ["loaded_orders"]}
        wait_for(
            "the sensor finds the regions",
            lambda: served.graphql(found, key=key)["assetNodeOrError"].get("partitionKeys") == EVERY_KEY,
            240,
        )
        first = served.backfill(*assets)
        assert served.backfill_ends(first) == "COMPLETED_FAILED"
        assert len(served.runs_with_tag("dagster/backfill", first)) == 2
        before = small.migrating.loaded_by("orders")
        assert set(before) == set(EVERY_KEY) - {"2024-01|north"}
        assert {key[:7] for key in small.migrating.loaded_by("lines")} == {"2024-02"}

        broken.unlink()
        assert served.backfill_ends(served.backfill_again(first)) == "COMPLETED_SUCCESS"
    after = small.migrating.loaded_by("orders")
    assert {key for key in EVERY_KEY if after[key] != before.get(key)} == {"2024-01|north"}
    assert small.outcomes("orders") == small.outcomes("lines") == {"extracted": 40, "inserted": 40}

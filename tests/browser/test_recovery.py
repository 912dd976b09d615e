"""A failed backfill in the browser: where it stands, what it says, and a click that goes on from it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import picture
from playwright.sync_api import Page, expect

from asking import wait_for
from migrating import Migrating
from serving import Served, serving

PARENTS = [
    f"{stage}_{name}{'_and_id_mapping' if stage == 'loaded' else ''}"
    for name in ("customers", "employees")
    for stage in ("raw", "validated", "loaded")
]
ORDERS = ("raw_orders", "validated_orders", "loaded_orders")
GRAPH = "asset-groups?expanded=" + "%2C".join(f"global%40global%3A{group}" for group in ("people", "sales"))


@pytest.fixture
def served(by_year: Migrating, tmp_path: Path) -> Iterator[Served]:
    """The UI and the daemon over a migration of this test's own."""
    with serving(by_year, tmp_path / "dagster", daemon=True) as running:
        yield running


def launched_by_clicking(page: Page, served: Served) -> str:
    """Find an asset, choose the three of orders in the graph and a range of years, and launch; the backfill's id."""
    page.get_by_text("Search", exact=True).first.click()
    page.keyboard.type("loaded_orders")
    page.get_by_role("link", name="loaded_orders").first.click()
    page.wait_for_url("**/assets/loaded_orders")
    page.goto(f"{served.url}/{GRAPH}")
    first, last = (page.get_by_text(name, exact=True).locator("visible=true").first for name in ORDERS[::2])
    first.click()
    last.click(modifiers=["Shift"])
    page.get_by_role("button", name="Materialize selected (3)").click()
    years = page.get_by_role("dialog").get_by_role("textbox").first
    years.fill("[1992...1998]")
    years.press("Enter")
    page.get_by_role("button", name="Launch backfill").click()

    def backfills() -> list[dict[str, str]]:
        asked = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { id } } } }"
        return served.graphql(asked)["partitionBackfillsOrError"]["results"]

    (launched,) = wait_for("the click launches a backfill", backfills, 60)
    return launched["id"]


def test_a_failed_backfill_goes_on_from_failure_by_a_click(
    served: Served, by_year: Migrating, page: Page
) -> None:
    """An asset is found by its name. Seven years of orders are launched from the graph, one of which cannot be staged:
    the backfill shows six and one, the partition is red, the run says why; *From failure* in the run's menu loads that
    year alone."""
    served.succeeded(served.launch(*PARENTS, location=served.location))
    broken = by_year.break_stage("orders", "1994")
    page.goto(f"{served.url}/{GRAPH}")
    backfill = launched_by_clicking(page, served)
    run_id = wait_for(
        "a run of the backfill", lambda: served.runs_with_tag("dagster/backfill", backfill), 120
    )[0]
    assert served.finished(run_id)["status"] == "FAILURE"

    page.goto(f"{served.url}/runs/b/{backfill}")
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(page.get_by_text("100% completed").first).to_be_visible()
    picture(page, "backfill", 440)
    page.goto(f"{served.url}/assets/loaded_orders?view=partitions&partition=1993")
    expect(page.get_by_text("Failed (1)")).to_be_visible()
    expect(page.get_by_text("dagster/partition_row_count")).to_be_visible()
    bar = page.get_by_role("img", name=re.compile("^inserted [0-9,]+, rejected"))
    expect(bar).to_be_visible()
    assert bar.evaluate("shown => shown.naturalWidth") >= 480
    picture(page, "asset-partitions")
    page.goto(f"{served.url}/assets/loaded_orders?view=checks&checkDetail=settled")
    expect(page.get_by_text("Load the parents, then settle")).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    picture(page, "failed-check", 800)
    page.goto(f"{served.url}/{GRAPH}")
    expect(page.get_by_text("loaded_orders", exact=True).locator("visible=true").first).to_be_visible()
    picture(page, "graph-with-a-failure")

    broken.unlink()
    page.goto(f"{served.url}/runs/{run_id}")
    expect(
        page.get_by_text(re.compile("orders, 1994: the staging area cannot be written")).first
    ).to_be_visible()
    again = page.get_by_role("button", name="Re-execute all (*)")
    again.locator("xpath=following-sibling::*").click()
    page.get_by_text("From failure", exact=True).click()
    # The run belongs to a backfill that has ended; the UI asks whether that is meant.
    page.get_by_role("button", name="Confirm").click()
    (retry,) = wait_for(
        "the click starts a run", lambda: served.runs_with_tag("dagster/parent_run_id", run_id), 60
    )
    served.succeeded(retry)
    page.goto(f"{served.url}/runs/{retry}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    runs = by_year.loaded_by("orders")
    assert {year for year, by in runs.items() if by == retry} == {"1994"}
    assert len(runs) == 7

"""What a person sees and clicks: the asset graph, a materialization from its button to its metadata.

Screenshots of each step are kept in out/stack, for the README too.
"""

import re

from looking import picture
from playwright.sync_api import Page, expect

from stack import Stack

GROUPS = ("people", "catalogue", "sales")
# The graph with the shop's groups opened, as the UI itself puts it into the address.
GRAPH = "asset-groups?expanded=" + "%2C".join(f"global%40global%3A{group}" for group in GROUPS)


def test_the_graph_shows_the_shop(stack: Stack, page: Page) -> None:
    """The lineage opens without a dialogue in the way, and has all that the shop loads."""
    page.goto(f"{stack.url}/{GRAPH}")
    for asset in ("raw_customers", "raw_products", "raw_employees", "loaded_orders", "loaded_order_lines"):
        expect(page.get_by_text(asset, exact=True).locator("visible=true").first).to_be_visible()
    # The three published id maps; their names are shortened in the middle.
    expect(page.get_by_text(re.compile(r"^loaded\S*_id_mapping$")).locator("visible=true")).to_have_count(3)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.wait_for_load_state("networkidle")
    picture(page, "asset-graph")


def test_a_click_materializes_an_asset_and_its_metadata_can_be_read(stack: Stack, page: Page) -> None:
    """Materialize by its button, follow the run until it succeeds, and read what it reported."""
    page.goto(f"{stack.url}/assets/raw_products")
    known = set(stack.runs_with_tag("dagster/code_location", "ferry"))
    page.get_by_role("button", name="Materialize").first.click()
    expect(page.get_by_text("Launched run").first).to_be_visible()
    picture(page, "launched")
    (run_id,) = set(stack.runs_with_tag("dagster/code_location", "ferry")) - known

    page.goto(f"{stack.url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    picture(page, "run-succeeded")
    assert stack.container_of_run(run_id)["Config"]["Image"] == f"ferry-user-code:{stack.tag}"

    page.goto(f"{stack.url}/assets/raw_products?view=events")
    expect(page.get_by_text(run_id[:8]).first).to_be_visible()
    expect(page.get_by_text("dagster/row_count").first).to_be_visible()
    rows = stack.psql("demo-db", "legacy", "SELECT count(*) FROM products")[0]
    expect(page.get_by_role("cell", name=rows, exact=True).first).to_be_visible()
    picture(page, "metadata")

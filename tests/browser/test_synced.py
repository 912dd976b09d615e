"""A connection of a sync tool from end to end, by one click: the tool's stream, the entity behind it, the target."""

import httpx
import pytest
from looking import picture
from playwright.sync_api import Page, expect

from stack import Stack

pytestmark = pytest.mark.timeout(300)


def test_a_click_syncs_a_connection_and_migrates_what_lands(stack: Stack, page: Page) -> None:
    """*Materialize all* in the group: Airbyte copies the table, the entity follows in the run's container."""
    for name in ("old_notes", "landing", "new_notes"):
        stack.psql("demo-db", "postgres", f"CREATE DATABASE {name}")
    stack.psql(
        *("demo-db", "old_notes"),
        "CREATE TABLE notes (id int, body text);"
        " INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 700) n",
    )
    stack.psql(
        *("demo-db", "new_notes"),
        "CREATE TABLE notes (note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)",
    )
    address = stack.service("emulated-airbyte")["NetworkSettings"]["Networks"][f"{stack.project}_runs"][
        "IPAddress"
    ]

    page.goto(f"{stack.url}/locations/__repository__@faults/asset-groups/synced/lineage")
    expect(page.get_by_text("loaded_notes", exact=True).locator("visible=true").first).to_be_visible()
    picture(page, "synced-graph")
    known = set(stack.runs_with_tag("dagster/code_location", "faults"))
    page.get_by_role("button", name="Materialize all").first.click()
    expect(page.get_by_text("Launched run").first).to_be_visible()
    (run_id,) = set(stack.runs_with_tag("dagster/code_location", "faults")) - known
    page.goto(f"{stack.url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    picture(page, "synced-run")

    assert stack.psql("demo-db", "landing", "SELECT count(*) FROM airbyte.notes") == ["700"]
    query = "SELECT count(*), count(DISTINCT body), min(body) FROM notes"
    assert stack.psql("demo-db", "new_notes", query) == ["700|700|note 1"]
    query = "SELECT sum(extracted), sum(inserted), sum(rejected) FROM ferry.ledger WHERE entity = 'notes'"
    assert stack.psql("demo-db", "new_notes", query) == ["700|700|0"]
    syncs = httpx.get(f"http://{address}:8080/_control").json()["syncs"]
    assert [(sync["status"], sync["rows"]) for sync in syncs] == [("succeeded", 700)]

    page.goto(f"{stack.url}/assets/landing/airbyte/notes?view=events")
    expect(page.get_by_text("rows synced").first).to_be_visible()
    expect(page.get_by_role("cell", name="700", exact=True).first).to_be_visible()
    picture(page, "synced-metadata")

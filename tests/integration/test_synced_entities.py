"""Entities whose source a sync tool writes: one lineage, one version, one migration from the old system to the new."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from emulators.airbyte import CLIENT, OWN, SECRET, WORKSPACE
from ferry.components import FerryResource, connector_jobs
from ferry.components.connections import recall
from ferry.settings import read_settings
from synced import Synced, synced

ORDERS = dg.AssetKey(["landing", "orders"])


@pytest.fixture
def shop(
    new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Synced]:
    """A connection, and an entity that reads `orders` where it lands, cut by ranges of its id."""
    crm = new_database()
    with psycopg.connect(crm, autocommit=True) as connection:
        connection.execute(
            "create table orders (order_id bigint generated always as identity primary key, customer bigint, note text)"
        )
    account = f"airbyte+http://{CLIENT}:{SECRET}@{{place}}/{WORKSPACE}"
    with synced("airbyte", new_database, tmp_path, account) as made:
        for name, value in {**made.environment, "FERRY_CONNECTIONS__CRM": crm}.items():
            monkeypatch.setenv(name, value)
        place = made.defs / "orders"
        place.mkdir()
        attributes = {
            "source": {"connection": "landing", "table": "orders", "key": "id"},
            "partition": {"by": "id", "every": 1000, "start": 0, "end": 2000},
            "contract": "Order",
            "target": {
                "connection": "crm",
                "table": "orders",
                "key": {"column": "order_id", "from": "identity"},
            },
            "columns": {"customer_id": "customer"},
            "drop": list(OWN),
            "automation": "eager",
        }
        (place / "defs.yaml").write_text(
            json.dumps({"type": "ferry.components.Entity", "attributes": attributes})
        )
        (place / "contract.py").write_text(
            "from ferry.contract import Contract\n\n\nclass Order(Contract):\n"
            "    id: int\n    customer_id: int\n    note: str\n"
        )
        yield made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as own:
        yield own


@pytest.fixture
def location(shop: Synced, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """The code location as Dagster loads it."""
    monkeypatch.syspath_prepend(str(shop.folder))
    loaded = dg.load_from_defs_folder(path_within_project=shop.defs.parent)
    own = dg.Definitions(resources={"ferry": FerryResource()}, executor=dg.in_process_executor)
    return dg.Definitions.merge(loaded, own, connector_jobs(shop.defs))


def test_the_connection_owns_the_key_and_the_entity_only_depends_on_it(location: dg.Definitions) -> None:
    """One asset of that key, materialized by the sync; nobody observes it beside."""
    graph = location.resolve_asset_graph()
    node = graph.get(ORDERS)
    assert node.is_materializable
    assert not node.is_observable
    assert graph.get(dg.AssetKey("raw_orders")).parent_keys == {ORDERS}
    assert node.kinds == {"airbyte", "table"}


def test_other_teams_assets_owners_and_a_schedule_stand_in_the_same_graph(
    shop: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a DefinitionsComponent declares can be above a connection; owners and `follow` are those of its file."""
    place = shop.defs / "erp"
    place.mkdir()
    component = {"type": "dagster.DefinitionsComponent", "attributes": {"path": "upstream.py"}}
    (place / "defs.yaml").write_text(json.dumps(component))
    (place / "upstream.py").write_text(
        "import dagster as dg\n\nurl = dg.MetadataValue.url('https://erp.example.com')\n"
        "erp = dg.AssetSpec(['erp', 'orders'], owners=['team:erp'], kinds={'oracle'}, metadata={'page': url})\n"
        "defs = dg.Definitions(assets=[erp])\n"
    )
    shop.declare(follow="0 2 * * *", owners=["team:data"], above=["erp/orders"])
    monkeypatch.syspath_prepend(str(shop.folder))
    loaded = dg.load_from_defs_folder(path_within_project=shop.defs.parent)
    definitions = dg.Definitions.merge(loaded, dg.Definitions(resources={"ferry": FerryResource()}))
    graph = definitions.resolve_asset_graph()
    assert graph.get(ORDERS).owners == ["team:data"]
    assert graph.get(ORDERS).parent_keys == {dg.AssetKey(["erp", "orders"])}
    assert not graph.get(dg.AssetKey(["erp", "orders"])).is_materializable
    schedule = definitions.resolve_schedule_def("sync_shop")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "sync_shop_now"


def test_an_entity_follows_its_sync(location: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Eager: after a sync every partition is asked for, whatever its place, and once; then each new sync again."""
    job = location.resolve_implicit_global_asset_job_def()

    def asked(cursor: object = None) -> tuple[int, object]:
        found = dg.evaluate_automation_conditions(defs=location, instance=instance, cursor=cursor)  # type: ignore[arg-type]
        return found.get_num_requested(dg.AssetKey("raw_orders")), found.cursor

    def run(*keys: str, **tags: str) -> None:
        chosen = [dg.AssetKey(key.split("/")) for key in keys]
        marks = {f"dagster/asset_partition_range_{edge}": value for edge, value in tags.items()}
        assert job.execute_in_process(instance=instance, asset_selection=chosen, tags=marks).success

    before, cursor = asked()
    assert before == 0
    run("landing/customers", "landing/orders")
    after, cursor = asked(cursor)
    assert after == 2
    run("raw_orders", "validated_orders", "loaded_orders", start="0", end="1000")
    record = instance.get_latest_materialization_event(dg.AssetKey("raw_orders"))
    assert record is not None
    assert record.asset_materialization is not None
    tags = record.asset_materialization.tags or {}
    assert tags["dagster/input_data_version/landing/orders"] == "airbyte-1"
    again, cursor = asked(cursor)
    assert again == 0
    run("landing/customers", "landing/orders")
    assert asked(cursor)[0] == 2


def test_the_job_asks_the_tools_and_says_what_did_not_answer(
    shop: Synced, location: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    """`refresh_connectors` remembers what the tool says; a tool that is down fails it and what was known stays."""
    job = location.resolve_job_def("refresh_connectors")
    assert job.execute_in_process(instance=instance).success
    kept = recall(read_settings(), "shop")
    assert kept is not None
    assert set(kept.connection.tables) == {"customers", "orders"}
    shop.declare(patience=0.2)
    shop.tool.control(down=True)
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    assert recall(read_settings(), "shop") == kept
    schedules = [one.name for one in location.schedules or ()]
    assert schedules == ["hourly_refresh_of_connectors"]

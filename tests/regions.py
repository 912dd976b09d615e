"""Orders by month and region, where regions are found in the rows: what tests of partitions in Dagster work on."""

from collections.abc import Callable
from pathlib import Path

from ferry.partition import OTHERS
from small import Small

EVERY_KEY = [f"2024-0{month}|{region}" for month in (1, 2) for region in (OTHERS, "north", "south")]


def orders_by_region(new_database: Callable[..., str], place: Path) -> Small:
    """Orders by month and discovered region, their lines through them, and tags, which are cut by region alone.

    Args:
        new_database: the fixture that makes databases.
        place: an empty folder.
    """
    made = Small(new_database, place)
    made.source(
        "create table orders (id int primary key, placed_at date, region text, total int)",
        "insert into orders select i, date '2024-01-10' + i, case i % 3 when 0 then 'north' when 1 then 'south' end, i"
        " from generate_series(1, 40) i",
        "create table lines (id int primary key, order_id int)",
        "insert into lines select id, id from orders",
        "create table tags (id int primary key, order_id int, region text)",
        "insert into tags select id, id, region from orders",
    )
    made.target(
        "create table orders (new_id bigint generated always as identity primary key, placed_at date, region text,"
        " total int)",
        "create table lines (new_id bigint generated always as identity primary key, order_id bigint"
        " references orders)",
        "create table tags (new_id bigint generated always as identity primary key, order_id bigint references orders,"
        " region text)",
    )
    both = {"by": "placed_at", "every": "month", "start": "2024-01-01", "end": "2024-02-29",
            "and": {"by": "region", "values": "discovered"}}  # fmt: skip
    made.declare(
        "orders", "id: int; placed_at: datetime.date; region: str | None; total: int", partition=both
    )
    to_orders = [{"column": "order_id", "to": "orders"}]
    made.declare("lines", "id: int; order_id: int", partition={"through": "orders"}, references=to_orders)
    made.declare("tags", "id: int; order_id: int; region: str | None", references=to_orders,
                 partition={"by": "region", "values": ["north", "south"]}, batch=1)  # fmt: skip
    return made

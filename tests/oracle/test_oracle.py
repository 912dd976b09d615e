"""The oracle is worth something only if it approves of a right migration and of no other."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import ValidationError

import shop as shop_package
from conftest import NEW_SHOP_TEMPLATE, Shop
from ferry.declaration import read_migration
from oracle import Oracle
from oracle.oracle import TABLES, copy_tables
from shop.demo.databases import create_database
from shop.demo.server import EmbeddedServer

HERE = Path(__file__).parent
DECLARATIONS = Path(shop_package.__file__).parent / "defs"


@pytest.fixture(scope="module")
def migrated_template(server: EmbeddedServer, oracle: Oracle) -> str:
    """The name of a new shop into which plain SQL has written just what the oracle expects."""
    create_database(server, "migrated_template", NEW_SHOP_TEMPLATE)
    tables = tuple(f"expected_{table}" for table in TABLES.values())
    with psycopg.connect(server.url("migrated_template")) as target:
        copy_tables(oracle.scratch_url, target, "expected", tables)
        target.execute((HERE / "reference_load.sql").read_bytes())
    return "migrated_template"


@pytest.fixture
def migrated_url(migrated_template: str, new_database: Callable[..., str]) -> str:
    """A rightly migrated new shop, for one test to damage."""
    return new_database(migrated_template)


def test_a_right_migration_has_no_differences(oracle: Oracle, migrated_url: str) -> None:
    """Rows written in another order, with keys that the old shop never had, are approved of."""
    assert oracle.differences(migrated_url) == []


def test_an_untouched_target_is_not_approved_of(shop: Shop) -> None:
    """Every table of the new shop lacks its rows before the migration."""
    found = shop.oracle.differences(shop.target_url)
    assert {line.split(":")[0] for line in found} == set(TABLES.values())


@pytest.mark.parametrize(
    ("damage", "table", "words"),
    [
        ("DELETE FROM order_items WHERE (order_id, line_number) = (SELECT max(order_id), 1 FROM order_items)",
         "order_items", "1 rows missing"),
        ("DELETE FROM staff WHERE staff_id = (SELECT max(staff_id) FROM staff s WHERE NOT EXISTS"
         " (SELECT FROM orders WHERE sold_by = s.staff_id) AND NOT EXISTS"
         " (SELECT FROM staff r WHERE r.reports_to = s.staff_id))",
         "staff", "1 rows missing"),
        ("INSERT INTO orders (customer_id, sold_by, state, total_amount, priority, ordered_on, remark)"
         " SELECT customer_id, sold_by, state, total_amount, priority, ordered_on, remark FROM orders"
         " WHERE order_id = (SELECT max(order_id) FROM orders)",
         "orders", "1 rows there but not expected, or once too often"),
        ("INSERT INTO products (title, maker, brand, category, size, packaging, list_price, description)"
         " SELECT title, maker, brand, category, size, packaging, list_price, description FROM products"
         " WHERE product_id = (SELECT max(product_id) FROM products)",
         "products", "1 rows there but not expected, or once too often"),
        ("UPDATE orders SET customer_id = (SELECT min(customer_id) FROM customers)"
         " WHERE order_id = (SELECT max(order_id) FROM orders)",
         "orders", "1 rows missing"),
        ("UPDATE order_items SET product_id = (SELECT max(product_id) - 1 FROM products)"
         " WHERE order_id = (SELECT max(order_id) FROM orders) AND line_number = 1",
         "order_items", "1 rows missing"),
        ("UPDATE order_items SET product_id = 1"
         " WHERE order_id = (SELECT max(order_id) FROM orders) AND line_number = 1",
         "order_items", "1 rows missing"),
        ("UPDATE customers SET referred_by_id = NULL WHERE customer_id ="
         " (SELECT max(customer_id) FROM customers WHERE referred_by_id IS NOT NULL)",
         "customers", "1 rows missing"),
        ("UPDATE order_items SET amount = amount + 0.01"
         " WHERE order_id = (SELECT max(order_id) FROM orders) AND line_number = 1",
         "order_items", "1 rows missing"),
        ("UPDATE customers SET remarks = replace(remarks, E'\\r\\n', E'\\n')"
         " WHERE remarks ~ E'\\r\\n' AND customer_id > 20",
         "customers", "missing"),
        ("UPDATE orders SET remark = NULL WHERE remark = ''", "orders", "missing"),
        ("UPDATE customers SET credit = 11 WHERE full_name LIKE 'Regular customer%'",
         "customers", "5 rows there before the migration and no longer what it was"),
        ("DELETE FROM order_items WHERE order_id = 1 AND line_number = 1",
         "order_items", "1 rows there before the migration and no longer what it was"),
    ],
    ids=[
        "a lost line", "a lost clerk", "a doubled order", "a doubled article", "an order of somebody else's",
        "a line with another article", "a line with an article of the new shop's own", "a lost referrer",
        "a changed digit", "line ends made uniform", "an empty text made NULL", "a preserved row changed",
        "a row from before the migration lost",
    ],
)  # fmt: skip
def test_one_damaged_row_is_found(
    oracle: Oracle, migrated_url: str, damage: str, table: str, words: str
) -> None:
    """Each way in which a loader may go wrong in a single row gives a difference that names the table."""
    with psycopg.connect(migrated_url) as target:
        assert target.execute(damage.encode()).rowcount > 0
    found = oracle.differences(migrated_url)
    assert any(line.startswith(f"{table}: ") and words in line for line in found), found


def test_the_second_writing_of_the_rules_agrees_with_the_contracts(module_shop: Shop) -> None:
    """Judged by Pydantic one by one, the legacy rows break the very rules that the oracle says."""
    judged = {}
    with psycopg.connect(module_shop.source_url, row_factory=dict_row) as source:
        for name, entity in read_migration(DECLARATIONS).entities.items():
            table = entity.declaration.source.table
            for row in source.execute(f"SELECT * FROM {table}".encode()):
                try:
                    entity.contract.model_validate(row)
                except ValidationError as error:
                    key = (name, tuple(str(row[column]) for column in entity.declaration.source.key))
                    judged.setdefault(key, set()).update(
                        f"{e['loc'][0]}: {e['type']}" for e in error.errors()
                    )
    with psycopg.connect(module_shop.oracle.scratch_url) as scratch:
        by_the_oracle = {
            (entity, tuple(key)): set(rules)
            for entity, key, rules in scratch.execute(
                "SELECT entity, key, rules FROM rejected WHERE rules <> '{}'"
            )
        }
    assert judged == by_the_oracle


def test_every_kind_of_dirt_is_there(oracle: Oracle) -> None:
    """At the smallest scale each entity has rows for each reason of rejection, in known numbers."""
    found = {entity: (outcome.rejections, outcome.rules) for entity, outcome in oracle.outcomes().items()}
    assert found == {
        "customers": (
            {"duplicate_key": 20, "contract": 20},
            {
                "name: string_type": 5,
                "email: string_type": 5,
                "email: value_error": 5,
                "segment: literal_error": 5,
            },
        ),
        "products": ({"contract": 10}, {"name: string_type": 5, "price: greater_than": 5}),
        "employees": ({"contract": 10}, {"name: string_type": 5, "email: value_error": 5}),
        "orders": (
            {"contract": 35, "missing_parent": 5, "parent_rejected": 461},
            {
                "customer_id: int_type": 5,
                "placed_at: greater_than_equal": 5,
                "placed_at: less_than": 5,
                "status: literal_error": 5,
                "total: greater_than_equal": 10,
                "total: is_instance_of": 5,
            },
        ),
        "order_lines": (
            {"contract": 20, "missing_parent": 29, "parent_rejected": 2240},
            {
                "discount: less_than_equal": 5,
                "price: greater_than_equal": 5,
                "product_id: int_type": 5,
                "quantity: greater_than": 5,
            },
        ),
    }


def test_every_row_has_one_outcome(oracle: Oracle) -> None:
    """The expected counts add up, and so do the rejections' reasons."""
    for entity, outcome in oracle.outcomes().items():
        assert outcome.extracted == outcome.inserted + outcome.preserved + outcome.rejected, entity
        assert sum(outcome.rejections.values()) == outcome.rejected, entity
        assert Counter(outcome.rules).total() == outcome.rejections["contract"], entity


def test_hard_text_and_hard_references_must_arrive(oracle: Oracle) -> None:
    """The rows to be inserted hold all the texts that break loaders, and references in all directions."""
    with psycopg.connect(oracle.scratch_url) as scratch:
        for table, column in (
            ("expected_customers", "remarks"),
            ("expected_products", "description"),
            ("expected_orders", "remark"),
            ("expected_order_items", "remark"),
        ):
            query = f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
            texts = [text for (text,) in scratch.execute(query.encode())]
            for piece in (
                "\\N",
                "\t",
                "\r\n",
                '"',
                "'",
                "\\",
                "\u202e",
                "\u05e9",
                "\U0001f469\u200d",
                "\x01",
                "\ufeff",
                "DROP",
            ):
                assert any(piece in text for text in texts), (table, piece)
            assert "" in texts, table
            assert any(len(text) >= 10_000 for text in texts), table
        earlier, later, himself, nobody = scratch.execute(
            """SELECT count(*) FILTER (WHERE r.id < c.id), count(*) FILTER (WHERE r.id > c.id),
                      count(*) FILTER (WHERE r.id = c.id), count(*) FILTER (WHERE r.id IS NULL)
               FROM judged_customers c
               LEFT JOIN judged_customers r ON r.id = c.referred_by AND r.reason IS NULL
               WHERE c.referred_by IS NOT NULL AND c.reason IS NULL"""
        ).fetchone()
        assert min(earlier, later, himself, nobody) >= 4
        managed_by_later, without_date, lines_without_order = (
            scratch.execute(query).fetchone()[0]
            for query in (
                "SELECT count(*) FROM judged_employees WHERE reason IS NULL AND manager_id > id",
                "SELECT count(*) FROM expected_orders WHERE ordered_on IS NULL",
                "SELECT count(*) FROM judged_order_lines WHERE order_id NOT IN"
                " (SELECT id FROM judged_orders)",
            )
        )
        assert min(managed_by_later, without_date, lines_without_order) >= 4

"""The demo's two databases: a legacy shop with years of rows, and a new shop that waits for them."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from shop.demo.generator import Generator
from shop.demo.server import OWNER, EmbeddedServer

LEGACY, NEW_SHOP = "legacy", "new_shop"
COPIED_INTO = {
    "customer": "raw_customer",
    "part": "raw_part",
    "orders": "raw_orders",
    "lineitem": """order_lines (order_id, product_id, supplier_id, line_number, quantity, price, discount,
        tax, return_flag, status, shipped_on, committed_on, received_on, instructions, ship_mode, comment)""",
}
BLOCK = 1 << 20


@dataclass(frozen=True)
class Databases:
    """Where the two databases are, as URLs that psql and every driver understand.

    `made` says whether this call made them (True), or found them as they were left (False).
    """

    source_url: str
    target_url: str
    made: bool = False


def prepare(home: Path, scale: float = 0.02) -> Databases:
    """Start the server in `home` and make both databases at `scale`, unless they are there at that scale.

    What a migration did to databases of the same scale stays. Those of another scale, or of another version
    of the demo, are dropped and made anew.
    """
    server = EmbeddedServer(home)
    with Generator(server.home, scale) as rows, _one_at_a_time(server.home):
        if not server.exists():
            rows.begin()
        server.start()
        made = not all(_comment(server, name) == recipe(scale) for name in (LEGACY, NEW_SHOP))
        if made:
            make_databases(server, rows, scale, LEGACY, NEW_SHOP)
    return Databases(server.url(LEGACY), server.url(NEW_SHOP), made)


def make_databases(server: EmbeddedServer, rows: Generator, scale: float, legacy: str, new_shop: str) -> None:
    """Make both databases under the given names, dropping what is there under these names."""
    rows.begin()
    for name in (legacy, new_shop):
        create_database(server, name)
    with psycopg.connect(server.url(legacy)) as connection:
        customers = _fill_legacy(connection, rows)
    fill_new_shop(server.url(new_shop), customers)
    for name in (legacy, new_shop):
        with psycopg.connect(server.url(name, superuser=True), autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
            # Written last: a database without it is half made and is made again.
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(name), sql.Literal(recipe(scale))
                )
            )


def fill_new_shop(url: str, customers: int) -> None:
    """Make the new shop's tables in an empty database, with the rows it has before so many old customers come."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('demo.customers', %s, true)", [str(customers)])
        connection.execute(_script("new_shop.sql"))
        connection.execute(_script("new_shop_rows.sql"))


def create_database(server: EmbeddedServer, name: str, template: str = "template1") -> None:
    """Make an empty database, or a copy of `template`, dropping what is there under this name."""
    with server.admin() as admin:
        drop_database(server, name)
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)
            )
        )


def drop_database(server: EmbeddedServer, name: str) -> None:
    """Drop a database if it exists, whoever is connected to it."""
    with server.admin() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def recipe(scale: float) -> str:
    """What a pair of databases was made from: with the same recipe it held the same rows when new."""
    scripts = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.sql")))
    return f"ferry demo, scale {scale:g}, recipe {hashlib.sha256(scripts).hexdigest()[:12]}"


def _fill_legacy(connection: psycopg.Connection, rows: Generator) -> int:
    """Fill the legacy shop in one transaction and return how many customers the generator made."""
    connection.execute(_script("legacy.sql"))
    for table, path in rows.files().items():
        statement = f"COPY {COPIED_INTO[table]} FROM STDIN (FORMAT csv, HEADER)"
        with connection.cursor().copy(statement.encode()) as copy, path.open("rb") as source:
            while block := source.read(BLOCK):
                copy.write(block)
        path.unlink()
    connection.execute("ANALYZE raw_customer, raw_part, raw_orders, order_lines")
    connection.execute(_script("legacy_rows.sql"))
    counted = connection.execute("SELECT count(*) FROM raw_customer").fetchone()
    return counted[0] if counted else 0


def _script(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


def _comment(server: EmbeddedServer, database: str) -> str | None:
    with server.admin() as admin:
        found = admin.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [database]
        ).fetchone()
    return found[0] if found else None


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

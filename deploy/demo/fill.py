"""Fills the demo's PostgreSQL with an old and a new shop, once: the same rows as the demo without Docker.

Settings: DEMO_HOST, DEMO_PASSWORD (of the superuser and of the shops' owner), FERRY_DEMO_SCALE (1 is 7.85 million
rows). Shops of the same scale are left as they are, with what was migrated between them; of another scale, or of
another version of the demo, they are made anew.
"""

import os
import sys
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

from shop.demo.databases import LEGACY, NEW_SHOP, make_databases, recipe
from shop.demo.generator import Generator
from shop.demo.server import OWNER


class ContainerServer:
    """The demo's PostgreSQL container, in the place of the embedded server."""

    def __init__(self, host: str, password: str) -> None:
        self._host = host
        self._password = password

    def url(self, database: str, *, superuser: bool = False) -> str:
        """URL of one database for its owner, or for the superuser."""
        user = "postgres" if superuser else OWNER
        return f"postgresql://{user}:{self._password}@{self._host}:5432/{database}"

    def admin(self) -> psycopg.Connection:
        """A superuser's connection in autocommit."""
        return psycopg.connect(self.url("postgres", superuser=True), autocommit=True)

    def make_owner(self) -> None:
        """The role that owns both shops; no superuser."""
        with self.admin() as admin:
            if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER]).rowcount:
                admin.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(OWNER), sql.Literal(self._password)
                    )
                )

    def recipes(self) -> list[str | None]:
        """What the shops that are there were made from."""
        with self.admin() as admin:
            found = admin.execute(
                "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname IN (%s, %s)",
                [LEGACY, NEW_SHOP],
            )
            return [row[0] for row in found]


def main() -> None:
    """Make the shops, unless they are there."""
    text = os.environ["FERRY_DEMO_SCALE"]
    try:
        scale = float(text)
    except ValueError:
        sys.exit(f"FERRY_DEMO_SCALE is {text!r}. Write a number above 0; 1 is 7.85 million rows.")
    server = ContainerServer(os.environ["DEMO_HOST"], os.environ["DEMO_PASSWORD"])
    server.make_owner()
    if server.recipes() == [recipe(scale)] * 2:
        print(f"both shops are there, at scale {scale:g}")
        return
    with tempfile.TemporaryDirectory() as place, Generator(Path(place), scale) as rows:
        make_databases(server, rows, scale, LEGACY, NEW_SHOP)  # type: ignore[arg-type] - has all that is used of it
    print(f"made both shops at scale {scale:g}")


if __name__ == "__main__":
    main()

"""Small migrations that a test writes itself: tables on both sides by SQL, declarations as dictionaries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from migrating import Migrating


class Small:
    """A migration of a test's own tables; `migrating` loads it."""

    def __init__(self, new_database: Callable[..., str], place: Path) -> None:
        """Args: the fixture that makes databases, and an empty folder."""
        self.migrating = Migrating(
            new_database(), new_database(), place / "defs", place / "stage", code="small_location"
        )

    def source(self, *statements: str) -> None:
        """Run SQL in the old system."""
        _run(self.migrating.source_url, statements)

    def target(self, *statements: str) -> None:
        """Run SQL in the new system."""
        _run(self.migrating.target_url, statements)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query of the new system returns."""
        with self.migrating.target() as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def declare(
        self,
        name: str,
        fields: str,
        *,
        key: str | list[str] = "id",
        new_key: str | list[str] = "new_id",
        made: str = "identity",
        source: dict[str, Any] | None = None,
        target: str = "",
        target_key: dict[str, Any] | None = None,
        **attributes: Any,
    ) -> None:
        """Write one entity.

        Args:
            name: the entity's, and its table's in both systems unless `source` or `target` say otherwise.
            fields: the contract's fields, `id: int; parent: int | None`.
            key: the old key.
            new_key: the target's key column.
            made: where its values come from.
            source: more of `source`, or all of it if it names a connection.
            target: the target's table.
            target_key: all of `target.key`, instead of `new_key` and `made`.
            attributes: anything else of the declaration.
        """
        folder = self.migrating.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "type": "ferry.components.Entity",
            "attributes": {
                "source": source
                if source and "connection" in source
                else {"connection": "legacy", "table": name, "key": key, **(source or {})},
                "contract": "Row",
                "target": {
                    "connection": "crm",
                    "table": target or name,
                    "key": target_key or {"column": new_key, "from": made},
                },
                **attributes,
            },
        }
        (folder / "defs.yaml").write_text(json.dumps(document))
        body = "\n".join(f"    {line.strip()}" for line in fields.split(";"))
        (folder / "contract.py").write_text(
            "import datetime\nimport decimal\nimport uuid\nfrom typing import Annotated, Literal\n\n"
            "from pydantic import Field\n\n"
            f"from ferry.contract import Contract\n\n\nclass Row(Contract):\n{body}\n"
        )

    def outcomes(self, entity: str) -> dict[str, int]:
        """What the ledger says of an entity, without the zeros."""
        ends = ("extracted", "inserted", "updated", "unchanged", "preserved", "rejected", "waiting")
        sums = ", ".join(f"coalesce(sum({end}), 0)::int" for end in ends)
        row = self.rows(f"select {sums} from ferry.ledger where entity = %s", entity)[0]
        return {end: count for end, count in zip(ends, row, strict=True) if count}

    def rejected(self, entity: str) -> dict[str, str]:
        """Old key → reason of each rejected row."""
        rows = self.rows(
            "select array_to_string(key, ', '), reason from ferry.rejected_rows where entity = %s", entity
        )
        assert len(rows) == len(dict(rows))
        return dict(rows)


def _run(url: str, statements: tuple[str, ...]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())

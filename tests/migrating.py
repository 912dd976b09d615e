"""A migration of a test's own shop: the engine's stages for tests that need them one by one, and the command."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import shop as shop_package
from ferry.declaration import read_migration
from ferry.ledger import Outcomes
from ferry.pipeline import LoadedPartition, PartitionFailed, carry
from ferry.plan import MigrationPlan, plan_migration
from ferry.reconcile import Difference, Reconciliation
from ferry.settings import Settings
from ferry.settle import settle

DECLARATIONS = Path(shop_package.__file__).parent / "defs"


@dataclass
class Went:
    """What became of some partitions: outcomes and reconciliation of those that were loaded, errors of the others."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    loaded: list[str] = field(default_factory=list)
    skipped_chunks: int = 0
    chunks: int = 0
    compared: int = 0
    different: int = 0
    differences: list[Difference] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Migrating:
    """One migration: from where, to where, by which declarations, staged where."""

    source_url: str
    target_url: str
    folder: Path
    stage: Path
    chunk_rows: int = 65_536
    chunk_bytes: int = 16 * 2**20
    connections: dict[str, Any] = field(default_factory=dict)
    code: str = "location"
    """The module of its code location, beside this one: a shop's, or `small_location`."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process works on this migration."""
        return {
            "FERRY_CONNECTIONS__LEGACY": self.source_url,
            "FERRY_CONNECTIONS__CRM": self.target_url,
            "FERRY_STAGE_URI": str(self.stage),
            "FERRY_CHUNK_ROWS": str(self.chunk_rows),
            "FERRY_CHUNK_BYTES": str(self.chunk_bytes),
            "FERRY_DEFS": str(self.folder),
            "FERRY_RETRIES": "0",
            **{
                f"FERRY_CONNECTIONS__{name.upper()}": given if isinstance(given, str) else json.dumps(given)
                for name, given in self.connections.items()
            },
        }

    @cached_property
    def settings(self) -> Settings:
        """The same as settings; nothing is tried twice, so that a test sees the first error."""
        return Settings.model_validate(
            {
                "connections": {"legacy": self.source_url, "crm": self.target_url, **self.connections},
                "stage_uri": str(self.stage),
                "chunk_rows": self.chunk_rows,
                "chunk_bytes": self.chunk_bytes,
                "retries": 0,
            }
        )

    def plans(self, *only: str) -> MigrationPlan:
        """The plan, made anew of what the declarations say now."""
        return plan_migration(read_migration(self.folder), self.settings, only=only)

    def load(self, name: str, partitions: Iterable[str] = (), plans: MigrationPlan | None = None) -> Went:
        """Take partitions of an entity (all if none is named) through all stages, in the order given."""
        plans = plans or self.plans()
        went = Went()
        for event in carry(plans, name, tuple(partitions) or plans[name].scheme.keys, self.settings):
            match event:
                case LoadedPartition():
                    went.outcomes.add(event.outcomes)
                    went.loaded.append(event.partition)
                    went.skipped_chunks += event.skipped_chunks
                    went.chunks += len(event.manifest.parts)
                case Reconciliation():
                    went.compared += event.compared
                    went.different += event.different
                    went.differences += event.differences
                case PartitionFailed():
                    went.failed[event.partition] = str(event.error)
        return went

    def load_all(self) -> dict[str, Went]:
        """Load every entity in the plan's order, and settle."""
        plans = self.plans()
        went = {name: self.load(name, plans=plans) for name in plans.order}
        assert not any(one.failed for one in went.values()), went
        settle(plans, self.settings)
        return went

    def settle(self) -> None:
        """Settle all entities."""
        settle(self.plans(), self.settings)

    def ferry(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command `ferry` as a process of its own."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("ferry")), *words],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )

    def target(self) -> psycopg.Connection:
        """A connection to the new shop, in autocommit."""
        return psycopg.connect(self.target_url, autocommit=True)

    def source(self) -> psycopg.Connection:
        """A connection to the legacy shop, in autocommit."""
        return psycopg.connect(self.source_url, autocommit=True)

    def row_versions(self, *schemas: str) -> dict[str, dict[str, int]]:
        """By table, where each row lies (ctid) and the transaction that wrote it: any write changes some of it."""
        with self.target() as target:
            tables = target.execute(
                "select schemaname, tablename from pg_tables where schemaname = any(%s)", (list(schemas),)
            ).fetchall()
            return {
                f"{schema}.{table}": dict(
                    target.execute(
                        sql.SQL("select ctid::text, xmin::text::bigint from {}").format(
                            sql.Identifier(schema, table)
                        )
                    ).fetchall()
                )
                for schema, table in tables
            }

    def break_stage(self, entity: str, partition: str) -> Path:
        """Put a file where the staging folder of a partition should be; once it is gone, it can be staged."""
        broken = self.stage / entity / partition
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_text("a file where a folder should be")
        return broken

    def loaded_by(self, entity: str) -> dict[str, str]:
        """Partition → the run that loaded it to its end."""
        with self.target() as target:
            return dict(
                target.execute(
                    "select partition, run_id from ferry.partitions where entity = %s", (entity,)
                ).fetchall()
            )

    def new_key(self, entity: str, old: int) -> int | None:
        """The new key of an old one by the map, None if there is none."""
        with self.target() as target:
            table = sql.Identifier("ferry", f"id_map_{entity}")
            row = target.execute(
                sql.SQL("select * from {} where old_id = %s").format(table), (old,)
            ).fetchone()
        return row[1] if row else None


def declarations_by_year(folder: Path) -> Path:
    """The shop's declarations with orders cut by year instead of month: 7 partitions instead of 84."""
    for path in sorted(DECLARATIONS.glob("*/*")):
        if path.is_file():
            copy = folder / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text().replace("every: month", "every: year"))
    return folder

"""A loader: a connection to the target of one entity, with what its loads hold, run and remember there."""

from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from ferry import id_map, ledger
from ferry.catalogue import connect
from ferry.errors import PromiseBroken
from ferry.plan import EntityPlan, MigrationPlan
from ferry.settings import Settings
from ferry.sign_off import refuse_change
from ferry.targets.binary import copy_in
from ferry.targets.direct import DirectLoad, writes_directly
from ferry.targets.postgres.incoming import create_incoming, incoming_columns, incoming_rows
from ferry.targets.postgres.load import load_chunk
from ferry.targets.postgres.resolve import Bounds
from ferry.targets.postgres.waiting import link_deferred

# A chunk joins few rows with large indexed tables whose pages it has just used. Left to its defaults the planner reads
# the whole table for each chunk, which makes a load quadratic; a probe of the index is what it should price low.
SESSION = """
set jit = off; set random_page_cost = 0.1; set cpu_index_tuple_cost = 0.001; set work_mem = '32MB';
set temp_buffers = '32MB'; set idle_in_transaction_session_timeout = 0; set client_encoding = 'UTF8'
"""


class Loader:
    """Works on the rows of one entity over one connection; use as a context manager."""

    def __init__(self, plans: MigrationPlan, name: str, settings: Settings, run_id: str = "") -> None:
        """Args: the whole plan, the entity to load, the settings, and the id of the run for the ledger."""
        self.plans, self.plan, self.settings, self.run_id = plans, plans[name], settings, run_id
        self.map = id_map.map_table(self.plan)
        # Partitions of which something was loaded before this loader began with them.
        self.begun: set[str] = set()
        # Partitions that a run began to load after they were complete, and did not bring to an end.
        self.torn: set[str] = set()
        # Partitions of which a chunk would not take the short way; the next ones would not either.
        self.the_long_way: set[str] = set()
        self.direct: DirectLoad | None = None

    def __enter__(self) -> "Loader":
        """Open the connection and create what the entity needs in `ferry`."""
        self.connection = self.beside()
        try:
            ledger.prepare(self.connection)
            self._prepare_all()
            if writes_directly(self.plan):
                self.direct = DirectLoad(self.plan, self.connection)
        except BaseException:
            self.connection.close()
            raise
        return self

    def beside(self) -> psycopg.Connection:
        """One more connection to the target, set as loads need it."""
        target = self.plan.declaration.target
        connection = connect(self.settings.url(target.connection), target.connection, autocommit=True)
        connection.execute(SESSION)
        return connection

    def __exit__(self, *_: object) -> None:
        """Close the connection; locks go with it."""
        self.connection.close()

    def borrow(self, connection: psycopg.Connection) -> "Loader":
        """Work over a connection that another loader opened, in one transaction with it."""
        self.connection = connection
        self._prepare_all()
        return self

    def lock(self, partition: str | None) -> None:
        """Hold a partition (None: the entity) for this connection, to change it; see `ledger.lock`.

        Raises:
            PermanentError: it was signed off (`ferry.sign_off`).
        """
        ledger.lock(self.connection, self.plan.name, partition, self.settings.lock_timeout_seconds)
        if not self.settings.change_after_cutover:
            refuse_change(self.connection, self.plan.name)

    def begin(self, partition: str) -> dict[int, dict[str, Any]]:
        """Hold a partition instead of the one before; returns what the ledger says of its chunks."""
        self.unlock()
        self.lock(partition)
        before = ledger.chunk_state(self.connection, self.plan.name, partition)
        if before:
            self.begun.add(partition)
        if ledger.is_torn(self.connection, self.plan.name, partition):
            self.torn.add(partition)
        return before

    def take_turn(self) -> None:
        """Let no other partition change rows that this one has as well, until the transaction ends."""
        match = self.plan.declaration.match
        if self.plan.may_meet or (match and match.then == "update"):
            ledger.take_turn(self.connection, self.plan.name)

    def unlock(self) -> None:
        """Let go of what `lock` took."""
        ledger.unlock(self.connection)

    def link(self) -> int:
        """Fill in every deferred reference whose parent has a key by now; returns how many."""
        linked = 0
        for edge in self.plan.later:
            with self.connection.transaction():
                row = self.connection.execute(link_deferred(self.plan, edge)).fetchone()
            linked += row[0] if row else 0
        return linked

    def fill(self, table: pa.Table, numbers: np.ndarray, shown: np.ndarray | None = None) -> pa.Table:
        """`COPY` rows into the temporary table; returns them as they went (see `incoming_rows`)."""
        rows = incoming_rows(self.plan, table, numbers, shown)
        copy_in(self.connection, incoming_columns(self.plan), rows)
        return rows

    def run(
        self,
        partition: str,
        chunk: int,
        *,
        known: bool,
        settling: bool = False,
        as_null: frozenset[int] = frozenset(),
        bounds: Bounds | None = None,
    ) -> tuple[Any, ...]:
        """Execute the load statement over what lies in the temporary table and compare its two hashes."""
        row = self.connection.execute(
            load_chunk(self.plan, known=known, settling=settling, as_null=as_null, bounds=bounds),
            {"entity": self.plan.name, "partition": partition, "chunk": chunk, "run_id": self.run_id},
        ).fetchone()
        assert row is not None
        wanted_inserts, inserted, *_, want, got = row[:8]
        if wanted_inserts != inserted or want != got:
            raise PromiseBroken(
                f"the target holds something else than was sent ({inserted} of {wanted_inserts} rows inserted)",
                where=f"{self.plan.name}, {partition}, chunk {chunk}",
                why="a trigger or rule of the target table changes or swallows rows",
                next=f"Look at the triggers of {self.plan.target.label}; nothing of this chunk was kept",
            )
        return row

    def _prepare_all(self) -> None:
        # The parents' maps as well: a child may come first, and waits.
        for name in dict.fromkeys((self.plan.name, *(edge.parent for edge in self.plan.edges))):
            self._prepare(self.plans[name])
            if name != self.plan.name:
                id_map.refresh_statistics(self.connection, self.plans[name])
        self.connection.execute(create_incoming(self.plan))

    def _prepare(self, plan: EntityPlan) -> None:
        with self.connection.transaction():
            self.connection.execute(
                "select pg_advisory_xact_lock(hashtextextended(%s, 2))", (f"ferry {plan.name}",)
            )
            id_map.prepare(self.connection, plan)

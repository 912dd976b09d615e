# pyright: reportAttributeAccessIssue=false
"""Load: one staged part into the target in one transaction, with map, waiting rows, rejects and the ledger's row.

Nothing of a chunk is kept unless its accounting adds up and the target says that it holds what was sent.
"""

import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import takewhile
from typing import Any

import adbc_driver_manager as adbc
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry import id_map, ledger, vanished
from ferry.catalogue import connect, key_text
from ferry.contract.verdict import withheld
from ferry.errors import FerryError, PermanentError, PromiseBroken, TransientError
from ferry.kept import as_rows, dumps, keys_of
from ferry.ledger import Outcomes
from ferry.plan import EntityPlan, MigrationPlan
from ferry.settings import Settings
from ferry.sign_off import refuse_change
from ferry.stage import Manifest, Part
from ferry.targets.binary import copy_in, sent_as, since_2000
from ferry.targets.direct import DirectLoad, OtherwiseError, writes_directly
from ferry.targets.postgres.incoming import (
    ROW,
    UUID5,
    create_incoming,
    incoming_columns,
    incoming_fields,
    incoming_table,
)
from ferry.targets.postgres.load import hash_held, load_chunk
from ferry.targets.postgres.resolve import Bounds
from ferry.targets.postgres.waiting import link_deferred
from ferry.verdict import PartVerdict

# What a single row can be refused for. Anything else that the database says is not about one row.
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException)
PASSING = (
    psycopg.OperationalError,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    adbc.OperationalError,
)
# A chunk joins few rows with large indexed tables whose pages it has just used. Left to its defaults the planner reads
# the whole table for each chunk, which makes a load quadratic; a probe of the index is what it should price low.
SESSION = """
set jit = off; set random_page_cost = 0.1; set cpu_index_tuple_cost = 0.001; set work_mem = '32MB';
set temp_buffers = '32MB'; set idle_in_transaction_session_timeout = 0; set client_encoding = 'UTF8'
"""


@dataclass(frozen=True)
class Seen:
    """How a part compares with the part of the same number in the stage before: that one's hash, and equal rows."""

    content_hash: str
    same: np.ndarray


@dataclass
class Loaded:
    """What the load statement says of the rows it was given."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    row_hash: Decimal = Decimal(0)
    refused: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: "Loaded") -> None:
        """Add another's counts, hashes and refusals to these."""
        self.outcomes.add(other.outcomes)
        self.row_hash += other.row_hash
        self.refused += other.refused


class Loader:
    """Loads the parts of one entity over one connection; use as a context manager."""

    def __init__(self, plans: MigrationPlan, name: str, settings: Settings, run_id: str = "") -> None:
        """Args: the whole plan, the entity to load, the settings, and the id of the run for the ledger."""
        self.plans, self.plan, self.settings, self.run_id = plans, plans[name], settings, run_id
        self.map = id_map.map_table(self.plan)
        self._numbers: np.ndarray | None = None
        self._begun: set[str] = set()
        # Partitions that a run began to load after they were complete, and did not bring to an end.
        self._torn: set[str] = set()
        # Partitions of which a chunk would not take the short way; the next ones would not either.
        self._the_long_way: set[str] = set()
        self._direct: DirectLoad | None = None
        self._encoder_schema = pa.schema(
            [pa.field(ROW, pa.int64()), *map(sent_as, incoming_fields(self.plan))]
        )

    def __enter__(self) -> "Loader":
        """Open the connection and create what the entity needs in `ferry`."""
        self.connection = self.beside()
        try:
            ledger.prepare(self.connection)
            self._prepare_all()
            if writes_directly(self.plan):
                self._direct = DirectLoad(self.plan, self.connection)
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
            self._begun.add(partition)
        if ledger.is_torn(self.connection, self.plan.name, partition):
            self._torn.add(partition)
        return before

    def take_turn(self) -> None:
        """Let no other partition change rows that this one has as well, until the transaction ends."""
        match = self.plan.declaration.match
        if self.plan.may_meet or (match and match.then == "update"):
            ledger.take_turn(self.connection, self.plan.name)

    def unlock(self) -> None:
        """Let go of what `lock` took."""
        ledger.unlock(self.connection)

    def load_part(
        self,
        manifest_id: str,
        partition: str,
        part: Part,
        table: pa.Table,
        verdict: PartVerdict,
        before: dict[int, dict[str, Any]],
        seen: Seen | None = None,
    ) -> tuple[Outcomes, bool]:
        """Load one part, unless the ledger shows that the same content was loaded under the same plan.

        Where it shows that an earlier content of the part was, the rows that are as they were then are left alone.

        Args:
            manifest_id: the id of the stage that the part belongs to.
            partition: the partition's key.
            part: the part; its number is the chunk's.
            table: its rows, as staged.
            verdict: which of them are accepted.
            before: `ledger.chunk_state` of the partition.
            seen: which rows are as they were in the stage before, if they can be told.

        Returns:
            The outcomes, and whether the chunk was skipped.
        """
        known = before.get(part.number)
        again = self.loaded_before(part, before)
        if again and self._repeated_as_before(partition, part, verdict, again):
            return again, True
        where = f"{self.plan.name}, {partition}, chunk {part.number}"

        def keep(loaded: Loaded) -> Outcomes:
            ledger.record_chunk(
                self.connection,
                entity=self.plan.name,
                partition=partition,
                chunk=part.number,
                stage_id=manifest_id,
                content_hash=part.content_hash,
                plan_hash=self.plan.plan_hash,
                outcomes=loaded.outcomes,
                row_hash=loaded.row_hash,
                run_id=self.run_id,
            )
            return loaded.outcomes

        try:
            if self._direct and not before and partition not in self._the_long_way:
                try:
                    with self.connection.transaction():
                        loaded = self._load_directly(self._direct, partition, part, table, verdict, where)
                        return keep(loaded), False
                except OtherwiseError:
                    pass
                except psycopg.Error as error:
                    if isinstance(error, PASSING) or self.connection.broken:
                        raise
                    # Refused, row by row or as a whole: the long way finds out what.
                    self._the_long_way.add(partition)
            with self.connection.transaction():
                if before or self.plan.declaration.match:
                    self.take_turn()
                if known and seen and self._trusts(known, seen) and not self._doubted(partition, part.number):
                    loaded = self._load_changed(
                        partition, part, table, verdict, seen.same, known["row_hash"], where
                    )
                else:
                    loaded = self._load(partition, part, table, verdict, known=bool(before), where=where)
                return keep(loaded), False
        except psycopg.Error as error:
            raise told(error, where) from None

    def loaded_before(self, part: Part, before: dict[int, dict[str, Any]]) -> Outcomes | None:
        """The outcomes of a part whose content was loaded under this plan; None if it has to be loaded."""
        known = before.get(part.number)
        if known and (known["content_hash"], known["plan_hash"]) == (part.content_hash, self.plan.plan_hash):
            return known["outcomes"].as_seen_again()
        return None

    def _repeated_as_before(self, partition: str, part: Part, verdict: PartVerdict, known: Outcomes) -> bool:
        """Whether the rows of a part that repeat a key are those that did so when it was loaded.

        The others of that key may lie in other parts, so the content of this one does not tell.
        """
        errors = verdict.errors
        numbers = errors.filter(pc.equal(errors.column("reason"), "duplicate_key")).column("row").to_pylist()
        if not numbers and not known.rejected:
            return True
        kept = self.connection.execute(
            "select row_no from ferry.rejected_rows where entity = %s and partition = %s and chunk = %s"
            " and reason = 'duplicate_key'",
            (self.plan.name, partition, part.number),
        ).fetchall()
        return {number for (number,) in kept} == set(numbers)

    def _trusts(self, known: dict[str, Any], seen: Seen) -> bool:
        """Whether what the ledger says of a chunk holds for the rows that are as they were.

        Which of them were preserved, it does not say.
        """
        return (
            known["content_hash"] == seen.content_hash
            and known["plan_hash"] == self.plan.plan_hash
            and not known["outcomes"].preserved
        )

    def _doubted(self, partition: str, chunk: int) -> bool:
        """Whether rows of a chunk may have been lost since the partition was begun; see `vanished.reopen_others`."""
        row = self.connection.execute(
            "select plan_hash from ferry.ledger where entity = %s and partition = %s and chunk = %s",
            (self.plan.name, partition, chunk),
        ).fetchone()
        return row != (self.plan.plan_hash,)

    def load_rows(
        self, table: pa.Table, accepted: np.ndarray, partition: str, chunk: int, *, numbers: list[int]
    ) -> Loaded:
        """Load rows that were rejected before, in the caller's transaction; the ledger is the caller's as well.

        Args:
            table: the rows.
            accepted: positions in it of those that go on.
            partition: where they belong.
            chunk: likewise.
            numbers: for each position, the row's number in its part.
        """
        self._numbers = np.asarray(numbers, dtype=np.int64)
        try:
            return self._rows(table, accepted, partition, chunk, known=True)
        finally:
            self._numbers = None

    def kept_in_target(self, partition: str, chunk: int, accepted: np.ndarray) -> np.ndarray:
        """The numbers of a chunk's rows that are in the target: accepted, and neither refused there nor waiting.

        Args:
            partition: the chunk's.
            chunk: its number.
            accepted: a mask over its rows, by the contract's verdict.
        """
        aside = self.connection.execute(
            "select row_no from ferry.rejected_rows where entity = %(e)s and partition = %(p)s and chunk = %(c)s"
            " union all"
            " select row_no from ferry.waiting_rows where entity = %(e)s and partition = %(p)s and chunk = %(c)s",
            {"e": self.plan.name, "p": partition, "c": chunk},
        ).fetchall()
        mask = accepted.copy()
        mask[[number for (number,) in aside]] = False
        return np.flatnonzero(mask).astype(np.int64)

    def finish(self, manifest: Manifest, partition: str) -> None:
        """Write the partition's row in the ledger, see what vanished, fill in references that were NULL first."""
        self.link()
        if self._may_have_lost(manifest, partition):
            vanished.note(self, manifest, partition)
        try:
            with self.connection.transaction():
                self.take_turn()
                ledger.close_partition(
                    self.connection,
                    entity=self.plan.name,
                    partition=partition,
                    stage_id=manifest.stage_id,
                    content_hash=manifest.content_hash,
                    plan_hash=self.plan.plan_hash,
                    taken_at=manifest.taken_at,
                    rows=manifest.rows,
                    chunks=len(manifest.parts),
                    run_id=self.run_id,
                )
        except PromiseBroken:
            # The next load goes by what is in the target, and writes what was found wrong anew.
            ledger.doubt(self.connection, self.plan.name, partition)
            raise

    def _may_have_lost(self, manifest: Manifest, partition: str) -> bool:
        """Whether this partition was loaded, wholly or in part, with rows that may not be in its stage now.

        Also whether any that had vanished may be back.
        """
        row = self.connection.execute(
            "select content_hash, exists (select from ferry.vanished_rows v where v.entity = p.entity)"
            " from ferry.partitions p where entity = %s and partition = %s",
            (self.plan.name, partition),
        ).fetchone()
        if row is None:
            return partition in self._begun
        if partition in self._torn:
            return True
        return row[0] != manifest.content_hash and (row[0] != manifest.since or row[1])

    def link(self) -> int:
        """Fill in every deferred reference whose parent has a key by now; returns how many."""
        linked = 0
        for edge in self.plan.later:
            with self.connection.transaction():
                row = self.connection.execute(link_deferred(self.plan, edge)).fetchone()
            linked += row[0] if row else 0
        return linked

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

    def copy(self, rows: pa.Table) -> None:
        """`COPY` rows (a table with their numbers and the needed columns) into the temporary table."""
        copy_in(self.connection, incoming_columns(self.plan), rows)

    def incoming(self, table: pa.Table, numbers: np.ndarray) -> pa.Table:
        """The rows with these numbers, as `copy` takes them."""
        picked = self._with_key(table).select([f.name for f in incoming_fields(self.plan)])
        if len(numbers) != table.num_rows:
            picked = picked.take(pa.array(numbers))
        shown = numbers if self._numbers is None else self._numbers[numbers]
        columns = [pa.chunked_array([pa.array(shown, pa.int64())]), *map(since_2000, picked.columns)]
        return pa.table(columns, schema=self._encoder_schema)

    def _bounds(self, rows: pa.Table) -> Bounds:
        """Between which old keys the parents of these rows lie, for references whose first column is a whole number."""
        found: Bounds = {}
        for position, edge in enumerate(self.plan.edges):
            column = rows.column(edge.source_columns[0])
            whole = pa.types.is_integer(self.plan.schema.field(edge.source_columns[0]).type)
            if whole and column.null_count < len(column):
                ends = pc.call_function("min_max", [column])
                found[position] = (ends["min"].as_py(), ends["max"].as_py())
        return found

    def _with_key(self, table: pa.Table) -> pa.Table:
        """The rows, with the version 5 UUID of each old key where the target's key is one."""
        plan = self.plan
        key = plan.declaration.target.key
        if key.source != "uuid5":
            return table
        space = key.namespace or uuid.uuid5(uuid.NAMESPACE_URL, f"ferry:{plan.name}")
        old = zip(*(table.column(name).to_pylist() for name in plan.source_key), strict=True)
        made = [str(uuid.uuid5(space, ", ".join(map(str, parts)))) for parts in old]
        return table.append_column(pa.field(UUID5, pa.string()), pa.array(made, pa.string()))

    def _load(
        self, partition: str, part: Part, table: pa.Table, verdict: PartVerdict, *, known: bool, where: str
    ) -> Loaded:
        attempts, _ = self._forget(partition, part.number)
        numbers = np.flatnonzero(verdict.accepted()).astype(np.int64)
        match = self.plan.declaration.match
        known = known or bool(match and match.then == "update")
        sent = table if verdict.sent is None else verdict.sent
        loaded = self._rows(sent, numbers, partition, part.number, known)
        return self._accounted(partition, part, table, verdict, loaded, attempts, where)

    def _load_directly(
        self,
        direct: DirectLoad,
        partition: str,
        part: Part,
        table: pa.Table,
        verdict: PartVerdict,
        where: str,
    ) -> Loaded:
        """Load a part of which nothing is in the target yet; rows whose parent has no key go the long way."""
        attempts, _ = self._forget(partition, part.number)
        numbers = np.flatnonzero(verdict.accepted()).astype(np.int64)
        sent = table if verdict.sent is None else verdict.sent
        written = direct.write(sent, numbers, partition)
        self.connection.execute("set constraints all immediate")
        loaded = Loaded(Outcomes(inserted=written.rows), written.row_hash)
        loaded.add(self._rows(sent, written.left, partition, part.number, known=False))
        return self._accounted(partition, part, table, verdict, loaded, attempts, where)

    def _load_changed(
        self,
        partition: str,
        part: Part,
        table: pa.Table,
        verdict: PartVerdict,
        same: np.ndarray,
        row_hash: Decimal,
        where: str,
    ) -> Loaded:
        """Load the rows of a part that are not as they were; what was kept aside before is looked at again."""
        attempts, aside = self._forget(partition, part.number)
        if aside:
            keys = keys_of(table, self.plan.source_key)
            same = same & ~np.fromiter((key in aside for key in keys), dtype=bool, count=len(same))
        accepted = verdict.accepted()
        numbers = np.flatnonzero(accepted & ~same).astype(np.int64)
        sent = table if verdict.sent is None else verdict.sent
        loaded = self._rows(sent, numbers, partition, part.number, known=True, replacing=True)
        loaded.outcomes.unchanged += int(np.count_nonzero(accepted & same))
        loaded.row_hash += row_hash
        return self._accounted(partition, part, table, verdict, loaded, attempts, where)

    def _accounted(
        self,
        partition: str,
        part: Part,
        table: pa.Table,
        verdict: PartVerdict,
        loaded: Loaded,
        attempts: dict[tuple[str, ...], int],
        where: str,
    ) -> Loaded:
        """Keep what was rejected, and check that every row of the part has met its end."""
        errors = [*verdict.listed(), *loaded.refused]
        self._reject(partition, part.number, table, errors, attempts)
        loaded.outcomes.extracted = part.rows
        loaded.outcomes.rejected = len({error["row"] for error in errors})
        loaded.outcomes.check(where)
        return loaded

    def _rows(
        self,
        table: pa.Table,
        numbers: np.ndarray,
        partition: str,
        chunk: int,
        known: bool,
        replacing: bool = False,
    ) -> Loaded:
        """Load rows; where the target refuses some, cut the set in halves until those are alone.

        With `replacing`, the hash is the difference to what the same rows held before.
        """
        if not len(numbers):
            return Loaded()
        held = Decimal(0)
        try:
            with self.connection.transaction():
                rows = self.incoming(table, numbers)
                self.copy(rows)
                if replacing and not self.plan.has_map:
                    found = self.connection.execute(hash_held(self.plan)).fetchone()
                    held = found[0] if found else held
                row = self.run(partition, chunk, known=known, bounds=self._bounds(rows))
                # Deferred constraints speak now, while the rows can still be told apart.
                self.connection.execute("set constraints all immediate")
                self.connection.execute(sql.SQL("truncate {}").format(incoming_table(self.plan)))
        except psycopg.errors.UniqueViolation as error:
            if not known:
                self.take_turn()
                return self._rows(table, numbers, partition, chunk, known=True)
            return self._halves(table, numbers, partition, chunk, error, replacing=replacing)
        except REFUSALS as error:
            return self._halves(table, numbers, partition, chunk, error, known=known, replacing=replacing)
        _, inserted, updated, seen, preserved, waiting, _, _, row_hash = row
        return Loaded(
            Outcomes(0, inserted, updated, seen - updated, preserved, 0, waiting), Decimal(row_hash) - held
        )

    def _halves(
        self,
        table: pa.Table,
        numbers: np.ndarray,
        partition: str,
        chunk: int,
        error: psycopg.Error,
        known: bool = True,
        replacing: bool = False,
    ) -> Loaded:
        if len(numbers) == 1:
            return Loaded(
                refused=[{"row": int(numbers[0]), "reason": "target_refused", **refusal(error, self.plan)}]
            )
        middle = len(numbers) // 2
        loaded = self._rows(table, numbers[:middle], partition, chunk, known, replacing)
        loaded.add(self._rows(table, numbers[middle:], partition, chunk, known, replacing))
        return loaded

    def _forget(self, partition: str, chunk: int) -> tuple[dict[tuple[str, ...], int], set[tuple[str, ...]]]:
        """Remove what an earlier load of this chunk kept aside.

        Returns:
            How often each key was rejected, and the keys of all that was kept aside.
        """
        place = (self.plan.name, partition, chunk)
        waited = self.connection.execute(
            "delete from ferry.waiting_rows where entity = %s and partition = %s and chunk = %s returning key",
            place,
        ).fetchall()
        gone = self.connection.execute(
            "delete from ferry.rejected_rows where entity = %s and partition = %s and chunk = %s"
            " returning key, attempts",
            place,
        )
        attempts = {tuple(key): count for key, count in gone}
        return attempts, {*attempts, *(tuple(key) for (key,) in waited)}

    def _reject(
        self,
        partition: str,
        chunk: int,
        table: pa.Table,
        errors: list[dict[str, Any]],
        attempts: dict[tuple[str, ...], int],
    ) -> None:
        """Keep rejected rows whole, each with all its errors."""
        by_row: dict[int, list[dict[str, Any]]] = {}
        for error in errors:
            by_row.setdefault(error["row"], []).append(error)
        if not by_row:
            return
        rows = as_rows(table.take(pa.array(list(by_row), pa.int64())))
        statement = (
            "copy ferry.rejected_rows (entity, partition, chunk, row_no, key, reason, errors, row, attempts, run_id)"
            " from stdin"
        )
        with self.connection.cursor() as cursor, cursor.copy(statement) as copy:
            for (number, found), row in zip(by_row.items(), rows, strict=True):
                key = tuple(key_text(row[name]) for name in self.plan.source_key)
                listed = [{k: v for k, v in error.items() if k not in ("row", "reason")} for error in found]
                copy.write_row(
                    (
                        self.plan.name,
                        partition,
                        chunk,
                        number,
                        list(key),
                        found[0]["reason"],
                        Jsonb(listed, dumps=dumps),
                        Jsonb(row, dumps=dumps),
                        attempts.get(key, 0) + 1,
                        self.run_id,
                    )
                )

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


def refusal(error: psycopg.Error, plan: EntityPlan) -> dict[str, Any]:
    """What the target said of one row that it refused: column or constraint, rule and message.

    Where the contract has personal fields, what could repeat the row's values is left out.
    """
    said, detail = error.diag.message_primary or str(error), error.diag.message_detail
    if plan.personal:
        detail = None
        if not isinstance(error, psycopg.IntegrityError):
            said = withheld(said)
    return {
        "column": error.diag.column_name or error.diag.constraint_name or "",
        "rule": (error.diag.constraint_name and "constraint") or type(error).__name__,
        "value": None,
        "message": " ".join(filter(None, [said, detail])),
    }


def told(error: psycopg.Error | adbc.Error, where: str) -> FerryError:
    """What the database said, through either driver, as an error that says whether trying again can help."""
    return passing(error, where) if isinstance(error, PASSING) or _full(error) else refused(error, where)


def passing(error: psycopg.Error | adbc.Error, where: str) -> TransientError:
    """The error of a lost connection, a deadlock, a lock that somebody holds or a full disk."""
    undone = "The transaction was undone; the next try goes on where the ledger ends"
    match error:
        case psycopg.errors.LockNotAvailable():
            what, help_ = (
                "somebody else holds a lock",
                "See pg_locks for who it is, or wait longer (FERRY_LOCK_TIMEOUT_SECONDS)",
            )
        case _ if _full(error):
            what, help_ = "the target has no space left", "Make room there"
        case _:
            what, help_ = "the target broke off", ""
    return TransientError(what, where=where, why=_said(error), next=f"{help_}. {undone}".removeprefix(". "))


def _full(error: Exception) -> bool:
    """A disk that is full, or a file that may not grow, which PostgreSQL has no code of its own for."""
    return isinstance(error, psycopg.errors.DiskFull) or "File too large" in str(error)


def refused(error: psycopg.Error | adbc.Error, where: str) -> FerryError:
    """The error of a statement that the target will refuse again."""
    return PermanentError(
        "the target refused the load", where=where, why=_said(error), next="Nothing of it was kept"
    )


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # From here on PostgreSQL shows the statement.
    lines = list(takewhile(lambda line: not line.startswith("LINE "), lines))
    return " ".join(lines[:2]) if lines else type(error).__name__

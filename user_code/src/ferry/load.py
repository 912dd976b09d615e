"""Load: one staged part into the target in one transaction, with map, waiting rows, rejects and the ledger's row.

Nothing of a chunk is kept unless its accounting adds up and the target says that it holds what was sent.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from ferry import ledger
from ferry.aside import forget_aside, keep_rejected, repeats_as_before
from ferry.kept import keys_of
from ferry.ledger import Outcomes
from ferry.loader import Loader
from ferry.row_hashes import SourceHashes
from ferry.stage import Part
from ferry.targets.direct import DirectLoad, OtherwiseError
from ferry.targets.errors import PASSING, REFUSALS, refusal, told
from ferry.targets.postgres.incoming import incoming_table
from ferry.targets.postgres.load import hash_held
from ferry.targets.postgres.resolve import bounds_of
from ferry.verdict import PartVerdict


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


def load_part(
    loader: Loader,
    manifest_id: str,
    partition: str,
    part: Part,
    table: pa.Table,
    verdict: PartVerdict,
    before: dict[int, dict[str, Any]],
    seen: Seen | None = None,
    hashes: SourceHashes | None = None,
) -> tuple[Outcomes, bool]:
    """Load one part, unless the ledger shows that the same content was loaded under the same plan.

    Where it shows that an earlier content of the part was, the rows that are as they were then are left alone.

    Args:
        loader: of the entity, with the partition held.
        manifest_id: the id of the stage that the part belongs to.
        partition: the partition's key.
        part: the part; its number is the chunk's.
        table: its rows, as staged.
        verdict: which of them are accepted.
        before: `ledger.chunk_state` of the partition.
        seen: which rows are as they were in the stage before, if they can be told.
        hashes: of all rows of the table, if the source computed them.

    Returns:
        The outcomes, and whether the chunk was skipped.
    """
    known = before.get(part.number)
    again = loaded_before(loader, part, before)
    if again and repeats_as_before(loader, partition, part, verdict, again):
        return again, True
    where = f"{loader.plan.name}, {partition}, chunk {part.number}"

    def keep(loaded: Loaded) -> Outcomes:
        ledger.record_chunk(
            loader.connection,
            entity=loader.plan.name,
            partition=partition,
            chunk=part.number,
            stage_id=manifest_id,
            content_hash=part.content_hash,
            plan_hash=loader.plan.plan_hash,
            outcomes=loaded.outcomes,
            row_hash=loaded.row_hash,
            run_id=loader.run_id,
        )
        return loaded.outcomes

    try:
        if loader.direct and not before and partition not in loader.the_long_way:
            try:
                with loader.connection.transaction():
                    loaded = _load_directly(
                        loader, loader.direct, partition, part, table, verdict, hashes, where
                    )
                    return keep(loaded), False
            except OtherwiseError:
                pass
            except psycopg.Error as error:
                if isinstance(error, PASSING) or loader.connection.broken:
                    raise
                # Refused, row by row or as a whole: the long way finds out what.
                loader.the_long_way.add(partition)
        with loader.connection.transaction():
            if before or loader.plan.declaration.match:
                loader.take_turn()
            if (
                known
                and seen
                and _trusts(loader, known, seen)
                and not _doubted(loader, partition, part.number)
            ):
                loaded = _load_changed(
                    loader, partition, part, table, verdict, seen.same, known["row_hash"], where
                )
            else:
                loaded = _load(loader, partition, part, table, verdict, known=bool(before), where=where)
            return keep(loaded), False
    except psycopg.Error as error:
        raise told(error, where) from None


def load_rows(
    loader: Loader, table: pa.Table, accepted: np.ndarray, partition: str, chunk: int, *, numbers: list[int]
) -> Loaded:
    """Load rows that were rejected before, in the caller's transaction; the ledger is the caller's as well.

    Args:
        loader: of the entity.
        table: the rows.
        accepted: positions in it of those that go on.
        partition: where they belong.
        chunk: likewise.
        numbers: for each position, the row's number in its part.
    """
    shown = np.asarray(numbers, dtype=np.int64)
    return _rows(loader, table, accepted, partition, chunk, known=True, shown=shown)


def loaded_before(loader: Loader, part: Part, before: dict[int, dict[str, Any]]) -> Outcomes | None:
    """The outcomes of a part whose content was loaded under this plan; None if it has to be loaded."""
    known = before.get(part.number)
    if known and (known["content_hash"], known["plan_hash"]) == (part.content_hash, loader.plan.plan_hash):
        return known["outcomes"].as_seen_again()
    return None


def _trusts(loader: Loader, known: dict[str, Any], seen: Seen) -> bool:
    """Whether what the ledger says of a chunk holds for the rows that are as they were.

    Which of them were preserved, it does not say.
    """
    return (
        known["content_hash"] == seen.content_hash
        and known["plan_hash"] == loader.plan.plan_hash
        and not known["outcomes"].preserved
    )


def _doubted(loader: Loader, partition: str, chunk: int) -> bool:
    """Whether rows of a chunk may have been lost since the partition was begun; see `vanished.reopen_others`."""
    row = loader.connection.execute(
        "select plan_hash from ferry.ledger where entity = %s and partition = %s and chunk = %s",
        (loader.plan.name, partition, chunk),
    ).fetchone()
    return row != (loader.plan.plan_hash,)


def _load(
    loader: Loader,
    partition: str,
    part: Part,
    table: pa.Table,
    verdict: PartVerdict,
    *,
    known: bool,
    where: str,
) -> Loaded:
    attempts, _ = forget_aside(loader, partition, part.number)
    numbers = np.flatnonzero(verdict.accepted()).astype(np.int64)
    match = loader.plan.declaration.match
    known = known or bool(match and match.then == "update")
    sent = table if verdict.sent is None else verdict.sent
    loaded = _rows(loader, sent, numbers, partition, part.number, known)
    return _accounted(loader, partition, part, table, verdict, loaded, attempts, where)


def _load_directly(
    loader: Loader,
    direct: DirectLoad,
    partition: str,
    part: Part,
    table: pa.Table,
    verdict: PartVerdict,
    hashes: SourceHashes | None,
    where: str,
) -> Loaded:
    """Load a part of which nothing is in the target yet; rows whose parent has no key go the long way."""
    attempts, _ = forget_aside(loader, partition, part.number)
    numbers = np.flatnonzero(verdict.accepted()).astype(np.int64)
    sent = table if verdict.sent is None else verdict.sent
    written = direct.write(sent, numbers, partition, hashes)
    loader.connection.execute("set constraints all immediate")
    loaded = Loaded(Outcomes(inserted=written.rows), written.row_hash)
    loaded.add(_rows(loader, sent, written.left, partition, part.number, known=False))
    return _accounted(loader, partition, part, table, verdict, loaded, attempts, where)


def _load_changed(
    loader: Loader,
    partition: str,
    part: Part,
    table: pa.Table,
    verdict: PartVerdict,
    same: np.ndarray,
    row_hash: Decimal,
    where: str,
) -> Loaded:
    """Load the rows of a part that are not as they were; what was kept aside before is looked at again."""
    attempts, aside = forget_aside(loader, partition, part.number)
    if aside:
        keys = keys_of(table, loader.plan.source_key)
        same = same & ~np.fromiter((key in aside for key in keys), dtype=bool, count=len(same))
    accepted = verdict.accepted()
    numbers = np.flatnonzero(accepted & ~same).astype(np.int64)
    sent = table if verdict.sent is None else verdict.sent
    loaded = _rows(loader, sent, numbers, partition, part.number, known=True, replacing=True)
    loaded.outcomes.unchanged += int(np.count_nonzero(accepted & same))
    loaded.row_hash += row_hash
    return _accounted(loader, partition, part, table, verdict, loaded, attempts, where)


def _accounted(
    loader: Loader,
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
    keep_rejected(loader, partition, part.number, table, errors, attempts)
    loaded.outcomes.extracted = part.rows
    loaded.outcomes.rejected = len({error["row"] for error in errors})
    loaded.outcomes.check(where)
    return loaded


def _rows(
    loader: Loader,
    table: pa.Table,
    numbers: np.ndarray,
    partition: str,
    chunk: int,
    known: bool,
    replacing: bool = False,
    shown: np.ndarray | None = None,
) -> Loaded:
    """Load rows; where the target refuses some, cut the set in halves until those are alone.

    With `replacing`, the hash is the difference to what the same rows held before. `shown` tells, for each position in
    the table, the row's number in its part, where that is another one.
    """
    if not len(numbers):
        return Loaded()
    held = Decimal(0)
    try:
        with loader.connection.transaction():
            rows = loader.fill(table, numbers, shown)
            if replacing and not loader.plan.has_map:
                found = loader.connection.execute(hash_held(loader.plan)).fetchone()
                held = found[0] if found else held
            row = loader.run(partition, chunk, known=known, bounds=bounds_of(loader.plan, rows))
            # Deferred constraints speak now, while the rows can still be told apart.
            loader.connection.execute("set constraints all immediate")
            loader.connection.execute(sql.SQL("truncate {}").format(incoming_table(loader.plan)))
    except psycopg.errors.UniqueViolation as error:
        if not known:
            loader.take_turn()
            return _rows(loader, table, numbers, partition, chunk, True, replacing, shown)
        return _halves(loader, table, numbers, partition, chunk, error, True, replacing, shown)
    except REFUSALS as error:
        return _halves(loader, table, numbers, partition, chunk, error, known, replacing, shown)
    _, inserted, updated, seen, preserved, waiting, _, _, row_hash = row
    return Loaded(
        Outcomes(0, inserted, updated, seen - updated, preserved, 0, waiting), Decimal(row_hash) - held
    )


def _halves(
    loader: Loader,
    table: pa.Table,
    numbers: np.ndarray,
    partition: str,
    chunk: int,
    error: psycopg.Error,
    known: bool,
    replacing: bool,
    shown: np.ndarray | None,
) -> Loaded:
    if len(numbers) == 1:
        return Loaded(
            refused=[{"row": int(numbers[0]), "reason": "target_refused", **refusal(error, loader.plan)}]
        )
    middle = len(numbers) // 2
    loaded = _rows(loader, table, numbers[:middle], partition, chunk, known, replacing, shown)
    loaded.add(_rows(loader, table, numbers[middle:], partition, chunk, known, replacing, shown))
    return loaded

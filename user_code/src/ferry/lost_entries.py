"""Map entries that somebody removed: found before anything is loaded, and made again where the target proves them.

A row of a loaded chunk has a map entry, or it is among the rejected or the waiting ones; Ferry itself never removes an
entry. Whoever has neither lost his: loaded as he is, he would get a second key. His row is still in the target, claimed
by nobody; if it is the only one like him, and he the only one like it, the pair is known again.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from psycopg import sql

from ferry import ledger
from ferry.aside import kept_in_target
from ferry.drift import check_stage
from ferry.errors import PermanentError
from ferry.loader import Loader
from ferry.stage import Part, Stage
from ferry.targets.postgres.entries import claim_entries, forget_mapped
from ferry.targets.postgres.incoming import incoming_old_keys, incoming_table
from ferry.verdict import Judge

SHOWN = 5


def put_back(loader: Loader, partitions: tuple[str, ...]) -> dict[str, PermanentError]:
    """Make the lost entries of some partitions again.

    Args:
        loader: of the entity.
        partitions: those that are about to be loaded.

    Returns:
        The partitions with rows that cannot be told, which must not be loaded; the error says how to put entries back.
    """
    told = {}
    for partition in _short(loader, partitions) if loader.plan.has_map else ():
        loader.lock(partition)
        try:
            for part, rows, accepted in _loaded(loader, partition):
                _part(loader, partition, part, rows, accepted)
        except PermanentError as error:
            told[partition] = error
        loader.unlock()
    return told


def _loaded(loader: Loader, partition: str) -> Iterator[tuple[Part, pa.Table, np.ndarray]]:
    """The staged parts that the ledger says are loaded, with their rows as they were sent and which were accepted.

    What is damaged is left out.
    """
    stage = Stage(loader.settings.stage_root, loader.plan.name, partition)
    manifest = stage.manifest()
    if manifest is None:
        return
    judge, known = Judge(loader.plan), ledger.chunk_state(loader.connection, loader.plan.name, partition)
    try:
        check_stage(loader.plan, manifest)
        duplicates = stage.duplicates(manifest)
        for part in manifest.parts:
            if part.number in known and known[part.number]["content_hash"] == part.content_hash:
                table = stage.read(manifest, part)
                verdict = judge.judge(table, duplicates)
                yield part, table if verdict.sent is None else verdict.sent, verdict.accepted()
    except (PermanentError, OSError):
        return


def _short(loader: Loader, partitions: tuple[str, ...]) -> list[str]:
    """Partitions with fewer map entries than rows by the ledger. Some of them have only rows that moved elsewhere."""
    name, some = loader.plan.name, list(partitions)
    held = loader.connection.execute(
        "select partition, sum(inserted + updated + unchanged) + (select count(*) from ferry.vanished_rows v where"
        " v.entity = l.entity and v.partition = l.partition) from ferry.ledger l where entity = %s and"
        " partition = any(%s) group by entity, partition",
        (name, some),
    ).fetchall()
    if not held:
        return []
    there = dict(
        loader.connection.execute(
            sql.SQL(
                "select partition, count(*) from {} where partition = any(%s) and row_hash is not null"
                " and status <> 'tombstone' group by 1"
            ).format(loader.map.identifier),
            (some,),
        ).fetchall()
    )
    return sorted(partition for partition, count in held if there.get(partition, 0) < count)


def _part(loader: Loader, partition: str, part: Part, table: pa.Table, accepted: np.ndarray) -> None:
    """Make the lost entries of one part again, all or none."""
    connection = loader.connection
    with connection.transaction():
        # What was rejected may be nothing that the target can even be sent.
        loader.fill(table, kept_in_target(loader, partition, part.number, accepted))
        connection.execute(forget_mapped(loader.plan))
        connection.execute(claim_entries(loader.plan), {"partition": partition})
        connection.execute(forget_mapped(loader.plan))
        rest = connection.execute(incoming_old_keys(loader.plan), (SHOWN,)).fetchall()
        if rest:
            raise _untold(loader, partition, [", ".join(key) for (key,) in rest])
        connection.execute(sql.SQL("truncate {}").format(incoming_table(loader.plan)))


def _untold(loader: Loader, partition: str, keys: list[str]) -> PermanentError:
    table, plan = loader.map, loader.plan
    columns = ", ".join((*table.old, *table.new, "status", "partition"))
    return PermanentError(
        f"rows that were loaded have no map entry any more: {'; '.join(keys) if not _personal(loader) else '***'}",
        where=f"{plan.name}, {partition}",
        why=f"somebody removed it, and no row of {plan.target.label} without an entry is like them, or several are",
        next=f"For each, with the key of its row: insert into ferry.id_map_{plan.name} ({columns}) values"  # noqa: S608
        f" (…, 'inserted', '{partition}'). Or, if their rows are gone too and may get new keys:"
        f" delete from ferry.ledger where entity = '{plan.name}' and partition = '{partition}'",
    )


def _personal(loader: Loader) -> bool:
    return bool(loader.plan.personal & set(loader.plan.source_key))

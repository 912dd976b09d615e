"""The keys of partitions that nobody lists in a declaration: discovered in the source, or registered by somebody.

`ferry.partition_keys` of the target that the entity is loaded into has them, in the order in which they came, and
none is ever taken out: what belongs to the first partition, and what is complete, follows from it. A value that is
not known, or can be no key, lies in the partition `(others)`: rows are never lost for want of a key, and move when
their value gets one.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

import psycopg

from ferry import ledger
from ferry.catalogue import connect
from ferry.declaration import Entity, Migration
from ferry.errors import DeclarationError
from ferry.extract import open_source
from ferry.partition import BESIDE, MOST_PARTITIONS, OTHERS, may_be_key, through_path
from ferry.settings import Settings


def with_known_keys(migration: Migration, settings: Settings, names: Iterable[str] = ()) -> Migration:
    """The migration with what is registered for its entities (all if none is named), read from their targets."""
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    for root in _roots(migration, names):
        with _target(root, settings) as connection:
            known |= {(root.name, by): _registered(connection, root.name, by) for by in _discovered(root)}
    return replace(migration, known={**migration.known, **known}) if known else migration


def discover(migration: Migration, settings: Settings, names: Iterable[str] = ()) -> Migration:
    """Ask the sources for their values, register those that are new, and give the migration that knows them.

    Raises:
        DeclarationError: a column holds more values than there may be partitions.
    """
    for root in _roots(migration, names):
        two = len(_cuts(root)) > 1
        with closing(open_source(migration, root.name, settings)) as source:
            for by in _discovered(root):
                found = source.values(root.name, by, MOST_PARTITIONS)
                if len(found) >= MOST_PARTITIONS:
                    raise DeclarationError(
                        f"{by} holds {MOST_PARTITIONS} values or more, and each would be a partition",
                        where=f"{root.path}: partition",
                        next="Cut by ranges (`every`), or by another column",
                    )
                _register(root, by, [one for one in sorted(found) if may_be_key(one, of_two=two)], settings)
    return with_known_keys(migration, settings, names)


def register(migration: Migration, name: str, keys: Iterable[str], settings: Settings) -> Migration:
    """Make keys known, each a value or (of two columns) a pair such as `1992-01|north`; known ones stay as they are.

    Raises:
        DeclarationError: the entity's partitions are not discovered, or one can be no key.
    """
    root = migration[through_path(migration, name)[-1]]
    discovered, cuts = _discovered(root), _cuts(root)
    if not discovered:
        raise DeclarationError(
            "its partitions follow from its declaration, and none can be added",
            where=name,
            next=f"Declare `values: discovered` in {root.path}",
        )
    wanted: dict[str, list[str]] = {by: [] for by in discovered}
    for key in keys:
        parts = key.split(BESIDE) if len(cuts) > 1 else [key]
        # Of two columns the one that is discovered may be meant alone: `ferry partitions orders --add west`.
        named = cuts if len(parts) == len(cuts) else discovered
        found = {by: part for by, part in zip(named, parts, strict=False) if by in wanted and part != OTHERS}
        if len(parts) != len(named) or not all(may_be_key(v, of_two=len(cuts) > 1) for v in found.values()):
            raise DeclarationError(
                f"{key!r} can be no partition",
                where=name,
                why="it has too many parts, is too long or empty, has white space around it, or a character that"
                " Dagster keeps for itself",
                next=f"Rows with such a value are loaded with the partition {OTHERS}",
            )
        for by, part in found.items():
            wanted[by].append(part)
    for by, values in wanted.items():
        _register(root, by, values, settings)
    return with_known_keys(migration, settings, [name])


def _roots(migration: Migration, names: Iterable[str]) -> list[Entity]:
    """The entities, each once, whose columns cut some entities by what they hold."""
    roots = {through_path(migration, name)[-1]: None for name in names or migration.entities}
    return [migration[root] for root in roots if _discovered(migration[root])]


def _cuts(root: Entity) -> list[str]:
    partition = root.declaration.partition
    return [cut.by or "" for cut in partition.cuts] if partition else []


def _discovered(root: Entity) -> list[str]:
    partition = root.declaration.partition
    return [cut.by or "" for cut in partition.cuts if cut.values == "discovered"] if partition else []


def _target(root: Entity, settings: Settings) -> psycopg.Connection:
    name = root.declaration.target.connection
    return connect(settings.url(name, f"{root.path}: target.connection"), name, autocommit=True)


def _registered(connection: psycopg.Connection, entity: str, by: str) -> tuple[str, ...]:
    if not ledger.is_prepared(connection):
        return ()
    rows = connection.execute(
        "select key from ferry.partition_keys where entity = %s and by = %s order by id", (entity, by)
    )
    return tuple(row[0] for row in rows)


def _register(root: Entity, by: str, keys: list[str], settings: Settings) -> None:
    if not keys:
        return
    with _target(root, settings) as connection:
        ledger.prepare(connection)
        connection.execute(
            "insert into ferry.partition_keys (entity, by, key) select %s, %s, key"
            " from unnest(%s::text[]) with ordinality k (key, n) order by n on conflict do nothing",
            (root.name, by, keys),
        )

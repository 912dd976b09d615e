"""Does the target hold what was loaded? The cheap look that every run takes, inside the database.

The hashes that the load computed and kept are held against hashes of what stands in the target now. What differs,
`ferry.reconcile` finds out.
"""

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg import sql

from ferry.loader import Loader
from ferry.reconcile import Reconciliation
from ferry.row_hashes import added_up
from ferry.targets.postgres.hashes import row_hash

# Blocks from which on a table is read over several connections.
_LARGE = 512
_WHOLE = ("int2", "int4", "int8")
_ALL = sql.SQL("true")


def digest(loader: Loader, partitions: Iterable[str]) -> dict[str, Reconciliation] | None:
    """Compare stored hashes with the target's rows, partition by partition.

    Returns:
        The result by partition, None or without a partition where only `compare` can tell.
    """
    names, held = list(partitions), _held(loader)
    rows = {name: count for name, (count, _) in held.items()}
    most = 2 * sum(rows.get(name, 0) for name in names) >= sum(rows.values())
    if not loader.plan.has_map:
        return _digest_whole(loader, names, held) if most else None
    found = {name: Reconciliation(name) for name in names}
    for name, compared, different in _digest_by_map(loader, names, most):
        found[name].compared += compared
        found[name].different += different
    # A map with fewer or more entries than the ledger counts says nothing of the rows that it lacks.
    return {name: one for name, one in found.items() if one.compared == rows.get(name, 0)}


def _held(loader: Loader) -> dict[str, tuple[int, Any]]:
    """Of each partition the rows that the ledger says are ours in the target, and their hash."""
    rows = loader.connection.execute(
        "select partition, sum(inserted + updated + unchanged)::bigint, sum(row_hash) from ferry.ledger"
        " where entity = %s group by 1",
        (loader.plan.name,),
    )
    return {partition: (count, hash_) for partition, count, hash_ in rows}


def _digest_whole(
    loader: Loader, names: list[str], held: dict[str, tuple[int, Any]]
) -> dict[str, Reconciliation] | None:
    """An entity without a map keeps one hash a chunk, in the ledger: their sum is that of all rows it ever wrote.

    Returns:
        None if the sums differ.
    """
    plan = loader.plan
    found = sql.Identifier("ferry", f"found_{plan.name}")
    on = sql.SQL(" and ").join(
        sql.SQL("f.{0} = t.{0}").format(sql.Identifier(column)) for column in plan.target_key
    )
    ours = sql.SQL("not exists (select from {} f where {})").format(found, on)
    if not _any(loader, found):
        # Asked of each row, even that costs half as much as its hash.
        ours = _ALL

    def query(part: sql.Composable) -> sql.Composed:
        return sql.SQL("select count(*), {} from {} t where {} and {}").format(
            added_up(row_hash(plan, "t")), plan.target.identifier, part, ours
        )

    slices = _side_by_side(loader, query, "t", plan.target.identifier)
    there = tuple(map(sum, zip(*slices, strict=True)))
    if there != tuple(map(sum, zip((0, 0), *held.values(), strict=True))):
        return None
    return {name: Reconciliation(name, compared=held.get(name, (0, 0))[0]) for name in names}


def _any(loader: Loader, table: sql.Identifier) -> bool:
    row = loader.connection.execute(sql.SQL("select exists (select from {})").format(table)).fetchone()
    return bool(row and row[0])


def _digest_by_map(loader: Loader, names: list[str], most: bool) -> list[tuple[str, int, int]]:
    """Of each partition the rows of the target that the map knows the hash of, and how many have another one.

    Range by range of the new keys, the hashes on both sides are added up, if these partitions have most of the rows.
    Rows are joined, which costs twice as much, where that does not come to the same: some differ, or others lie
    between them.
    """
    plan, map_ = loader.plan, loader.map
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = m.{}").format(sql.Identifier(column), sql.Identifier(new))
        for column, new in zip(plan.target_key, map_.new, strict=True)
    )
    parts = {
        "key": sql.Identifier(plan.target_key[0]),
        "hash": row_hash(plan, "t"),
        "theirs": added_up(row_hash(plan, "t")),
        "ours": added_up(sql.SQL("m.row_hash")),
        "map": map_.identifier,
        "target": plan.target.identifier,
        "on": on,
    }

    def joined(part: sql.Composable, there: sql.Composable = _ALL) -> sql.Composed:
        return sql.SQL(
            "select m.partition, count(*),"
            " count(*) filter (where t.{key} is null or {hash} is distinct from m.row_hash) from {map} m"
            " left join {target} t on {on} and {there} where m.partition = any(%s) and m.row_hash is not null"
            " and m.status <> 'tombstone' and {part} group by 1"
        ).format(**parts, part=part, there=there)

    def sums(part: sql.Composable, there: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "select m.partition, count(*), {ours} from {map} m where m.row_hash is not null"
            " and m.status <> 'tombstone' and {part} group by 1 union all"
            " select null, count(*), {theirs} from {target} t where {there}"
        ).format(**parts, part=part, there=there)

    ranges = _ranges(loader)
    if ranges is None:
        return _side_by_side(loader, joined, "m", map_.identifier, (names,))
    found = []
    if most:
        differing = []
        for one, answer in zip(ranges, _ask(loader, [sums(*one) for one in ranges]), strict=True):
            there = next((count, total) for partition, count, total in answer if partition is None)
            ours = [(partition, count, total) for partition, count, total in answer if partition is not None]
            if there == (sum(count for _, count, _ in ours), sum(total for _, _, total in ours)):
                found += [(partition, count, 0) for partition, count, _ in ours if partition in names]
            else:
                differing.append(one)
        ranges = differing
    return found + _all(_ask(loader, [joined(*one) for one in ranges], (names,)))


def _ranges(loader: Loader) -> list[tuple[sql.Composable, sql.Composable]] | None:
    """Conditions over the map `m` and the target `t` for each of some ranges of the new keys that the map has.

    Both have an index over a key that is one whole number, and where rows lie in the order of their keys the two are
    merged as they lie. None where other keys have no ranges that are known to be even, where rows are matched, whose
    entries the index leaves out, and where it is not worth it.
    """
    plan, map_ = loader.plan, loader.map
    parts = loader.settings.loaders
    whole = len(plan.target_key) == 1 and plan.target.columns[plan.target_key[0]].base_type in _WHOLE
    if not whole or plan.declaration.match or not _blocks(loader, map_.identifier):
        return None
    here, there = sql.Identifier("m", map_.new[0]), sql.Identifier("t", plan.target_key[0])
    row = loader.connection.execute(
        sql.SQL("select min({0}), max({0}) from {1} m where status <> 'preserved'").format(
            here, map_.identifier
        )
    ).fetchone()
    low, high = row if row and row[0] is not None else (0, 0)
    bounds = [low - 1, *(low + (high - low) * n // parts for n in range(1, parts)), high]

    def within(column: sql.Composable, after: int, upto: int) -> sql.Composed:
        return sql.SQL("{0} > {1} and {0} <= {2}").format(column, sql.Literal(after), sql.Literal(upto))

    return [
        (sql.SQL("m.status <> 'preserved' and {}").format(within(here, *ends)), within(there, *ends))
        for ends in itertools.pairwise(bounds)
    ]


def _blocks(loader: Loader, table: sql.Identifier) -> int:
    """The blocks of a table that is worth reading over several connections.

    0 if it is small, or has partitions, whose rows share their places.
    """
    row = loader.connection.execute(
        "select pg_relation_size(oid) / current_setting('block_size')::int from pg_class where oid = %s::regclass"
        " and relkind = 'r'",
        (table.as_string(loader.connection),),
    ).fetchone()
    return row[0] if row and row[0] >= _LARGE else 0


def _side_by_side(
    loader: Loader,
    query: Callable[[sql.Composable], sql.Composed],
    alias: str,
    table: sql.Identifier,
    parameters: tuple[Any, ...] | None = None,
) -> list[tuple[Any, ...]]:
    """The rows of a query over a table, asked for each of some ranges of its blocks."""
    blocks, parts = _blocks(loader, table), loader.settings.loaders
    if not blocks or parts == 1:
        return loader.connection.execute(query(_ALL), parameters).fetchall()
    place = sql.Identifier(alias, "ctid")
    starts = [sql.Literal(f"({blocks * n // parts},0)") for n in range(parts)]
    ranges = [
        sql.SQL("{0} >= {1}::tid and {0} < {2}::tid").format(place, start, end)
        for start, end in itertools.pairwise(starts)
    ]
    ranges.append(sql.SQL("{} >= {}::tid").format(place, starts[-1]))
    return _all(_ask(loader, [query(part) for part in ranges], parameters))


def _ask(
    loader: Loader, queries: list[sql.Composed], parameters: tuple[Any, ...] | None = None
) -> list[list[tuple[Any, ...]]]:
    """The rows of each query, over a connection of its own: one statement keeps one core of the target busy.

    Each reads a large piece of its tables once, so it pays for what the disk asks, and helps itself to no more cores.
    """

    def ask(query: sql.Composed) -> list[tuple[Any, ...]]:
        with loader.beside() as connection:
            connection.execute("set max_parallel_workers_per_gather = 0; set random_page_cost = 1.1")
            return connection.execute(query, parameters).fetchall()

    with ThreadPoolExecutor(max(len(queries), 1), thread_name_prefix="reconcile") as pool:
        return list(pool.map(ask, queries))


def _all(answers: list[list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    return list(itertools.chain.from_iterable(answers))

"""Reconcile: does the target hold what was staged? Compared row by row through the id map, inside the database.

The first hop, source against stage, is made when a stage is sealed (`Stage.seal`). This is the second: stage against
target. `digest` is the cheap look that every run makes: it compares the hashes that the load computed with hashes of
what stands in the target now. `compare` sends the staged rows again and names each key and column that differs.
"""

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from ferry.drift import check_stage
from ferry.load import Loader
from ferry.stage import Manifest, Stage
from ferry.targets.postgres.classify import resolved
from ferry.targets.postgres.hashes import comparable, row_hash
from ferry.verdict import Judge

MOST_EXAMPLES = 20
# Blocks from which on a table is read over several connections.
_LARGE = 512
_WHOLE = ("int2", "int4", "int8")
_ALL = sql.SQL("true")


@dataclass
class Difference:
    """One row that is not as it should be: its old key, the column (empty if the row is missing), both values."""

    key: str
    column: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        """For people: `key 17: total_amount is 10.00, should be 11.00`."""
        if not self.column:
            return f"key {self.key}: {self.found}"
        return f"key {self.key}: {self.column} is {self.found!r}, should be {self.expected!r}"


@dataclass
class Reconciliation:
    """The result for one partition: rows compared, rows that differ, those that differed until they were put right.

    `differences` are the first of them.
    """

    partition: str
    compared: int = 0
    different: int = 0
    repaired: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def reconciled(self) -> bool:
        """Whether every row is as it should be."""
        return self.different == 0


def digest(loader: Loader, partitions: Iterable[str]) -> dict[str, Reconciliation] | None:
    """Compare stored hashes with the target's rows, partition by partition, in one statement.

    Returns:
        The result by partition, None or without a partition where only `compare` can tell.
    """
    plan, names = loader.plan, list(partitions)
    if not plan.has_map:
        return _digest_whole(loader, names)
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = m.{}").format(sql.Identifier(column), sql.Identifier(new))
        for column, new in zip(plan.target_key, loader.map.new, strict=True)
    )

    def query(part: sql.Composable, there: sql.Composable = _ALL) -> sql.Composed:
        return sql.SQL(
            "select m.partition, count(*),"
            " count(*) filter (where t.{key} is null or {hash} is distinct from m.row_hash) from {map} m"
            " left join {target} t on {on} and {there} where m.partition = any(%s) and m.row_hash is not null"
            " and m.status <> 'tombstone' and {part} group by 1"
        ).format(
            key=sql.Identifier(plan.target_key[0]),
            hash=row_hash(plan, "t"),
            map=loader.map.identifier,
            target=plan.target.identifier,
            on=on,
            part=part,
            there=there,
        )

    found = {name: Reconciliation(name) for name in names}
    for name, compared, different in _by_key(loader, query, (names,)):
        found[name].compared += compared
        found[name].different += different
    held = _held(loader)
    # A map with fewer or more entries than the ledger counts says nothing of the rows that it lacks.
    return {name: one for name, one in found.items() if one.compared == held.get(name, (0, 0))[0]}


def _held(loader: Loader) -> dict[str, tuple[int, Any]]:
    """Of each partition the rows that the ledger says are ours in the target, and their hash."""
    rows = loader.connection.execute(
        "select partition, sum(inserted + updated + unchanged)::bigint, sum(row_hash) from ferry.ledger"
        " where entity = %s group by 1",
        (loader.plan.name,),
    )
    return {partition: (count, hash_) for partition, count, hash_ in rows}


def _digest_whole(loader: Loader, names: list[str]) -> dict[str, Reconciliation] | None:
    """An entity without a map keeps one hash a chunk, in the ledger: their sum is that of all rows it ever wrote.

    Returns:
        None if the sums differ, or if these partitions are so few that comparing them is cheaper.
    """
    plan, ledgers = loader.plan, _held(loader)
    held = {partition: count for partition, (count, _) in ledgers.items()}
    if 2 * sum(held.get(name, 0) for name in names) < sum(held.values()):
        return None
    found = sql.Identifier("ferry", f"found_{plan.name}")
    on = sql.SQL(" and ").join(
        sql.SQL("f.{0} = t.{0}").format(sql.Identifier(column)) for column in plan.target_key
    )

    def query(part: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "select count(*), coalesce(sum({}), 0) from {} t where {}"
            " and not exists (select from {} f where {})"
        ).format(row_hash(plan, "t"), plan.target.identifier, part, found, on)

    slices = _side_by_side(loader, query, "t", plan.target.identifier)
    there = tuple(map(sum, zip(*slices, strict=True)))
    if there != (sum(held.values()), sum(hash_ for _, hash_ in ledgers.values())):
        return None
    return {name: Reconciliation(name, compared=held.get(name, 0)) for name in names}


def _by_key(
    loader: Loader, query: Callable[..., sql.Composed], parameters: tuple[Any, ...]
) -> list[tuple[Any, ...]]:
    """The rows of a query over the map and the target, asked for each of some ranges of the new keys.

    Both have an index over a key that is one whole number, and where rows lie in the order of their keys the two are
    merged as they lie. Other keys have no ranges that are known to be even: there, and where rows are matched, whose
    entries the index leaves out, ranges of the map's blocks do.
    """
    plan, map_ = loader.plan, loader.map
    parts = loader.settings.loaders
    whole = len(plan.target_key) == 1 and plan.target.columns[plan.target_key[0]].base_type in _WHOLE
    if not whole or plan.declaration.match or parts == 1 or not _blocks(loader, map_.identifier):
        return _side_by_side(loader, query, "m", map_.identifier, parameters)
    there, here = sql.Identifier("t", plan.target_key[0]), sql.Identifier("m", map_.new[0])
    row = loader.connection.execute(
        sql.SQL("select min({0}), max({0}) from {1} m where status <> 'preserved'").format(
            here, map_.identifier
        )
    ).fetchone()
    low, high = row if row and row[0] is not None else (0, 0)
    bounds = [None, *(low + (high - low) * n // parts for n in range(1, parts)), None]

    def within(column: sql.Composable, after: int | None, upto: int | None) -> sql.Composable:
        ends = ((sql.SQL("{} > {}"), after), (sql.SQL("{} <= {}"), upto))
        return sql.SQL(" and ").join(
            [form.format(column, sql.Literal(end)) for form, end in ends if end is not None]
        )

    ours = sql.SQL("m.status <> 'preserved' and {}")
    return _ask(
        loader,
        [
            query(ours.format(within(here, *ends)), within(there, *ends))
            for ends in itertools.pairwise(bounds)
        ],
        parameters,
    )


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
    return _ask(loader, [query(part) for part in ranges], parameters)


def _ask(
    loader: Loader, queries: list[sql.Composed], parameters: tuple[Any, ...] | None
) -> list[tuple[Any, ...]]:
    """The rows of all queries, each over a connection of its own: one statement keeps one core of the target busy.

    Each reads a large piece of its tables once, so it pays for what the disk asks, and helps itself to no more cores.
    """

    def ask(query: sql.Composed) -> list[tuple[Any, ...]]:
        with loader.beside() as connection:
            connection.execute("set max_parallel_workers_per_gather = 0; set random_page_cost = 1.1")
            return connection.execute(query, parameters).fetchall()

    with ThreadPoolExecutor(len(queries), thread_name_prefix="reconcile") as pool:
        return [row for rows in pool.map(ask, queries) for row in rows]


def compare(loader: Loader, stage: Stage, manifest: Manifest, judge: Judge) -> Reconciliation:
    """Send the staged rows of a partition again and compare each accepted one with the target, column by column.

    Nothing is written. Rows that wait, or that the target or a reference refused, are left out: the ledger has them.
    """
    plan = loader.plan
    result = Reconciliation(stage.partition)
    check_stage(plan, manifest)
    duplicates = stage.duplicates(manifest)
    for part in manifest.parts:
        table = stage.read(manifest, part)
        verdict = judge.judge(table, duplicates)
        numbers = loader.kept_in_target(stage.partition, part.number, verdict.accepted())
        sent = table if verdict.sent is None else verdict.sent
        if not len(numbers):
            continue
        with loader.connection.transaction(force_rollback=True):
            loader.copy(loader.incoming(sent, numbers))
            _compare_part(loader, result)
    return result


def _compare_part(loader: Loader, result: Reconciliation) -> None:
    """Compare the incoming rows; one that another partition has brought in a newer version is compared with that.

    Unless it is gone from there: then it is missing here.
    """
    plan = loader.plan
    columns = list(plan.written)
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
        for name in plan.target_key
    )
    differs = sql.SQL("t.{} is null or {} <> c.hash").format(
        sql.Identifier(plan.target_key[0]), row_hash(plan, "t")
    )
    preserved = sql.SQL("c.outcome <> 'preserved'")
    if plan.may_meet:
        taken = sql.SQL(" and (coalesce(c.known_partition, {0}) = {0} or not c.is_ours)").format(
            sql.Literal(result.partition.replace("{", "{{").replace("}", "}}"))
        )
        preserved = sql.Composed([preserved, taken])
    query = sql.SQL("with c as materialized ({}) select {{}} from c left join {} t on {} where {}").format(
        resolved(plan), plan.target.identifier, on, preserved
    )
    text = query.as_string(loader.connection)
    counted = loader.connection.execute(
        text.format(
            sql.SQL("count(*), count(*) filter (where {})").format(differs).as_string(loader.connection)
        )  # type: ignore[arg-type]
    ).fetchone()
    assert counted is not None
    result.compared += counted[0]
    result.different += counted[1]
    if not counted[1] or len(result.differences) >= MOST_EXAMPLES:
        return
    key = sql.SQL("concat_ws(', ', {})").format(
        sql.SQL(", ").join(sql.Identifier("c", f"k{n}") for n in range(len(plan.source_key)))
    )
    present = sql.SQL("t.{} is not null").format(sql.Identifier(plan.target_key[0]))
    # Which columns differ is the database's to say: as text, 0.07 and 0.0700 would.
    pairs = sql.SQL(", ").join(
        sql.SQL("case when {} is distinct from {} then '1' end, {}::text, {}::text").format(
            comparable(plan, "c", name),
            comparable(plan, "t", name),
            sql.Identifier("c", f"c_{name}"),
            sql.Identifier("t", name),
        )
        for name in columns
    )
    listed = sql.SQL("{}, {}, array[{}]").format(key, present, pairs).as_string(loader.connection)
    tail = (
        sql.SQL(" and ({}) limit {}").format(differs, sql.Literal(MOST_EXAMPLES)).as_string(loader.connection)
    )
    for shown, there, values in loader.connection.execute(text.format(listed) + tail):  # type: ignore[arg-type]
        if not there:
            result.differences.append(Difference(shown, "", "the row", "it is not in the target"))
            continue
        for position, name in enumerate(columns):
            differ, expected, found = values[3 * position : 3 * position + 3]
            if differ:
                result.differences.append(Difference(shown, name, expected, found))

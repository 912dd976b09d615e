"""The set-based SQL of a load into PostgreSQL: one statement sorts a chunk's rows by outcome and writes them all.

Rows arrive by `COPY` in a temporary table that has the source's columns. The statement resolves references by
joining the maps, gives new rows their key, writes map, target, waiting rows and deferred references, and returns the
counts and the two hashes (of what was to be written, of what the target says it holds) that the accounting and the
hash check compare before the commit.
"""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from psycopg import sql

from ferry.catalogue import Column, as_text
from ferry.edges import EdgePlan
from ferry.id_map import MapTable, deferred_table, map_table
from ferry.plan import EntityPlan
from ferry.targets.types import carry, wire_type

HASHED = (
    "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar", "bool", "date", "timestamp",
    "timestamptz", "time", "uuid", "bytea", "jsonb", "inet", "cidr",
)  # fmt: skip
"""Types whose hash and equality are taken as they are. To an `interval` a month is 30 days; as text they differ."""


Bounds = dict[int, tuple[int, int]]
"""Smallest and largest old key that rows refer to, by the position of the reference; whole numbers only."""

# Columns beside the source's: the row's number in its part, and the version 5 UUID of its old key, which the client
# computes. A source may well have a column `row_no`.
ROW, UUID5 = "#row_no", "#uuid5"


def in_doubt(entity: str, alias: str) -> sql.Composed:
    """Whether a map entry is of a partition that is not as it was staged: what refers to it waits."""
    return sql.SQL(
        "{} = any(array(select u.partition from ferry.unreconciled u where u.entity = {}))"
    ).format(sql.Identifier(alias, "partition"), sql.Literal(entity))


@dataclass(frozen=True)
class LoadSql:
    """The statements of one entity. `known` tells whether rows of the chunk may have been loaded before."""

    plan: EntityPlan

    @property
    def incoming(self) -> sql.Identifier:
        """The temporary table that rows are copied into."""
        return sql.Identifier("pg_temp", f"incoming_{self.plan.name}"[:63])

    @cached_property
    def fields(self) -> tuple[pa.Field, ...]:
        """The source's columns that a load needs, in the order in which they are copied."""
        plan = self.plan
        needed = {*plan.source_key, *(c.source for c in plan.columns)}
        needed |= {name for edge in plan.edges for name in edge.source_columns}
        needed |= set(plan.declaration.match.on) if plan.declaration.match else set()
        needed |= {plan.version} if plan.version else set()
        fields = tuple(field for field in plan.sent if field.name in needed)
        return (
            (*fields, pa.field(UUID5, pa.string()))
            if plan.declaration.target.key.source == "uuid5"
            else fields
        )

    @cached_property
    def _changeable(self) -> tuple[str, ...]:
        """The columns in which a row that is there may differ; a table that only links others has none."""
        return tuple(name for name in self.plan.written if name not in self.plan.target_key)

    @cached_property
    def map(self) -> MapTable:
        """The entity's map."""
        return map_table(self.plan)

    def create_incoming(self) -> sql.Composed:
        """The temporary table; it empties itself at the end of each transaction."""
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(wire_type(f.type)))  # type: ignore[arg-type]
            for f in self.fields
        ]
        return sql.SQL("create temporary table if not exists {} ({}) on commit delete rows").format(
            sql.Identifier(f"incoming_{self.plan.name}"[:63]),
            sql.SQL(", ").join([sql.SQL("{} bigint").format(sql.Identifier(ROW)), *columns]),
        )

    @property
    def copied(self) -> sql.Composed:
        """The temporary table and its columns, as `COPY` takes them."""
        names = [sql.Identifier(ROW), *(sql.Identifier(f.name) for f in self.fields)]
        return sql.SQL("{} ({})").format(self.incoming, sql.SQL(", ").join(names))

    def refill(self) -> sql.Composed:
        """Fill the temporary table from waiting rows; their number is the waiting row's id.

        Parameters: entity, and an array of ids or NULL for all rows of a partition, which comes last.
        """
        return sql.SQL(
            "insert into {} select w.id, {} from ferry.waiting_rows w,"
            " lateral jsonb_populate_record(null::{}, w.row) r where w.entity = %(entity)s"
            " and case when %(ids)s::bigint[] is null then w.partition = %(partition)s else w.id = any(%(ids)s) end"
        ).format(
            self.incoming,
            sql.SQL(", ").join(sql.Identifier("r", f.name) for f in self.fields),
            self.incoming,
        )

    @cached_property
    def as_sent(self) -> bool:
        """Whether the target can hold nothing else than what it is sent, or refuse it.

        No trigger, no rule, no type that rounds or pads; otherwise what it holds is hashed as well, and compared.
        """
        plan = self.plan
        written = [plan.target.columns[name] for name in dict.fromkeys((*plan.target_key, *plan.written))]
        scales = {
            c.target: plan.source.columns[c.source].scale
            for c in plan.columns
            if c.source in plan.source.columns
        }

        def faithful(column: Column) -> bool:
            if column.base_type == "numeric" and column.scale is not None:
                scale = scales.get(column.name)
                return scale is not None and scale <= column.scale
            return column.base_type == "varchar" or "(" not in column.type

        return (
            plan.target.kind == "r"
            and not plan.target.intervenes
            and all(column.category == "b" and faithful(column) for column in written)
        )

    def load(
        self,
        *,
        known: bool,
        settling: bool = False,
        as_null: frozenset[int] = frozenset(),
        bounds: Bounds | None = None,
    ) -> sql.Composed:
        """The statement itself.

        Args:
            known: join map and target, because rows may be there already.
            settling: the rows come from `ferry.waiting_rows`: those that still wait stay there, the others go.
            as_null: positions of references whose missing parent becomes NULL now (`on_missing: set_null`).
            bounds: the smallest and the largest old key that the rows refer to, by the reference's position.

        Parameters of the statement: entity, partition, chunk, run_id (named).

        Returns (one row a chunk): chunk, outcome counts (inserted, updated, unchanged, preserved, waiting), the hash of
        what should be there, and the counts and hashes of what was written.
        """
        ctes: list[sql.Composable] = [
            # What may be known is resolved before it is compared: as one query, its joins are estimated too badly.
            sql.SQL("r as {} ({})").format(
                sql.SQL("materialized" if known else "not materialized"), self._resolved(known, bounds or {})
            ),
            sql.SQL("c as materialized ({})").format(
                self._classified(known, as_null, self._place(settling, "r"))
            ),
        ]
        if self.plan.has_map:
            ctes += [
                self._map_insert(known, settling),
                *([self._map_update(settling)] if known else []),
            ]
        ctes.append(self._insert())
        updates = known and bool(self._changeable)
        if updates:
            ctes += [self._image(settling), self._update()]
        if settling:
            ctes.append(
                sql.SQL(
                    "gone as (delete from ferry.waiting_rows w using c where w.id = c.row_no and"
                    " c.outcome <> 'waiting' returning w.partition, w.chunk, c.outcome, c.hash)"
                )
            )
            ctes.append(self._wait_on(as_null))
        else:
            ctes.append(self._wait())
        ctes += [
            cte for position, edge in enumerate(self.plan.edges) for cte in self._defer(position, edge, known)
        ]
        # One scan over each result: a scan for each number would cost as much as the insert.
        returned = sql.SQL("count(*), 0" if self.as_sent else "count(*), coalesce(sum(hash), 0)")
        changes = (
            sql.SQL("(select {} from upd)").format(returned) if updates else sql.SQL("(select 0::bigint, 0)")
        )
        present = sql.SQL(
            "coalesce(sum(hash) filter (where outcome in ('insert', 'known')), 0)"
            if known
            else "null::numeric"
        )
        return sql.SQL(
            "with {ctes} select c.inserts, i.rows, u.rows, c.known, c.preserved, c.waiting, c.wanted,"
            " {written}, coalesce(c.present, c.wanted){by_chunk} from"
            " (select count(*) filter (where outcome = 'insert') inserts,"
            " count(*) filter (where outcome = 'known') known,"
            " count(*) filter (where outcome = 'preserved') preserved,"
            " count(*) filter (where outcome = 'waiting') waiting,"
            " coalesce(sum(hash) filter (where outcome = 'insert' or outcome = 'known' and changed), 0) wanted,"
            " {present} present from c) c, (select {returned} from ins) i (rows, hash), {changes} u (rows, hash)"
        ).format(
            ctes=sql.SQL(", ").join(ctes),
            written=sql.SQL("c.wanted" if self.as_sent else "i.hash + u.hash"),
            present=present,
            returned=returned,
            changes=changes,
            by_chunk=sql.SQL(
                ", (select coalesce(jsonb_agg(to_jsonb(g)), '[]') from (select partition, chunk, outcome,"
                " count(*) n,"
                " sum(hash) filter (where outcome in ('insert', 'known'))::text hash from gone group by 1, 2, 3) g)"
            )
            if settling
            else sql.SQL(""),
        )

    def held(self) -> sql.Composed:
        """The sum of the hashes of the rows that stand in the target where the incoming ones belong."""
        on = sql.SQL(" and ").join(
            sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
            for name in self.plan.target_key
        )
        return sql.SQL("select coalesce(sum({}), 0) from ({}) c join {} t on {}").format(
            self.row_hash("t"), self.resolved(), self.plan.target.identifier, on
        )

    def link(self, edge: EdgePlan) -> sql.Composed:
        """Fill in deferred references whose parent has a key by now; returns how many, and the hashes are renewed.

        Without a map there is no hash of a row, but the sum of all in the ledger: any chunk of it takes the difference.
        """
        plan, table = self.plan, deferred_table(self.plan, edge)
        parent = sql.Identifier("ferry", f"id_map_{edge.parent}")
        mine = sql.SQL(" and ").join(
            sql.SQL("t.{} = d.{}").format(sql.Identifier(target), sql.Identifier(name))
            for target, name in zip(plan.target_key, self.map.new, strict=True)
        )
        theirs = sql.SQL(" and ").join(
            sql.SQL("p.{} = d.{}").format(sql.Identifier(f"old_{name}"), sql.Identifier(f"parent_{position}"))
            for position, name in enumerate(edge.parent_key)
        )
        sets = sql.SQL(", ").join(
            sql.SQL("{} = p.{}").format(sql.Identifier(target), sql.Identifier(f"new_{name}"))
            for target, name in zip(edge.target_columns, edge.parent_new_key, strict=True)
            if target in edge.own
        )
        news = sql.SQL(", ").join(sql.Identifier("d", name) for name in self.map.new)
        set_news = sql.SQL(", ").join(sql.Identifier("set", name) for name in self.map.new)
        map_news = sql.SQL(", ").join(sql.Identifier("m", name) for name in self.map.new)
        return sql.SQL(
            "with set as (update {target} t set {sets} from {table} d, {parent} p, {target} o"
            " where {mine} and {same} and {theirs} and p.status <> 'tombstone'"
            " returning {news}, {hash} as hash, {hash_before} as before),"
            " done as (delete from {table} d using set where ({news}) = ({set_news})),"
            " renewed as ({renewed})"
            " select count(*) from set"
        ).format(
            same=sql.SQL(" and ").join(
                sql.SQL("o.{0} = t.{0}").format(sql.Identifier(name)) for name in plan.target_key
            ),
            hash_before=self.row_hash("o"),
            renewed=sql.SQL(
                "update {} m set row_hash = set.hash from set where ({}) = ({}) and m.status <> 'preserved'"
            ).format(self.map.identifier, map_news, set_news)
            if plan.has_map
            else sql.SQL(
                "update ferry.ledger l set row_hash = l.row_hash + (select coalesce(sum(hash::numeric - before), 0)"
                " from set) where l.entity = {0} and (l.partition, l.chunk) = (select f.partition, f.chunk from"
                " ferry.ledger f where f.entity = {0} order by 1, 2 limit 1)"
            ).format(sql.Literal(plan.name)),
            target=plan.target.identifier,
            sets=sets,
            table=table,
            parent=parent,
            mine=mine,
            theirs=theirs,
            news=news,
            hash=self.row_hash("t"),
            set_news=set_news,
        )

    def row_hash(self, alias: str) -> sql.Composed:
        """PostgreSQL's own 64-bit hash of the written columns of a row, key included."""
        parts = []
        for name in dict.fromkeys((*self.plan.target_key, *self.plan.written)):
            column = self.plan.target.columns[name]
            plain = column.base_type in HASHED and column.category == "b"
            parts.append(
                sql.SQL("{}" if plain else "{}::text").format(sql.Identifier(alias, self._named(alias, name)))
            )
        return sql.SQL("hash_record_extended(row({}), 0)").format(sql.SQL(", ").join(parts))

    def resolved(self) -> sql.Composed:
        """The incoming rows as the target should hold them (for reconciliation): `row_no`, key, columns, hash."""
        return sql.SQL("with r as materialized ({}), c as ({}) select * from c").format(
            self._resolved(True, {}), self._classified(True, frozenset())
        )

    @staticmethod
    def _named(alias: str, name: str) -> str:
        return f"c_{name}" if alias in ("r", "c") else name

    def _old_key(self, alias: str) -> list[sql.Composable]:
        return [sql.Identifier(alias, name) for name in self.plan.source_key]

    def _key_text(self, alias: str) -> sql.Composed:
        return sql.SQL("array[{}]").format(
            sql.SQL(", ").join(
                as_text(sql.Identifier(alias, name), self.plan.sent.field(name).type)
                for name in self.plan.source_key
            )
        )

    def _expression(self, source: str, column: Column, cast: str) -> sql.Composable:
        """The value for a target column; where types differ it gets the target's type, but never a length to cut to."""
        value = sql.Identifier("i", source)
        if cast:
            return sql.SQL("{}{}").format(value, sql.SQL(cast))  # type: ignore[arg-type]
        wire = wire_type(self.plan.sent.field(source).type)
        plain = {"int2": "smallint", "int4": "integer", "int8": "bigint", "numeric": "numeric", "bpchar": "bpchar",
                 "float8": "double precision"}.get(column.base_type)  # fmt: skip
        if column.category == "b" and plain and plain != wire:
            return sql.SQL("{}::{}").format(value, sql.SQL(plain))  # type: ignore[arg-type]
        return value

    def _resolved(self, known: bool, bounds: Bounds) -> sql.Composed:
        plan = self.plan
        select: list[sql.Composable] = [sql.SQL("i.{} as row_no").format(sql.Identifier(ROW))]
        joins: list[sql.Composable] = []
        select += [
            sql.SQL("{} as {}").format(name, sql.Identifier(f"k{position}"))
            for position, name in enumerate(self._old_key("i"))
        ]
        select += self._made()
        filled: dict[str, list[sql.Composable]] = {}
        for position, edge in enumerate(plan.edges):
            alias = f"p{position}"
            on = [
                sql.SQL("{} = {}").format(sql.Identifier(alias, f"old_{key}"), sql.Identifier("i", name))
                for name, key in zip(edge.source_columns, edge.parent_key, strict=True)
            ]
            if position in bounds:
                # Rows come in the order of their key, and often of their parent's: a small part of its map is enough.
                first = sql.Identifier(alias, f"old_{edge.parent_key[0]}")
                low, high = map(sql.Literal, bounds[position])
                on.append(sql.SQL("{} between {} and {}").format(first, low, high))
            joins.append(
                sql.SQL("left join {} {} on {} and {} <> 'tombstone'").format(
                    sql.Identifier("ferry", f"id_map_{edge.parent}"),
                    sql.Identifier(alias),
                    sql.SQL(" and ").join(on),
                    sql.Identifier(alias, "status"),
                )
            )
            for target, new in zip(edge.target_columns, edge.parent_new_key, strict=True):
                filled.setdefault(target, []).append(sql.Identifier(alias, f"new_{new}"))
            select.append(sql.SQL("{} as {}").format(self._lacks(position), sql.Identifier(f"m{position}")))
            if edge.waits:
                doubt = sql.SQL("coalesce({}, false) as {}")
                select.append(doubt.format(in_doubt(edge.parent, alias), sql.Identifier(f"d{position}")))
        select += [
            sql.SQL("{} as {}").format(self._referred(target, news), sql.Identifier(f"c_{target}"))
            for target, news in filled.items()
        ]
        for column in plan.columns:
            if column.target not in filled:
                value = self._expression(column.source, plan.target.columns[column.target], column.cast)
                select.append(sql.SQL("{} as {}").format(value, sql.Identifier(f"c_{column.target}")))
        if plan.version:
            select.append(sql.SQL("{} as version").format(sql.Identifier("i", plan.version)))
        if plan.has_map and known:
            select += [
                sql.SQL("m.{} as {}").format(sql.Identifier(name), sql.Identifier(f"n{position}"))
                for position, name in enumerate(self.map.new)
            ]
            select.append(
                # Without a hash the row is made up, taken back, or as it was before us.
                sql.SQL("m.status, m.partition as known_partition, m.row_hash is not null as is_ours")
            )
            if plan.version:
                select.append(sql.SQL("m.version as known_version"))
            joins.append(
                sql.SQL("left join {} m on {}").format(
                    self.map.identifier,
                    sql.SQL(" and ").join(
                        sql.SQL("m.{} = {}").format(sql.Identifier(old), name)
                        for old, name in zip(self.map.old, self._old_key("i"), strict=True)
                    ),
                )
            )
        if plan.declaration.match:
            select += [sql.Identifier("x", f"x{position}") for position in range(len(plan.target_key))]
            joins.append(self._match())
        return sql.SQL("select {} from {} i {}").format(
            sql.SQL(", ").join(select), self.incoming, sql.SQL(" ").join(joins)
        )

    def _lacks(self, position: int) -> sql.Composed:
        """Whether an incoming row `i` refers to a parent that has no key yet."""
        edge, alias = self.plan.edges[position], f"p{position}"
        return sql.SQL("({} and {} is null)").format(
            sql.SQL(" and ").join(
                sql.SQL("{} is not null").format(sql.Identifier("i", name)) for name in edge.source_columns
            ),
            sql.Identifier(alias, f"new_{edge.parent_new_key[0]}"),
        )

    def _referred(self, target: str, news: list[sql.Composable]) -> sql.Composable:
        """The value of a column that references fill: their parents' new key; they have to agree.

        Where the parent keeps that part of its key, the value is there without the parent too: a reference of which
        another part is NULL leads nowhere and says something all the same.
        """
        value = news[0]
        for other in news[1:]:
            value = sql.SQL(
                "case when {0} <> {1} then ferry.differ({2}, {0}) else coalesce({0}, {1}) end"
            ).format(value, other, sql.Literal(target))
        for position, edge in enumerate(self.plan.edges):
            kept = dict(zip(edge.target_columns, edge.kept, strict=True)).get(target)
            column = self.plan.target.columns[target]
            cast = carry(self.plan.parsed[kept], column) if kept else None
            if kept and cast is not None:
                itself = self._expression(kept, column, cast)
                if target in edge.own:
                    itself = sql.SQL("case when not {} then {} end").format(self._lacks(position), itself)
                value = sql.SQL("coalesce({}, {})").format(value, itself)
        return value

    def _match(self) -> sql.Composed:
        """Rows that were in the target before, found by the declared columns; those that we made do not count."""
        plan, match = self.plan, self.plan.declaration.match
        assert match is not None
        theirs = [sql.Identifier("x", plan.declaration.target_column(name)) for name in match.on]
        mine = [sql.Identifier("i", name) for name in match.on]
        keys = [
            sql.SQL("{} as {}").format(sql.Identifier("x", name), sql.Identifier(f"x{position}"))
            for position, name in enumerate(plan.target_key)
        ]
        made = sql.SQL(" and ").join(
            sql.SQL("q.{} = x.{}").format(sql.Identifier(new), sql.Identifier(name))
            for new, name in zip(self.map.new, plan.target_key, strict=True)
        )
        on = sql.SQL(" and ").join(
            sql.SQL("x.{} = {}").format(sql.Identifier(f"y{position}"), name)
            for position, name in enumerate(mine)
        )
        return sql.SQL(
            "left join (select distinct on ({theirs}) {named}, {keys} from {target} x where ({theirs}) in"
            " (select {mine} from {incoming} i) and not exists"
            " (select from {map} q where {made} and q.status in ('inserted', 'stub', 'tombstone'))"
            " order by {theirs}, {order}) x on {on}"
        ).format(
            theirs=sql.SQL(", ").join(theirs),
            named=sql.SQL(", ").join(
                sql.SQL("{} as {}").format(name, sql.Identifier(f"y{position}"))
                for position, name in enumerate(theirs)
            ),
            keys=sql.SQL(", ").join(keys),
            target=plan.target.identifier,
            mine=sql.SQL(", ").join(mine),
            incoming=self.incoming,
            map=self.map.identifier,
            made=made,
            order=sql.SQL(", ").join(sql.Identifier("x", name) for name in plan.target_key),
            on=on,
        )

    def _classified(
        self, known: bool, as_null: frozenset[int], place: sql.Composable | None = None
    ) -> sql.Composed:
        """Give each row its outcome, its key, its hash and, where it was known, whether it differs.

        With a `place`, a row that another partition has in a newer version differs in nothing: that one stays. A row
        that was not loaded yet waits for a parent in doubt as well; what is there stays, and is put right.
        """
        plan = self.plan
        outdated = self._outdated(place) if known and place and plan.may_meet else sql.SQL("false")
        waits = [n for n, edge in enumerate(plan.edges) if edge.waits and n not in as_null]
        whens: list[sql.Composable] = []
        if waits:
            new = sql.SQL("true")
            if known and plan.has_map:
                new = sql.SQL("(r.n0 is null or r.status = 'tombstone')")
            elif known:
                new = sql.SQL("{} is null").format(sql.Identifier("t", plan.target_key[0]))
            whens.append(
                sql.SQL("when {} or {} and ({}) then 'waiting'").format(
                    sql.SQL(" or ").join(sql.Identifier("r", f"m{n}") for n in waits),
                    new,
                    sql.SQL(" or ").join(sql.Identifier("r", f"d{n}") for n in waits),
                )
            )
        if plan.has_map and known:
            whens.append(
                sql.SQL("when r.status = 'preserved' and not {} then 'preserved'").format(self._takes_over())
            )
        if plan.declaration.match:
            fresh = sql.SQL("r.n0 is null and r.x0 is not null") if known else sql.SQL("r.x0 is not null")
            then = sql.SQL("'known'") if plan.declaration.match.then == "update" else sql.SQL("'preserved'")
            whens.append(sql.SQL("when {} then {}").format(fresh, then))
        key = self._known_key(known)
        join = sql.SQL("")
        if known:
            # A key that is in the map, or natural, says nothing about the row: somebody may have deleted it.
            whens.append(
                sql.SQL("when {} is not null then 'known'").format(sql.Identifier("t", plan.target_key[0]))
            )
            join = sql.SQL("left join {} t on {}").format(
                plan.target.identifier,
                sql.SQL(" and ").join(
                    sql.SQL("t.{} = {}").format(sql.Identifier(name), value)
                    for name, value in zip(plan.target_key, key, strict=True)
                ),
            )
        outcome = (
            sql.SQL("case {} else 'insert' end").format(sql.SQL(" ").join(whens))
            if whens
            else sql.SQL("'insert'")
        )
        differs: sql.Composable = sql.SQL("false")
        if known and plan.written and plan.declaration.mode != "insert_only":
            differs = sql.SQL("not ({}) and ({}) is distinct from ({})").format(
                outdated,
                sql.SQL(", ").join(self.comparable("t", name) for name in plan.written),
                sql.SQL(", ").join(self.comparable("r", name) for name in plan.written),
            )
        made = plan.declaration.target.key.source != "natural"
        inner = sql.SQL("select r.*, {} as outcome, {} as changed, {} as outdated{} from r {}").format(
            outcome,
            differs,
            outdated,
            sql.SQL("").join(
                sql.SQL(", {} as {}").format(value, sql.Identifier(f"f{position}"))
                for position, value in enumerate(key)
            ),
            join,
        )
        if made:
            name = plan.target_key[0]
            keyed = sql.SQL(
                "select r.*, coalesce(r.f0, case when r.outcome = 'insert' then {} end) as {} from ({}) r"
            )
            inner = keyed.format(self._new_key(), sql.Identifier(f"c_{name}"), inner)
        hashed = self.row_hash("c")
        if known and plan.declaration.mode == "insert_only":
            # A row that is there is left as it is, so what it holds is what there should be.
            inner = sql.SQL("select c.*, {} as hash_there from ({}) c left join {} t on {}").format(
                self.row_hash("t"),
                inner,
                plan.target.identifier,
                sql.SQL(" and ").join(
                    sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
                    for name in plan.target_key
                ),
            )
            hashed = sql.SQL("case when c.outcome = 'known' then c.hash_there else {} end").format(hashed)
        return sql.SQL("select c.*, {} as hash from ({}) c").format(hashed, inner)

    def _outdated(self, place: sql.Composable) -> sql.Composable:
        """Whether the target has a row `r` from another partition, and in a newer version.

        So it does not matter which of them is loaded first. Of two files that have the same version, or none, the one
        whose key comes last counts; an API that shows a row in another window than before has moved it there.
        """
        plan, newer = self.plan, sql.SQL("false")
        if plan.version:
            newer = sql.SQL(
                "coalesce(r.known_version > r.version, r.known_version is not null and r.version is null)"
            )
        if plan.declaration.source.kind == "files":
            same = (
                sql.SQL("r.known_version is not distinct from r.version") if plan.version else sql.SQL("true")
            )
            newer = sql.SQL('({} or {} and r.known_partition > ({}) collate "C")').format(newer, same, place)
        return sql.SQL("coalesce(r.is_ours and r.known_partition <> {} and {}, false)").format(place, newer)

    def _takes_over(self) -> sql.Composable:
        match = self.plan.declaration.match
        return sql.SQL("true" if match and match.then == "update" else "false")

    def comparable(self, alias: str, name: str) -> sql.Composable:
        """A column that `is distinct from` can compare: types without equality are compared as text."""
        column = self.plan.target.columns[name]
        plain = column.base_type in HASHED or column.category == "e"
        return sql.SQL("{}" if plain else "{}::text").format(sql.Identifier(alias, self._named(alias, name)))

    def _known_key(self, known: bool) -> list[sql.Composable]:
        plan = self.plan
        if plan.declaration.target.key.source == "natural":
            return [sql.Identifier("r", f"c_{name}") for name in plan.target_key]
        options: list[list[sql.Composable]] = [[] for _ in plan.target_key]
        for position in range(len(plan.target_key)):
            if known:
                options[position].append(sql.Identifier("r", f"n{position}"))
            if plan.declaration.match:
                options[position].append(sql.Identifier("r", f"x{position}"))
        return [
            sql.SQL("coalesce({})").format(sql.SQL(", ").join(choice))
            if choice
            else sql.SQL("null::{}").format(sql.SQL(plan.target.columns[name].type))  # type: ignore[arg-type]
            for name, choice in zip(plan.target_key, options, strict=True)
        ]

    def _new_key(self) -> sql.Composable:
        plan, key = self.plan, self.plan.declaration.target.key
        column = plan.target.columns[plan.target_key[0]]
        match key.source:
            case "identity":
                # `nextval` for each row is safe when loads run side by side; reserving a range is not.
                return sql.SQL("nextval({}::regclass)::{}").format(
                    sql.Literal(column.sequence),
                    sql.SQL(column.type),  # type: ignore[arg-type]
                )
            case "uuid7":
                # A version 7 UUID from the clock and the random bits of a version 4 one, on any server version.
                return sql.SQL(
                    "encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing substring(int8send("
                    "(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6), 52, 1), 53, 1),"
                    " 'hex')::uuid"
                )
            case "uuid5":
                return sql.SQL("r.made::uuid")
            case _:
                return sql.SQL("({})").format(sql.SQL(key.expression or "null"))  # type: ignore[arg-type]

    def allocate(self) -> sql.Composed:
        """Give the waiting rows in the temporary table their new keys ahead of themselves."""
        made = self.plan.declaration.target.key.source != "natural"
        new: list[sql.Composable] = (
            [self._new_key()] if made else [sql.Identifier("r", f"c_{name}") for name in self.plan.target_key]
        )
        return sql.SQL(
            "insert into {map} as m ({old}, {new_names}, status, partition) select {keys}, {new}, 'inserted',"
            " w.partition from ({resolved}) r join ferry.waiting_rows w on w.id = r.row_no"
            " on conflict ({old}) do update set status = 'inserted' where m.status = 'tombstone'"
        ).format(
            map=self.map.identifier,
            old=sql.SQL(", ").join(map(sql.Identifier, self.map.old)),
            new_names=sql.SQL(", ").join(map(sql.Identifier, self.map.new)),
            keys=sql.SQL(", ").join(sql.Identifier("r", f"k{n}") for n in range(len(self.plan.source_key))),
            new=sql.SQL(", ").join(new),
            resolved=self._resolved(False, {}),
        )

    def forget_mapped(self) -> sql.Composed:
        """Remove the incoming rows whose old key is in the map."""
        return sql.SQL("delete from {} i using {} m where {}").format(
            self.incoming,
            self.map.identifier,
            sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(sql.Identifier("m", old), name)
                for old, name in zip(self.map.old, self._old_key("i"), strict=True)
            ),
        )

    def old_keys(self) -> sql.Composed:
        """The old keys of the incoming rows, as arrays of text, in their order. Parameter: how many."""
        return sql.SQL("select {} from {} i order by i.{} limit %s").format(
            self._key_text("i"), self.incoming, sql.Identifier(ROW)
        )

    def claim(self) -> sql.Composed:
        """Give incoming rows the map entry of the row of the target that is theirs, where that is certain.

        A row is theirs if it has their key, where the old key tells that, or else is the only one that equals them in
        all that is written, and has no entry. Where the map knows rows that were there before, this may be one, and is
        not taken back. Parameter: partition.
        """
        plan = self.plan
        told = plan.declaration.target.key.source in ("natural", "uuid5")
        names = plan.target_key if told else [n for n in plan.written if n not in plan.target_key]
        sides = [
            sql.SQL("hash_record_extended(row({}), 0)").format(
                sql.SQL(", ").join(self.comparable(alias, name) for name in names)
            )
            for alias in ("t", "c")
        ]
        same = [
            sql.SQL("{} is not distinct from {}").format(self.comparable("t", n), self.comparable("c", n))
            for n in names
        ]
        return sql.SQL(
            "insert into {map} ({old}, {new}, status, partition, row_hash) select {old_keys}, {new_keys},"
            " (case when exists (select from {map} where status = 'preserved') then 'preserved' else 'inserted' end)"
            "::ferry.map_status, %(partition)s, there from (select c.*, {keys}, {hash} as there, count(*) over"
            " (partition by c.row_no) of_theirs, count(*) over (partition by {key}) of_ours"
            " from ({resolved}) c join {target} t on {same} where not exists (select from {map} q where {claimed}))"
            " x where of_theirs = 1 and of_ours = 1"
        ).format(
            map=self.map.identifier,
            old=sql.SQL(", ").join(map(sql.Identifier, self.map.old)),
            new=sql.SQL(", ").join(map(sql.Identifier, self.map.new)),
            old_keys=sql.SQL(", ").join(sql.Identifier("x", f"k{n}") for n in range(len(plan.source_key))),
            new_keys=sql.SQL(", ").join(sql.Identifier("x", f"t{n}") for n in range(len(plan.target_key))),
            keys=sql.SQL(", ").join(
                sql.SQL("t.{} as {}").format(sql.Identifier(name), sql.Identifier(f"t{n}"))
                for n, name in enumerate(plan.target_key)
            ),
            key=sql.SQL(", ").join(sql.Identifier("t", name) for name in plan.target_key),
            hash=self.row_hash("t"),
            resolved=self.resolved(),
            target=plan.target.identifier,
            same=sql.SQL(" and ").join([sql.SQL("{} = {}").format(*sides), *same]),
            claimed=sql.SQL(" and ").join(
                sql.SQL("q.{} = t.{}").format(sql.Identifier(new), sql.Identifier(name))
                for new, name in zip(self.map.new, plan.target_key, strict=True)
            ),
        )

    def _made(self) -> list[sql.Composable]:
        """The key that the client made, where it does."""
        made = self.plan.declaration.target.key.source == "uuid5"
        return [sql.SQL("i.{} as made").format(sql.Identifier(UUID5))] if made else []

    def stub(self, wanted: sql.Composable, values: dict[str, object]) -> sql.Composed:
        """Insert a row of declared values for each old key in `wanted` (columns k0, k1, …), and its map entry.

        Parameter: partition. Returns the number of rows. A key that the map remembers is used again.
        """
        plan, table = self.plan, self.map
        old = [sql.Identifier("r", f"k{position}") for position in range(len(table.old))]
        if plan.declaration.target.key.source == "natural":
            into = {
                plan.declaration.target_column(name): key
                for name, key in zip(plan.source_key, old, strict=True)
            }
            new: list[sql.Composable] = [
                sql.SQL("{}::{}").format(into[name], sql.SQL(plan.target.columns[name].type))  # type: ignore[arg-type]
                for name in plan.target_key
            ]
        else:
            new = [sql.SQL("coalesce(m.{}, {})").format(sql.Identifier(table.new[0]), self._new_key())]
        given = [
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(plan.target.columns[name].type))  # type: ignore[arg-type]
            for name, value in values.items()
        ]
        keys = [sql.Identifier("s", f"s{position}") for position in range(len(new))]
        return sql.SQL(
            "with s as materialized (select r.*, {named} from ({wanted}) r left join {map} m on {on}),"
            " ins as (insert into {target} ({columns}) overriding system value select {values} from s returning 1),"
            " mapped as (insert into {map} ({old}, {new}, status, partition) select {old_keys}, {keys}, 'stub',"
            " %(partition)s from s on conflict ({old}) do update set status = 'stub', partition = excluded.partition)"
            " select count(*) from ins"
        ).format(
            named=sql.SQL(", ").join(
                sql.SQL("{} as {}").format(one, sql.Identifier(f"s{position}"))
                for position, one in enumerate(new)
            ),
            wanted=wanted,
            map=table.identifier,
            on=sql.SQL(" and ").join(
                sql.SQL("m.{} = {}").format(sql.Identifier(name), key)
                for name, key in zip(table.old, old, strict=True)
            ),
            target=plan.target.identifier,
            columns=sql.SQL(", ").join(map(sql.Identifier, (*plan.target_key, *values))),
            values=sql.SQL(", ").join([*keys, *given]),
            old=sql.SQL(", ").join(map(sql.Identifier, table.old)),
            new=sql.SQL(", ").join(map(sql.Identifier, table.new)),
            old_keys=sql.SQL(", ").join(sql.Identifier("s", f"k{n}") for n in range(len(old))),
            keys=sql.SQL(", ").join(keys),
        )

    @staticmethod
    def _place(settling: bool, row: str = "c") -> sql.Composable:
        """The partition of a row: the statement's, or the one in which the row waited."""
        if not settling:
            return sql.SQL("%(partition)s::text")
        return sql.SQL("(select w.partition from ferry.waiting_rows w where w.id = {})").format(
            sql.Identifier(row, "row_no")
        )

    def _map_insert(self, known: bool, settling: bool) -> sql.Composed:
        old = [sql.Identifier("c", f"k{position}") for position in range(len(self.plan.source_key))]
        new = [sql.Identifier("c", f"c_{name}") for name in self.plan.target_key]
        return sql.SQL(
            "map_ins as (insert into {} ({}, {}, status, partition, row_hash{}) select {}, {},"
            " (case when c.outcome = 'insert' then 'inserted' else 'preserved' end)::ferry.map_status,"
            " {}, case when c.outcome <> 'preserved' then c.hash end{}"
            " from c where c.outcome in ('insert', 'preserved', 'known'){})"
        ).format(
            self.map.identifier,
            sql.SQL(", ").join(map(sql.Identifier, self.map.old)),
            sql.SQL(", ").join(map(sql.Identifier, self.map.new)),
            sql.SQL(", version" if self.plan.version else ""),
            sql.SQL(", ").join(old),
            sql.SQL(", ").join(new),
            self._place(settling),
            sql.SQL(", c.version" if self.plan.version else ""),
            sql.SQL(" and c.n0 is null" if known else ""),
        )

    def _map_update(self, settling: bool) -> sql.Composed:
        on = sql.SQL(" and ").join(
            sql.SQL("m.{} = c.{}").format(sql.Identifier(old), sql.Identifier(f"k{position}"))
            for position, old in enumerate(self.map.old)
        )
        return sql.SQL(
            "map_upd as (update {map} m set partition = {place}, row_hash = case when c.outcome = 'preserved'"
            " then m.row_hash else c.hash end{version}, status = (case when c.outcome = 'insert' or m.status = 'stub'"
            " then 'inserted' else m.status::text end)::ferry.map_status from c where {on} and c.n0 is not null and"
            " not c.outdated and c.outcome in ('insert', 'known', 'preserved') and (m.partition <> {place} or c.changed"
            " or c.outcome = 'insert' or m.status = 'stub'"
            # Other columns than the last time have another hash, though the row is unchanged.
            " or c.outcome = 'known' and m.row_hash is distinct from c.hash{newer}))"
        ).format(
            map=self.map.identifier,
            on=on,
            place=self._place(settling),
            version=sql.SQL(", version = c.version" if self.plan.version else ""),
            newer=sql.SQL(" or m.version is distinct from c.version" if self.plan.version else ""),
        )

    def _insert(self) -> sql.Composed:
        columns = list(dict.fromkeys((*self.plan.target_key, *self.plan.written)))
        return sql.SQL(
            "ins as (insert into {target} as t ({columns}) overriding system value select {values} from c"
            " where c.outcome = 'insert' returning {hash})"
        ).format(
            target=self.plan.target.identifier,
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            values=sql.SQL(", ").join(sql.Identifier("c", f"c_{name}") for name in columns),
            hash=self._returned(),
        )

    def _image(self, settling: bool) -> sql.Composed:
        """What a row that was there before held, kept before a partition changes it: rollback restores it.

        Not if that partition was the last to change it: what it held in between is nobody's.
        """
        plan = self.plan
        on = sql.SQL(" and ").join(
            sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
            for name in plan.target_key
        )
        if plan.has_map:
            theirs: sql.Composable = sql.SQL("(c.n0 is null or c.status = 'preserved')")
        else:
            theirs = sql.SQL("exists (select from {} f where {})").format(
                sql.Identifier("ferry", f"found_{plan.name}"),
                sql.SQL(" and ").join(
                    sql.SQL("f.{0} = t.{0}").format(sql.Identifier(name)) for name in plan.target_key
                ),
            )
        return sql.SQL(
            "imaged as (insert into ferry.before_images (entity, partition, key, row)"
            " select %(entity)s, {place}, {key}, to_jsonb(t.*) from c join {target} t on {on}"
            " where c.outcome = 'known' and c.changed and {theirs} and {place} is distinct from"
            " (select b.partition from ferry.before_images b where b.entity = %(entity)s and b.key = {key}"
            " order by b.id desc limit 1))"
        ).format(
            place=self._place(settling),
            key=self.key_text("t"),
            target=plan.target.identifier,
            on=on,
            theirs=theirs,
        )

    def key_text(self, alias: str) -> sql.Composed:
        """The new key of a row as an array of text."""
        return sql.SQL("array[{}]").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier(alias, n)) for n in self.plan.target_key
            )
        )

    def _update(self) -> sql.Composed:
        on = sql.SQL(" and ").join(
            sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
            for name in self.plan.target_key
        )
        sets = sql.SQL(", ").join(
            sql.SQL("{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
            for name in self._changeable
        )
        return sql.SQL(
            "upd as (update {} t set {} from c where {} and c.outcome = 'known' and c.changed returning {})"
        ).format(self.plan.target.identifier, sets, on, self._returned())

    def _returned(self) -> sql.Composable:
        """What a write gives back of each row: the hash of what is there now, unless that is known."""
        return sql.SQL("1") if self.as_sent else sql.SQL("{} as hash").format(self.row_hash("t"))

    def missing(self, as_null: frozenset[int] = frozenset()) -> sql.Composed:
        """The parents that a row `c`, with its incoming row `i`, waits for: an array of `<entity> <old key>`."""
        each = [
            sql.SQL("case when c.{} or c.{} then {} || (array[{}])::text end").format(
                sql.Identifier(f"m{position}"),
                sql.Identifier(f"d{position}"),
                sql.Literal(f"{edge.parent} "),
                sql.SQL(", ").join(
                    as_text(sql.Identifier("i", n), self.plan.sent.field(n).type) for n in edge.source_columns
                ),
            )
            for position, edge in enumerate(self.plan.edges)
            if edge.waits and position not in as_null
        ]
        return sql.SQL("array_remove(array[{}]::text[], null)").format(sql.SQL(", ").join(each))

    def _wait(self) -> sql.Composed:
        return sql.SQL(
            "waits as (insert into ferry.waiting_rows (entity, partition, chunk, row_no, key, missing, row, run_id)"
            " select %(entity)s, %(partition)s, %(chunk)s, c.row_no, {}, {}, to_jsonb(i.*) - '#row_no', %(run_id)s"
            " from c join {} i on i.\"#row_no\" = c.row_no where c.outcome = 'waiting')"
        ).format(self._key_text("i"), self.missing(), self.incoming)

    def _wait_on(self, as_null: frozenset[int]) -> sql.Composed:
        """A row that goes on waiting may have found one of its parents meanwhile."""
        return sql.SQL(
            "waits as (update ferry.waiting_rows w set missing = {missing}"
            ' from c join {incoming} i on i."#row_no" = c.row_no'
            " where w.id = c.row_no and c.outcome = 'waiting' and w.missing <> {missing})"
        ).format(missing=self.missing(as_null), incoming=self.incoming)

    def still_missing(self, as_null: frozenset[int]) -> sql.Composed:
        """Say anew, of the waiting rows in the temporary table, which parents have no key yet."""
        return sql.SQL(
            "with c as ({resolved}) update ferry.waiting_rows w set missing = {missing}"
            ' from c join {incoming} i on i."#row_no" = c.row_no where w.id = c.row_no and w.missing <> {missing}'
        ).format(
            resolved=self._resolved(False, {}),
            missing=self.missing(as_null),
            incoming=self.incoming,
        )

    def _defer(self, position: int, edge: EdgePlan, known: bool) -> list[sql.Composable]:
        if edge not in self.plan.later:
            return []
        table = deferred_table(self.plan, edge)
        mine = [sql.Identifier("c", f"c_{name}") for name in self.plan.target_key]
        parents = [sql.Identifier(f"parent_{n}") for n in range(len(edge.source_columns))]
        out: list[sql.Composable] = [
            sql.SQL(
                "defer{n} as (insert into {table} ({new}, {parents}) select {mine}, {theirs} from c join {incoming} i"
                ' on i."#row_no" = c.row_no where c.{missing} and not c.outdated and c.outcome in'
                " ('insert', 'known') on conflict ({new}) do update set ({parents}) = row({excluded}))"
            ).format(
                n=sql.SQL(str(position)),  # type: ignore[arg-type]
                table=table,
                new=sql.SQL(", ").join(map(sql.Identifier, self.map.new)),
                parents=sql.SQL(", ").join(parents),
                mine=sql.SQL(", ").join(mine),
                theirs=sql.SQL(", ").join(sql.Identifier("i", name) for name in edge.source_columns),
                incoming=self.incoming,
                missing=sql.Identifier(f"m{position}"),
                excluded=sql.SQL(", ").join(
                    sql.SQL("excluded.{}").format(sql.Identifier(f"parent_{n}"))
                    for n in range(len(edge.source_columns))
                ),
            )
        ]
        if known:
            out.append(
                sql.SQL(
                    "undefer{n} as (delete from {table} d using c where ({news}) = ({mine})"
                    " and not c.{missing} and not c.outdated)"
                ).format(
                    n=sql.SQL(str(position)),  # type: ignore[arg-type]
                    table=table,
                    news=sql.SQL(", ").join(sql.Identifier("d", name) for name in self.map.new),
                    mine=sql.SQL(", ").join(mine),
                    missing=sql.Identifier(f"m{position}"),
                )
            )
        return out

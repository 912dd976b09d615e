"""A migration made of any relational schema: its tables get new keys in a new database, and plain SQL judges the rows.

Nothing of the engine is used to make the declarations or to say what is right: the new tables, what must be in them
and what must be rejected follow from the old schema's keys and references alone.
"""

import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from small import Small

Key = tuple[str, ...]


@dataclass(frozen=True)
class Ref:
    """Columns that hold the key of a row of `to`; NULL in one of them means none."""

    columns: Key
    to: str
    on_missing: str = "reject"


@dataclass(frozen=True)
class Table:
    """A table of the old schema: PostgreSQL types by column, those that are NOT NULL, its key and its references."""

    columns: dict[str, str]
    required: frozenset[str]
    key: Key
    refs: tuple[Ref, ...] = ()


Schema = dict[str, Table]

_CATALOGUE = """
select c.relname::text, array_agg(a.attname::text order by a.attnum),
  array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum), array_agg(a.attnotnull order by a.attnum),
  (select array_agg(k.attname::text order by o) from pg_index i, unnest(i.indkey::int2[]) with ordinality u (n, o)
   join pg_attribute k on k.attnum = u.n where i.indrelid = c.oid and k.attrelid = c.oid and i.indisprimary)
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
group by c.oid, c.relname
"""
_FOREIGN = """
select c.relname::text, p.relname::text,
  array(select a.attname::text from unnest(f.conkey) with ordinality u (n, o) join pg_attribute a
        on a.attrelid = c.oid and a.attnum = u.n order by o),
  array(select a.attname::text from unnest(f.confkey) with ordinality u (n, o) join pg_attribute a
        on a.attrelid = p.oid and a.attnum = u.n order by o)
from pg_constraint f join pg_class c on c.oid = f.conrelid join pg_class p on p.oid = f.confrelid
where f.contype = 'f' and c.relnamespace = 'public'::regnamespace order by f.conname
"""


def read_schema(url: str) -> Schema:
    """What a PostgreSQL database says of the tables in `public`; a key that others refer to is taken for the key."""
    with psycopg.connect(url) as connection:
        foreign = connection.execute(_FOREIGN).fetchall()
        found = {}
        for name, columns, types, required, primary in connection.execute(_CATALOGUE):
            wanted = Counter(tuple(key) for _, parent, _, key in foreign if parent == name)
            key = wanted.most_common(1)[0][0] if wanted else tuple(primary or ())
            needed = frozenset(c for c, one in zip(columns, required, strict=True) if one)
            found[name] = Table(dict(zip(columns, types, strict=True)), needed, key)
    for child, parent, columns, key in foreign:
        order = dict(zip(key, columns, strict=True))
        if set(key) == set(found[parent].key):
            ref = Ref(tuple(order[name] for name in found[parent].key), parent)
            found[child] = replace(found[child], refs=(*found[child].refs, ref))
    return {name: table for name, table in found.items() if table.key}


def copy_sqlite(
    path: Path, url: str, tables: Key = (), refs: dict[str, tuple[Ref, ...]] | None = None
) -> Schema:
    """Copy a SQLite database into an empty PostgreSQL one, without its keys: SQLite takes NULL and orphans.

    Args:
        path: the file.
        url: where it goes.
        tables: only these; all with a key if none is named.
        refs: the references of each table, where the file declares none.
    """
    schema: Schema = {}
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as old, psycopg.connect(url) as new:
        names = [
            row[0] for row in old.execute("select name from sqlite_master where type = 'table' order by 1")
        ]
        for name in tables or names:
            info = old.execute(f'pragma table_info("{name}")').fetchall()
            key = tuple(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5])
            if key:
                types = {column: _type_of(old, name, column) for _, column, *_ in info}
                schema[name] = Table(types, frozenset(row[1] for row in info if row[3]), key)
        for name, table in schema.items():
            found = _declared(old, name, schema)
            schema[name] = replace(table, refs=(*found, *(refs or {}).get(name, ())))
        _one_type(schema)
        for name, table in schema.items():
            _create(new, name, table)
            columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
            statement = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(name), columns)
            with new.cursor().copy(statement) as copy:
                for row in old.execute(f'select * from "{name}"'):
                    copy.write_row(row)
        new.commit()
    return schema


def _declared(old: sqlite3.Connection, name: str, schema: Schema) -> list[Ref]:
    """The foreign keys of a table that lead to the key of another one."""
    declared: dict[int, tuple[str, dict[str, str]]] = {}
    for number, _, parent, column, theirs, *_ in old.execute(f'pragma foreign_key_list("{name}")'):
        declared.setdefault(number, (parent, {}))[1][theirs] = column
    return [
        Ref(tuple(columns[part] for part in schema[parent].key), parent)
        for parent, columns in declared.values()
        if parent in schema and set(columns) == set(schema[parent].key)
    ]


def _one_type(schema: Schema) -> None:
    """SQLite compares what is stored; here a column and the key it refers to are text if they are not of one type."""
    changed = True
    while changed:
        changed = False
        for table in schema.values():
            for ref in table.refs:
                for mine, theirs in zip(ref.columns, schema[ref.to].key, strict=True):
                    if table.columns[mine] != schema[ref.to].columns[theirs]:
                        table.columns[mine] = schema[ref.to].columns[theirs] = "text"
                        changed = True


def _type_of(old: sqlite3.Connection, table: str, column: str) -> str:
    kinds = {row[0] for row in old.execute(f'select distinct typeof("{column}") from "{table}"')} - {"null"}
    if kinds <= {"integer"}:
        return "bigint"
    return "double precision" if kinds <= {"integer", "real"} else "text"


def _create(connection: psycopg.Connection, name: str, table: Table) -> None:
    parts = [
        sql.SQL("{} {} {}").format(
            sql.Identifier(column), sql.SQL(type_), sql.SQL("not null" if column in table.required else "")
        )
        for column, type_ in table.columns.items()
    ]
    connection.execute(
        sql.SQL("create table {} ({})").format(sql.Identifier(name), sql.SQL(", ").join(parts))
    )


def _named(columns: Key, alias: str = "") -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*filter(None, (alias, name))) for name in columns)


def _equal(left: str, mine: Key, right: str, theirs: Key) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, a), sql.Identifier(right, b))
        for a, b in zip(mine, theirs, strict=True)
    )


@dataclass
class Moved:
    """How one table is migrated: its entity, its new key (columns and types), and where each reference goes."""

    entity: str
    key: Key
    types: tuple[str, ...]
    made: str
    into: tuple[Key, ...]
    with_map: bool = True


@dataclass
class AnySchema:
    """A migration of all tables of a schema, drawn by `seed`: kinds of new keys, constraints, partitions, order."""

    small: Small
    schema: Schema
    seed: int = 0
    chunk_rows: int = 1000
    moved: dict[str, Moved] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Choose, make the new tables and write the declarations."""
        self.draw = random.Random(self.seed)
        self.small.migrating.chunk_rows = self.chunk_rows
        self.circles = self._circles()
        for name in self._parents_first():
            self._choose(name)
        self._make_tables()
        for name in self.schema:
            self._declare(name)

    def run(self, *, again: bool = False) -> None:
        """Load all tables in a drawn order, some twice, settle, and compare; `again`: roll back and reload as well."""
        migrating = self.small.migrating
        plans = migrating.plans()
        order = list(self.schema)
        self.draw.shuffle(order)
        for name in [*order, *self.draw.sample(order, len(order) // 3)]:
            keys = list(plans[self.moved[name].entity].scheme.keys)
            self.draw.shuffle(keys)
            went = migrating.load(self.moved[name].entity, keys, plans)
            assert not went.failed, (name, went.failed)
            assert went.different == 0, name
        migrating.settle()
        self.compare()
        if again:
            from ferry.rollback import roll_back

            before = {name: self._keys(name) for name in self.schema}
            versions = migrating.row_versions("public")
            assert {
                name: went.different for name, went in migrating.load_all().items() if went.different
            } == {}
            assert migrating.row_versions("public") == versions
            roll_back(plans, migrating.settings)
            assert [name for name in self.schema if self.small.rows(f'select from "{_q(name)}"')] == []
            migrating.load_all()
            self.compare()
            assert {name: self._keys(name) for name in self.schema} == before

    def compare(self) -> None:
        """Hold every table of the target against what the rules of its keys and references leave of the old one."""
        self._expected()
        for name in self.schema:
            wanted = self._rows(self.small.migrating.source_url, sql.Identifier("expected", name), name)
            found = self._rows(self.small.migrating.target_url, sql.Identifier("public", name), name)
            outcomes = self.small.outcomes(self.moved[name].entity)
            lost, extra = sum((wanted - found).values()), sum((found - wanted).values())
            reasons = self.small.rows(
                "select reason, errors, count(*), min(row::text) from ferry.rejected_rows where entity = %s"
                " group by 1, 2 order by (reason = 'parent_rejected'), 3 desc limit 3",
                self.moved[name].entity,
            )
            said = f"{name}: {lost} rows lost, {extra} too many or altered, {outcomes}, {reasons}"
            assert (lost, extra) == (0, 0), said
            for ref, into in zip(self.schema[name].refs, self.moved[name].into, strict=True):
                assert (wrong := self._wrong(name, ref, into)) == 0, f"{name}: {wrong} wrong references {ref}"
            total = sum(
                self._rows(self.small.migrating.source_url, sql.Identifier("public", name), name).values()
            )
            kept = {"extracted": total, "rejected": total - sum(wanted.values()), "waiting": 0}
            assert {end: outcomes.get(end, 0) for end in kept} == kept, (name, outcomes)

    def _circles(self) -> dict[str, frozenset[str]]:
        """Of each table, those that it reaches by references and that reach it."""
        reach = {name: {ref.to for ref in table.refs} for name, table in self.schema.items()}
        for _ in self.schema:
            reach = {name: to.union(*(reach[one] for one in to)) for name, to in reach.items()}
        return {
            name: frozenset(one for one in reach[name] if name in reach[one]) | {name} for name in self.schema
        }

    def _parents_first(self) -> list[str]:
        done: list[str] = []
        while len(done) < len(self.schema):
            done += [
                name
                for name, table in self.schema.items()
                if name not in done
                and all(ref.to in done or ref.to in self.circles[name] for ref in table.refs)
            ]
        return done

    def _choose(self, name: str) -> None:
        table, draw = self.schema[name], self.draw
        entity = f"e{len(self.moved)}"
        of_key = [n for n, ref in enumerate(table.refs) if set(ref.columns) <= set(table.key)]
        circular = any(table.refs[n].to in self.circles[name] for n in of_key)
        key, types, made = (f"new {entity}",), ("bigint generated always as identity",), "identity"
        kind = draw.choice(("identity", "identity", "uuid7", "uuid5", "kept", "parents"))
        if kind in ("uuid7", "uuid5"):
            types, made = ("uuid",), kind
        into = tuple(
            (f"of {n}",) if ref.to in self.circles[name] else self._columns_for(n, ref)
            for n, ref in enumerate(table.refs)
        )
        if kind == "kept" or (kind == "parents" and not of_key):
            key, types, made = table.key, tuple(table.columns[c] for c in table.key), "natural"
        elif kind == "parents" and not circular:
            by_parent = {column for n in of_key for column in table.refs[n].columns}
            own = [c for c in table.key if c not in by_parent]
            key = (*(c for n in of_key for c in into[n]), *own)
            types = (*("" for n in of_key for _ in into[n]), *(table.columns[c] for c in own))
            made = "natural"
        self.moved[name] = Moved(entity, key, types, made, into)
        # Tables of a circle refer to each other before all of them are chosen, so their keys are one column wide.
        if len(key) > 1 and name in {ref.to for one in self.circles[name] for ref in self.schema[one].refs}:
            types = ("bigint generated always as identity",)
            self.moved[name] = Moved(entity, (f"new {entity}",), types, "identity", into)
        referred = any(ref.to == name for one in self.schema.values() for ref in one.refs)
        later = any(ref.on_missing == "set_null" for ref in table.refs)
        if self.moved[name].made == "natural" and not referred and not later:
            self.moved[name].with_map = draw.random() < 0.5

    def _columns_for(self, number: int, ref: Ref) -> Key:
        width = len(self.moved[ref.to].key)
        return (f"of {number}",) if width == 1 else tuple(f"of {number}.{part}" for part in range(width))

    def _type(self, name: str, position: int) -> str:
        """The plain type of a column of a table's new key."""
        type_ = self.moved[name].types[position]
        if type_:
            return type_.split(" generated")[0]
        column = self.moved[name].key[position]
        return next(
            self._type(ref.to, into.index(column))
            for ref, into in zip(self.schema[name].refs, self.moved[name].into, strict=True)
            if column in into
        )

    def _make_tables(self) -> None:
        with self.small.migrating.target() as target:
            for name, table in self.schema.items():
                moved = self.moved[name]
                columns = {c: (type_, c in table.required) for c, type_ in table.columns.items()}
                for ref, into in zip(table.refs, moved.into, strict=True):
                    needed = set(ref.columns) <= table.required and ref.on_missing != "set_null"
                    for position, column in enumerate(into):
                        columns[column] = (self._type(ref.to, position), needed)
                for column, type_ in zip(moved.key, moved.types, strict=True):
                    columns[column] = (type_ or columns[column][0], True)
                parts = [
                    sql.SQL("{} {} {}").format(
                        sql.Identifier(c), sql.SQL(type_), sql.SQL("not null" if needed else "")
                    )
                    for c, (type_, needed) in columns.items()
                ]
                parts.append(sql.SQL("primary key ({})").format(_named(moved.key)))
                target.execute(
                    sql.SQL("create table {} ({})").format(sql.Identifier(name), sql.SQL(", ").join(parts))
                )
            for name, table in self.schema.items():
                for ref, into in zip(table.refs, self.moved[name].into, strict=True):
                    circular = ref.to in self.circles[name] and ref.to != name
                    target.execute(
                        sql.SQL("alter table {} add foreign key ({}) references {} {}").format(
                            sql.Identifier(name), _named(into), sql.Identifier(ref.to),
                            sql.SQL("deferrable" if circular else self.draw.choice(("", "deferrable"))),
                        )
                    )  # fmt: skip

    def _declare(self, name: str) -> None:
        table, moved = self.schema[name], self.moved[name]
        fields = []
        for column, type_ in table.columns.items():
            kind = _FIELDS.get(type_.split("(")[0])
            if kind and column.isidentifier() and not column.startswith("_"):
                fields.append(f"{column}_: {kind}{'' if column in table.required else ' | None'}"
                              f" = Field(validation_alias={column!r})")  # fmt: skip
        self.small.declare(
            moved.entity,
            "; ".join(fields) or "pass",
            key=list(table.key),
            source={"table": name},
            target=name,
            target_key={"column": list(moved.key), "from": moved.made},
            columns={column: column for column in table.columns},
            references=[
                {"column": list(ref.columns), "to": self.moved[ref.to].entity, "into": list(into),
                 "on_missing": ref.on_missing}
                for ref, into in zip(table.refs, moved.into, strict=True)
            ],
            **({} if moved.with_map else {"id_map": "none"}),
            **self._cut(name),
        )  # fmt: skip

    def _cut(self, name: str) -> dict[str, Any]:
        """Some tables are cut by a column of whole numbers into three partitions."""
        numbers = [c for c, type_ in self.schema[name].columns.items() if type_ in ("integer", "bigint")]
        if not numbers or self.draw.random() < 0.5:
            return {}
        column = self.draw.choice(numbers)
        with self.small.migrating.source() as source:
            found = source.execute(
                sql.SQL("select min({0}), max({0}) from {1}").format(
                    sql.Identifier(column), sql.Identifier(name)
                )
            ).fetchone()
        assert found is not None
        low, high = found
        if low is None or high - low < 3:
            return {}
        return {"partition": {"by": column, "every": (high - low) // 3 + 1, "start": low, "end": high + 1}}

    def _expected(self) -> None:
        """Leave in schema `expected` of the source what must be in the target: by deleting until nothing changes."""
        with self.small.migrating.source() as source:
            source.execute("drop schema if exists expected cascade")
            source.execute("create schema expected")
            for name, table in self.schema.items():
                there, old = sql.Identifier("expected", name), sql.Identifier("public", name)
                source.execute(sql.SQL("create table {} as select * from {}").format(there, old))
                null = sql.SQL(" or ").join(
                    sql.SQL("{} is null").format(sql.Identifier(c)) for c in table.key
                )
                source.execute(sql.SQL("delete from {} where {}").format(there, null))
                source.execute(
                    sql.SQL(
                        "delete from {there} where ({key}) in (select {key} from {there} group by {key}"
                        " having count(*) > 1)"
                    ).format(there=there, key=_named(table.key))
                )
                source.execute(sql.SQL("create unique index on {} ({})").format(there, _named(table.key)))
                source.execute(sql.SQL("analyze {}").format(there))
            gone = 1
            while gone:
                gone = 0
                for name, table in self.schema.items():
                    for ref in table.refs:
                        if ref.on_missing == "reject":
                            gone += source.execute(
                                sql.SQL(
                                    "delete from {child} c where {present} and not exists"
                                    " (select from {parent} p where {on})"
                                ).format(
                                    child=sql.Identifier("expected", name),
                                    present=_present("c", ref.columns),
                                    parent=sql.Identifier("expected", ref.to),
                                    on=_equal("p", self.schema[ref.to].key, "c", ref.columns),
                                )
                            ).rowcount

    def _rows(self, url: str, table: sql.Identifier, name: str) -> Counter[str]:
        with psycopg.connect(url) as connection:
            query = sql.SQL("select md5(row({})::text) from {}").format(
                _named(tuple(self.schema[name].columns)), table
            )
            return Counter(row[0] for row in connection.execute(query))

    def _wrong(self, name: str, ref: Ref, into: Key) -> int:
        """Rows whose new reference leads to another row than the old one did, or nowhere though its row is there."""
        with self.small.migrating.target() as target:
            row = target.execute(
                sql.SQL(
                    "select count(*) from {child} c left join {parent} p on {by_new} left join {parent} q on"
                    " {by_old} where p is distinct from q and not (p.* is null and q.* is null)"
                    " or p.{new} is null and {whole}"
                ).format(
                    child=sql.Identifier("public", name),
                    parent=sql.Identifier("public", ref.to),
                    by_new=_equal("p", self.moved[ref.to].key, "c", into),
                    by_old=_equal("q", self.schema[ref.to].key, "c", ref.columns),
                    new=sql.Identifier(self.moved[ref.to].key[0]),
                    whole=_present("c", into),
                )
            ).fetchone()
        assert row is not None
        return row[0]

    def _keys(self, name: str) -> dict[str, str]:
        with self.small.migrating.target() as target:
            return dict(
                target.execute(
                    sql.SQL("select row({})::text, row({})::text from {}").format(
                        _named(self.schema[name].key), _named(self.moved[name].key), sql.Identifier(name)
                    )
                ).fetchall()
            )


_FIELDS = {
    "integer": "int", "bigint": "int", "smallint": "int", "text": "str", "double precision": "float",
    "boolean": "bool", "date": "datetime.date", "timestamp without time zone": "datetime.datetime",
}  # fmt: skip


def _present(alias: str, columns: Key) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{} is not null").format(sql.Identifier(alias, column)) for column in columns
    )


def _q(name: str) -> str:
    return name.replace('"', '""')

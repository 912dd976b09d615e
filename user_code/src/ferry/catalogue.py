"""What a PostgreSQL database says about its tables: the facts that a plan is checked against."""

import datetime
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ferry.declaration import nearest
from ferry.errors import DeclarationError, PermanentError, TransientError

NATIVE: dict[str, pa.DataType] = {
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "varchar": pa.string(),
    "bpchar": pa.string(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "time": pa.time64("us"),
}
# Decimal128 holds 38 digits; a wider or undeclared numeric travels as text, digit for digit.
MOST_DIGITS = 38


@dataclass(frozen=True)
class Column:
    """One column: its type as PostgreSQL writes it (`numeric(15,2)`) and without modifiers (`numeric`).

    `category` is PostgreSQL's `typtype` (b base, e enum, d domain, c composite, r range); `sequence` the sequence
    that an identity or serial column owns; `arrow` how its values travel, where `arrow_field` would choose otherwise.
    `precision` is that of a `numeric`, or the digits of a second that a time keeps. `shape` spells out a type that
    users made: two of one name need not be the same.
    """

    name: str
    type: str
    base_type: str
    category: str
    not_null: bool
    has_default: bool
    sequence: str | None
    generated: bool
    precision: int | None = None
    scale: int | None = None
    length: int | None = None
    arrow: pa.DataType | None = None
    shape: str = ""


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of a table: columns here, the table (its `label`) and columns there, and when it is checked."""

    name: str
    columns: tuple[str, ...]
    table: str
    to_columns: tuple[str, ...]
    deferrable: bool


@dataclass(frozen=True)
class Table:
    """A table: columns by name, in order; unique keys (primary key first); foreign keys; estimates."""

    schema: str
    name: str
    columns: dict[str, Column]
    unique_keys: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    row_security: bool = False
    estimated_rows: int = 0
    kind: str = "r"
    checks: tuple[str, ...] = field(default=())
    encoding: str = "UTF8"
    # Whether a trigger of somebody's own, or a rule, may change or swallow what is written.
    intervenes: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema, self.name)

    @property
    def label(self) -> str:
        """The name for people: `public.orders`."""
        return f"{self.schema}.{self.name}" if self.schema else self.name

    def is_unique(self, columns: tuple[str, ...]) -> bool:
        """Whether a valid unique key lies within these columns, none of them nullable."""
        return any(
            set(key) <= set(columns) and all(self.columns[column].not_null for column in key)
            for key in self.unique_keys
        )


# A value that travels as text must mean the same on both servers, whatever its role or database is set to.
SAME_TEXT: LiteralString = """
select set_config('intervalstyle', 'postgres', false), set_config('datestyle', 'ISO, YMD', false),
       set_config('timezone', 'UTC', false), set_config('extra_float_digits', '1', false),
       set_config('bytea_output', 'hex', false), set_config('lc_monetary', 'C', false),
       set_config('xmloption', 'content', false)
"""


def connect(url: str, connection: str, *, autocommit: bool = False) -> psycopg.Connection:
    """Open a connection; a refusal becomes one message without the password.

    Raises:
        TransientError: the server cannot be reached or is starting.
        PermanentError: it can, and refuses (password, database, role).
    """
    variable = f"FERRY_CONNECTIONS__{connection.upper()}"
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        parts = {}
    # A `/` or `@` in a password that is not escaped makes a port, a host or a database of what comes after it.
    misread = any("@" in str(parts.get(part, "")) for part in ("host", "port", "dbname"))
    if not parts or misread or not re.fullmatch(r"[\d,]*", str(parts.get("port", ""))):
        raise DeclarationError(
            f"the URL of connection {connection!r} cannot be read",
            where=variable,
            next="Write postgresql://user:password@host:5432/database; escape special characters with %XX",
        )
    place = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
    try:
        opened = psycopg.connect(
            make_conninfo(
                url, application_name=f"ferry {connection}", connect_timeout=10, client_encoding="UTF8"
            ),
            autocommit=True,
        )
        opened.execute(SAME_TEXT)
        opened.autocommit = autocommit
    except psycopg.OperationalError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = next(
            (line for line in lines if "FATAL" in line or "refused" in line), lines[-1] if lines else ""
        )
        refused = any(
            word in str(error) for word in ("authentication", "does not exist", "no pg_hba", "no password")
        )
        kind = PermanentError if refused else TransientError
        raise kind(
            f"connection {connection!r} does not open ({place})",
            where="settings",
            why=why,
            next=f"Check {variable} and that the server runs and lets this user in",
        ) from None
    return opened


_TABLE: LiteralString = """
select c.oid, n.nspname, c.relname, c.relkind::text, row_security_active(c.oid), greatest(c.reltuples, 0)::bigint,
       getdatabaseencoding()::text,
       c.relhasrules or exists (select from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal
                                and g.tgenabled <> 'D')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""
_COLUMNS: LiteralString = """
select a.attname, format_type(a.atttypid, a.atttypmod), coalesce(b.typname, t.typname)::text, t.typtype::text,
       a.attnotnull or (t.typtype = 'd' and t.typnotnull),
       a.atthasdef and a.attgenerated = '' or t.typdefault is not null,
       pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname),
       a.attgenerated <> '', case when a.atttypmod >= 0 then a.atttypmod when t.typtype = 'd' then t.typtypmod
                                  else -1 end, a.atttypid
from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type b on b.oid = nullif(t.typbasetype, 0)
     join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_KEYS: LiteralString = """
select array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality k(n, o)
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n
             where k.o <= i.indnkeyatts order by k.o)
from pg_index i
where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
order by i.indisprimary desc, i.indexrelid
"""
_TYPE: LiteralString = """
select t.typname::text, t.typtype::text,
       case when t.typcategory = 'A' then t.typelem else 0 end, t.typbasetype, t.typrelid,
       case when t.typbasetype > 0 then format_type(t.typbasetype, t.typtypmod) end,
       (select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid))
from pg_type t where t.oid = %s
"""
_PARTS: LiteralString = """
select a.attname::text, a.atttypid, format_type(a.atttypid, a.atttypmod)
from pg_attribute a where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
FIRST_OF_USERS = 16_384
_TIMES = ("timestamp", "timestamptz", "time", "timetz")
_FOREIGN: LiteralString = """
select f.conname::text,
       array(select a.attname::text from unnest(f.conkey) with ordinality k(n, o)
             join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.n order by k.o),
       (select n.nspname || '.' || p.relname from pg_class p join pg_namespace n on n.oid = p.relnamespace
        where p.oid = f.confrelid),
       array(select a.attname::text from unnest(f.confkey) with ordinality k(n, o)
             join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.n order by k.o),
       f.condeferrable
from pg_constraint f where f.conrelid = %s and f.contype = 'f' order by 1
"""


def quoted(name: str) -> str:
    """`schema.table` as a declaration writes it, quoted for `to_regclass`, case kept.

    A part with a dot in it stands in double quotes: `archive."orders.2019"`.
    """
    parts = re.findall(r'"(?:[^"]|"")*"(?=\.|$)|[^.]+', name)
    return ".".join(part if part[:1] == '"' else '"' + part.replace('"', '""') + '"' for part in parts)


def describe(connection: psycopg.Connection, name: str, where: str) -> Table:
    """Read the facts of one table.

    Args:
        connection: an open connection; nothing is written.
        name: `table` or `schema.table`, as declared; case is kept.
        where: the place in the declaration, for the error.
    """
    found = connection.execute(_TABLE, (quoted(name),)).fetchone()
    if found is None:
        names = [
            ".".join(row) if "." in name else row[1]
            for row in connection.execute(
                "select table_schema, table_name from information_schema.tables"
                " where table_schema not in ('pg_catalog', 'information_schema')"
            )
        ]
        raise DeclarationError(
            f"there is no table {name!r}",
            where=where,
            why=f"looked in database {connection.info.dbname!r} as {connection.info.user!r}",
            next=nearest(name, names, "Its tables are"),
        )
    oid, schema, table, kind, security, rows, encoding, intervenes = found
    columns: dict[str, Column] = {}
    rows_of = connection.execute(_COLUMNS, (oid,)).fetchall()
    for column, type_, base, category, not_null, default, sequence, generated, modifier, type_oid in rows_of:
        numeric = base == "numeric" and modifier >= 4
        digits = modifier if base in _TIMES and modifier >= 0 else None
        columns[column] = Column(
            column,
            type_,
            base,
            category,
            not_null,
            default,
            sequence,
            generated,
            precision=((modifier - 4) >> 16) & 0xFFFF if numeric else digits,
            scale=((((modifier - 4) & 0x7FF) ^ 1024) - 1024) if numeric else None,
            length=modifier - 4 if base in ("varchar", "bpchar") and modifier >= 4 else None,
            shape=shape(connection, type_oid) if type_oid >= FIRST_OF_USERS else "",
        )
    return Table(
        schema,
        table,
        columns,
        tuple(tuple(row[0]) for row in connection.execute(_KEYS, (oid,)) if row[0]),
        tuple(
            ForeignKey(a, tuple(b), c, tuple(d), e) for a, b, c, d, e in connection.execute(_FOREIGN, (oid,))
        ),
        security,
        rows,
        kind,
        encoding=encoding,
        intervenes=intervenes,
    )


def shape(connection: psycopg.Connection, oid: int) -> str:
    """A type spelled out: `address(street text, at point)`, `money_range(numeric)`, `mood`, each with `[]` if an array.

    Types that come with the server are their name alone.
    """
    row = connection.execute(_TYPE, (oid,)).fetchone()
    if row is None:
        return ""
    name, kind, element, base, relation, typed, subtype = row
    if element:
        return f"{shape(connection, element)}[]"
    if oid < FIRST_OF_USERS:
        return name
    if kind == "c":
        parts = [
            f"{part} {shape(connection, type_) if type_ >= FIRST_OF_USERS else written}"
            for part, type_, written in connection.execute(_PARTS, (relation,)).fetchall()
        ]
        return f"{name}({', '.join(parts)})"
    if kind == "d":
        return f"{name}({shape(connection, base) if base >= FIRST_OF_USERS else typed})"
    return f"{name}({shape(connection, subtype)})" if subtype else name


def column_of(table: Table, name: str, where: str) -> Column:
    """A column of a table, or a `DeclarationError` with the nearest name."""
    if name not in table.columns:
        raise DeclarationError(
            f"{table.label} has no column {name!r}",
            where=where,
            next=nearest(name, table.columns, "Its columns are"),
        )
    return table.columns[name]


def arrow_field(column: Column) -> pa.Field:
    """How a column travels: its Arrow type, and PostgreSQL's word for it in the metadata under `pg_type`."""
    if column.arrow is not None:
        arrow = column.arrow
    elif column.base_type == "numeric" and column.precision and column.precision <= MOST_DIGITS:
        scale = column.scale or 0
        arrow = pa.decimal128(column.precision, scale) if 0 <= scale <= column.precision else pa.string()
    else:
        arrow = NATIVE.get(column.base_type, pa.string())
    return pa.field(column.name, arrow, metadata={"pg_type": column.type})


def as_text(value: sql.Composable, type_: pa.DataType) -> sql.Composed:
    """A part of a key as text, the same for equal values whatever the session, the scale or the padding."""
    if pa.types.is_decimal(type_):
        return sql.SQL("trim_scale({})::text").format(value)
    if pa.types.is_timestamp(type_) and type_.tz:
        return sql.SQL("({} at time zone 'UTC')::text").format(value)
    # Of a char(n), a cast to text would drop the padding.
    return sql.SQL("concat({})" if pa.types.is_string(type_) else "{}::text").format(value)


def key_text(value: Any) -> str:
    """What `as_text` gives for a value that Python holds."""
    match value:
        case bool():
            return str(value).lower()
        case Decimal():
            return f"{value.normalize():f}" if value else "0"
        case bytes():
            return "\\x" + value.hex()
        case datetime.datetime() | datetime.time():
            if isinstance(value, datetime.datetime) and value.tzinfo:
                value = value.astimezone(datetime.UTC).replace(tzinfo=None)
            return str(value).rstrip("0") if value.microsecond else str(value)
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case _:
            return str(value).replace("\x00", "\u2400")

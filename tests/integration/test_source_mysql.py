"""MariaDB as a source: each type arrives exactly, or its value is rejected as it was, or the plan refuses it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pymysql
import pytest

from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.extract import kind_of, open_source
from ferry.sources.mysql_connection import connect, told
from ferry.sources.mysql_rows import stream
from ferry.sources.mysql_values import _BYTES, _INTEGERS, _SAME, _SHAPES, _TEXTS
from mariadb import MariaDb
from shop.demo.databases import create_database, drop_database
from shop.demo.server import EmbeddedServer
from small import Small

PAGE = Path(__file__).parents[2] / "docs" / "values.md"
DATES = {"by": "day", "every": "month", "start": "2020-01-01", "end": "2020-03-31"}

# Declared type: the target's, each value as SQL, and what the target then says; None: the row is rejected.
VALUES: dict[str, tuple[str, dict[str, str | None]]] = {
    "tinyint": ("smallint", {"-128": "-128", "127": "127"}),
    "tinyint(1)": ("smallint", {"1": "1", "2": "2"}),
    "tinyint unsigned": ("smallint", {"255": "255"}),
    "smallint": ("smallint", {"-32768": "-32768"}),
    "smallint unsigned": ("integer", {"65535": "65535"}),
    "mediumint": ("integer", {"-8388608": "-8388608"}),
    "mediumint unsigned": ("integer", {"16777215": "16777215"}),
    "int": ("integer", {"-2147483648": "-2147483648", "2147483647": "2147483647"}),
    "int(8) unsigned zerofill": ("bigint", {"4294967295": "4294967295", "7": "7"}),
    "bigint": ("bigint", {"-9223372036854775808": "-9223372036854775808",
                          "9223372036854775807": "9223372036854775807"}),
    "bigint unsigned": ("bigint", {"9223372036854775807": "9223372036854775807", "9223372036854775808": None,
                                   "18446744073709551615": None}),
    "year": ("smallint", {"1901": "1901", "2155": "2155", "'0000'": "0"}),
    "decimal(10,2)": ("numeric(10,2)", {"19.9": "19.90", "-99999999.99": "-99999999.99", "0": "0.00"}),
    "decimal(38,0)": ("numeric(38,0)", {"9" * 38: "9" * 38}),
    "decimal(65,30)": ("numeric(65,30)", {"9" * 35 + "." + "1" * 30: "9" * 35 + "." + "1" * 30,
                                          "-0.5": "-0.5" + "0" * 29}),
    "float": ("real", {"0.1": "0.1", "16777217": "1.6777216e+07", "3.4028234e38": "3.4028235e+38",
                       "1.1754944e-38": "1.1754944e-38", "1e-45": "1e-45", "123456.7": "123456.7"}),
    "double": ("double precision", {"0.1": "0.1", "1.7976931348623157e308": "1.7976931348623157e+308",
                                    "5e-324": "5e-324",
                                    "2.2250738585072014e-308": "2.2250738585072014e-308",
                                    "123456789.12345679": "123456789.12345679", "1e22": "1e+22"}),
    "double(10,2)": ("double precision", {"1.005": "1", "12345678.91": "12345678.91"}),
    "bit(1)": ("bit(1)", {"b'1'": "1", "b'0'": "0"}),
    "bit(12)": ("bit(12)", {"b'101'": "000000000101", "b'111111111111'": "111111111111"}),
    "bit(64)": ("bit(64)", {"18446744073709551615": "1" * 64, "1": "0" * 63 + "1"}),
    "varchar(50)": ("varchar(50)", {"''": "", "' a  '": " a  ", "'naïve 字 𝔘 🏳️‍🌈'": "naïve 字 𝔘 🏳️‍🌈",
                                    "'e\u0301'": "e\u0301", "'%s %%'": "%s %%", "'a\\0b'": None, "'NULL'": "NULL"}),
    "char(5)": ("varchar(5)", {"'a'": "a", "'字字字字字'": "字字字字字"}),
    "text": ("text", {"repeat('x', 65535)": "x" * 65_535, "'a\\nb\\t\"c\"\\\\d'": 'a\nb\t"c"\\d'}),
    "varchar(20) character set latin1": ("text", {"'café'": "café", "unhex('80')": "€"}),
    "varchar(20) character set utf16": ("text", {"'字𝔘'": "字𝔘"}),
    "longtext": ("text", {"repeat('字', 100000)": "字" * 100_000}),
    "enum('open','paid','')": ("text", {"'paid'": "paid", "''": "", "7": ""}),
    "set('a','b','c d')": ("text", {"'a,c d'": "a,c d", "''": "", "6": "b,c d"}),
    "json": ("json", {"'{\"b\": 1,  \"a\": [1.0, 1e2, null], \"b\": 2}'": '{"b": 1,  "a": [1.0, 1e2, null], "b": 2}'}),
    "binary(4)": ("bytea", {"x'00ff'": "\\x00ff0000"}),
    "varbinary(4)": ("bytea", {"x''": "\\x", "x'5c7830ff'": "\\x5c7830ff"}),
    "longblob": ("bytea", {"repeat(x'00', 70000)": "\\x" + "00" * 70_000}),
    "date": ("date", {"'1000-01-01'": "1000-01-01", "'9999-12-31'": "9999-12-31", "'2020-02-29'": "2020-02-29",
                      "'0000-00-00'": None, "'2020-00-00'": None, "'2020-02-00'": None, "'0000-01-01'": None,
                      "'0001-01-01'": "0001-01-01"}),
    "datetime": ("timestamp(0)", {"'2020-02-29 10:11:12'": "2020-02-29 10:11:12", "'0000-00-00'": None,
                                  "'9999-12-31 23:59:59'": "9999-12-31 23:59:59"}),
    "datetime(6)": ("timestamp", {"'2020-02-29 10:11:12.123456'": "2020-02-29 10:11:12.123456",
                                  "'2020-12-00 00:00:00.5'": None, "'1000-01-01'": "1000-01-01 00:00:00"}),
    "timestamp(3) null": ("timestamptz", {"'2020-03-29 01:30:00.123'": "2020-03-29 01:30:00.123+00",
                                          "'0000-00-00'": None,
                                          "'2038-01-19 03:14:07.999'": "2038-01-19 03:14:07.999+00"}),
    "time": ("interval", {"'12:34:56'": "12:34:56", "'838:59:59'": "838:59:59", "'-838:59:59'": "-838:59:59"}),
    "time(6)": ("interval", {"'00:00:00.500000'": "00:00:00.5", "'-00:00:01.000001'": "-00:00:01.000001",
                             "'24:00:00'": "24:00:00"}),
    "uuid": ("uuid", {"'123e4567-e89b-12d3-a456-426614174000'": "123e4567-e89b-12d3-a456-426614174000"}),
    "inet6": ("inet", {"'::1'": "::1/128", "'::ffff:1.2.3.4'": "::ffff:1.2.3.4/128"}),
    "inet4": ("inet", {"'10.0.0.1'": "10.0.0.1/32"}),
    "point": ("bytea", {"point(1, 2)": "\\x000000000101000000000000000000f03f0000000000000040"}),
}  # fmt: skip
NAMED = {type_: f"c{number}" for number, type_ in enumerate(VALUES)}


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    """A server for the tests of this module."""
    running = MariaDb()
    yield running
    running.stop()


class Old:
    """A database of MariaDB that is migrated into PostgreSQL."""

    def __init__(self, server: MariaDb, new_database: Callable[..., str], place: Path) -> None:
        self.small = Small(new_database, place)
        self.server = server
        self.small.migrating.source_url = server.create("old")

    def write(self, *statements: str) -> None:
        """Change the old database."""
        self.server.run("old", *statements)


@pytest.fixture
def old(mariadb: MariaDb, new_database: Callable[..., str], tmp_path: Path) -> Old:
    """An empty database and an empty target."""
    return Old(mariadb, new_database, tmp_path)


@pytest.fixture(scope="module")
def every(
    mariadb: MariaDb, server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Small]:
    """One table with a column of each type and a row for each value, through all stages."""

    def make() -> str:
        create_database(server, "of_mariadb")
        return server.url("of_mariadb")

    small = Small(lambda: "", tmp_path_factory.mktemp("every"))
    small.migrating.source_url, small.migrating.target_url = mariadb.create("every"), make()
    columns = ", ".join(f"{name} {type_}" for type_, name in NAMED.items())
    rows = [(NAMED[type_], value) for type_, (_, values) in VALUES.items() for value in ("null", *values)]
    mariadb.run(
        "every", f"create table every (id int primary key, {columns})",
        *(f"insert into every (id, {name}) values ({row}, {value})" for row, (name, value) in enumerate(rows)),
    )  # fmt: skip
    small.target(
        f"create table every (id int primary key, {', '.join(f'{NAMED[t]} {to}' for t, (to, _) in VALUES.items())})"
    )
    small.declare("every", "id: int", made="natural", new_key="id")
    went = small.migrating.load("every")
    assert (went.failed, went.different) == ({}, 0)
    yield small
    drop_database(server, "of_mariadb")


@pytest.mark.parametrize("type_", VALUES)
def test_each_value_of_a_type_arrives_or_is_rejected_as_it_was(every: Small, type_: str) -> None:
    """NULL and the values at the type's edges, whatever the server's zone or the column's character set."""
    values, name = VALUES[type_][1], NAMED[type_]
    first = sum(1 + len(given) for _, given in list(VALUES.values())[: list(VALUES).index(type_)])
    ids = range(first, first + 1 + len(values))
    arrived = dict(
        every.rows(f"select id, {name}::text from every where id between %s and %s", ids[0], ids[-1])
    )
    assert arrived.pop(ids[0]) is None
    assert arrived == {
        row: said for row, said in zip(ids[1:], values.values(), strict=True) if said is not None
    }
    rejected = every.rows(
        "select key[1]::int, reason, errors->0->>'column', errors->0->>'value' from ferry.rejected_rows"
        " where key[1]::int between %s and %s", ids[0], ids[-1],
    )  # fmt: skip
    assert {row for row, *_ in rejected} == set(ids[1:]) - set(arrived)
    for row, reason, column, value in rejected:
        assert (reason, column) in {("contract", name), ("target_refused", "")}, value
        assert value is None or value.startswith(list(values)[row - first - 1].strip("'")[:5])


def test_a_rule_under_parse_says_what_such_a_value_means(old: Old) -> None:
    """A column with a rule is read as MySQL writes it: no-dates become NULL, `tinyint(1)` and bits are booleans, a time
    is a time of day or rejected, a number beyond 63 bits is a number, and bytes are text, if somebody says so.
    """
    old.write(
        "create table one (id int primary key, d date, t datetime(6), s time, f tinyint(1), b bit(1),"
        " n bigint unsigned, w blob, z datetime default '2020-07-01 12:00:00')",
        "insert into one (id, d, t, s, f, b, n, w) values"
        " (1, '0000-00-00', '0000-00-00', '23:59:59', 1, b'0', 18446744073709551615, 'café'),"
        " (2, '2020-02-29', '2020-02-29 10:11:12.5', '24:00:00', 0, b'1', 1, null),"
        " (3, '2020-00-01', null, null, 2, null, null, x'e9'), (4, null, null, null, null, null, null, x'e9')",
    )  # fmt: skip
    old.small.target(
        "create table one (id int primary key, d date, t timestamp, s time, f boolean, b boolean, n numeric(20,0),"
        " w text, z timestamptz)"
    )
    words = {"type": "boolean", "true": "1", "false": "0"}
    old.small.declare(
        "one", "id: int", made="natural", new_key="id",
        parse={"d": {"type": "date", "null": "0000-00-00"}, "s": "time", "f": words, "b": words, "n": "numeric(20,0)",
               "t": {"type": "timestamp", "null": "0000-00-00 00:00:00.000000"}, "w": "text",
               "z": {"type": "timestamptz", "zone": "Europe/Berlin"}},
    )  # fmt: skip
    went = old.small.migrating.load("one")
    assert (went.failed, went.different) == ({}, 0)
    assert old.small.rows("select id, d, t, s::text, f, b, n::text, w from one") == [
        (1, None, None, "23:59:59", True, False, "18446744073709551615", "café")
    ]
    assert old.small.rows("select z at time zone 'UTC' = '2020-07-01 10:00' from one") == [(True,)]
    told = "select key[1], e->>'column', e->>'value' from ferry.rejected_rows, jsonb_array_elements(errors) e"
    assert old.small.rows(f"{told} order by 1, 2") == [
        ("2", "s", "24:00:00"), ("3", "d", "2020-00-01"), ("3", "f", "2"), ("3", "w", "\\xe9"), ("4", "w", "\\xe9"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "target"),
    [("time", "time"), ("tinyint(1)", "boolean"), ("bit(1)", "boolean"), ("datetime", "timestamptz"),
     ("timestamp", "timestamp"), ("bigint unsigned", "integer[]"), ("text", "jsonb"), ("binary(16)", "uuid"),
     ("decimal(10,3)", "numeric(10,2)"), ("datetime(3)", "timestamp(0)"), ("point", "point"), ("double", "real"),
     ("set('a')", "text[]")],
)  # fmt: skip
def test_what_could_change_on_the_way_is_refused_in_the_plan(
    every: Small, mariadb: MariaDb, declared: str, target: str
) -> None:
    """The plan names the column and both types."""
    mariadb.run("every", f"create or replace table one (id int primary key, v {declared})")
    every.target("drop table if exists one", f"create table one (id int primary key, v {target})")
    every.declare("one", "id: int", made="natural", new_key="id")
    with pytest.raises(DeclarationError, match=r"v .* cannot be carried exactly into v"):
        every.migrating.plans("one")


@pytest.mark.parametrize("key", [" primary key", ""])
def test_each_row_lies_in_one_partition_whatever_its_date_is(old: Old, key: str) -> None:
    """NULL and no-dates go with the first; children follow their parent, also one whose key is not unique."""
    old.write(
        f"create table orders (id int{key}, `the day` date)",
        "create table `lines` (order_id int not null, n int not null, primary key (order_id, n))",
        "insert into orders values (1, '2020-01-31'), (2, '2020-02-01'), (3, '2020-03-31'), (4, null),"
        " (5, '0000-00-00'), (6, '2020-02-00'), (7, '1000-01-01'), (8, '2021-01-01')",
        "insert into `lines` select id, 1 from orders union all select 2, 2",
    )  # fmt: skip
    old.small.target(
        "create table orders (new_id bigint generated always as identity primary key, day date)",
        "create table lines (order_id bigint references orders, n int, primary key (order_id, n))",
    )
    old.small.declare("orders", "id: int", columns={"the day": "day"}, partition={**DATES, "by": "the day"})
    through = {"partition": {"through": "orders"}, "references": [{"column": "order_id", "to": "orders"}]}
    old.small.declare(
        "lines", "order_id: int; n: int", key=["order_id", "n"], new_key=["order_id", "n"], made="natural",
        id_map="none", **through,
    )  # fmt: skip
    went = old.small.migrating.load_all()
    assert went["orders"].loaded == ["2020-01", "2020-02", "2020-03"]
    assert old.small.outcomes("orders") == {"extracted": 8, "inserted": 6, "rejected": 2}
    assert old.small.rejected("orders") == {"5": "contract", "6": "contract"}
    assert old.small.outcomes("lines") == {"extracted": 9, "inserted": 7, "rejected": 2}
    rows = "select partition, extracted::int from ferry.ledger where entity = %s order by 1"
    assert old.small.rows(rows, "orders") == [("2020-01", 5), ("2020-02", 1), ("2020-03", 2)]
    assert old.small.rows(rows, "lines") == [("2020-01", 5), ("2020-02", 2), ("2020-03", 2)]
    again = old.small.migrating.load("orders")
    assert (again.skipped_chunks, again.different) == (3, 0)
    plans = old.small.migrating.plans()
    source = open_source(plans.migration, "orders", old.small.migrating.settings)
    seen = {name: source.fingerprints(name) for name in plans.order}
    assert [rows for rows, _ in seen["orders"].values()] == [5, 1, 2]
    assert [rows for rows, _ in seen["lines"].values()] == [5, 2, 2]
    old.write("update orders set `the day` = '2020-03-01' where id = 3")
    now = source.fingerprints("orders")
    assert [key for key in now if now[key] != seen["orders"][key]] == ["2020-03"]
    source.close()


def test_a_list_of_values_cuts_by_what_is_written(old: Old) -> None:
    """A collation that ignores case puts no row into two partitions; NULL and what is not listed go with the first."""
    old.write(
        "create table one (id int primary key, kind varchar(9), day date)",
        "insert into one values (1, 'a', '2020-01-01'), (2, 'A', null), (3, 'b', '2020-03-01'), (4, null, null),"
        " (5, 'b ', '2020-02-01')",
    )
    old.small.target("create table one (id int primary key, kind text, day date)")
    kinds = {"by": "kind", "values": ["a", "A", "b"]}
    for partition in (kinds, {**kinds, "and": DATES}):
        old.small.declare("one", "id: int", made="natural", new_key="id", partition=partition)
        plans = old.small.migrating.plans()
        source = open_source(plans.migration, "one", old.small.migrating.settings)
        counted = {key: rows for key, (rows, _) in source.fingerprints("one").items() if rows}
        assert sorted(source.values("one", "kind", 9)) == ["A", "a", "b", "b "]
        source.close()
        old.small.migrating.load_all()
        rows = old.small.rows("select partition, extracted::int from ferry.ledger where extracted > 0")
        assert {key: count for key, count in rows if key in plans["one"].scheme.keys} == counted
    assert counted == {"2020-01|a": 2, "2020-01|A": 1, "2020-03|b": 1, "2020-02|a": 1}


def test_changes_are_updates_and_rows_that_are_gone_are_deleted(old: Old) -> None:
    """Loaded again: one row differs, one vanished, one is new, one moved away; keys are text, and `where` has a `%`."""
    old.write(
        "create table one (id varchar(9) primary key, day date, v text, at timestamp(6))",
        "insert into one values ('k1', '2020-01-01', 'a', now(6)), ('K2 é', '2020-01-01', 'b', now(6)),"
        " ('k4', '2020-01-01', 'c', now(6)), ('x', null, null, null)",
    )
    old.small.target(
        "create table one (new_id bigint generated always as identity primary key, day date, v text)"
    )
    old.small.declare(
        "one", "id: str; v: str", on_vanished="delete", drop=["at"], partition=DATES,
        source={"where": "id like 'K%'", "updated_at": "at"},
    )  # fmt: skip
    old.small.migrating.load_all()
    plans = old.small.migrating.plans()
    source = open_source(plans.migration, "one", old.small.migrating.settings)
    assert kind_of(plans.migration, "one", old.small.migrating.settings) == "mysql"
    mark = source.high_water_mark("one")
    assert mark is not None
    before = source.changes("one", mark)
    assert set(before) == {"2020-01"}
    old.write(
        "update one set v = 'new', at = now(6) + interval 1 second where id = 'k1'",
        "update one set day = '2020-03-01' where id = 'k4'",
        "delete from one where id = 'K2 é'",
        "insert into one values ('k3', '2020-02-01', 'd', null)",
    )
    after = source.changes("one", mark)
    assert after["2020-01"] != before["2020-01"]
    assert set(after) == {"2020-01", "2020-03"}
    assert source.still_there("one", [["k1"], ["K1"], ["K2 é"], ["x"]]) == {("k1",)}
    source.close()
    old.small.migrating.load_all()
    assert old.small.rows("select v, day::text from one order by 1") == [
        ("c", "2020-03-01"), ("d", "2020-02-01"), ("new", "2020-01-01")
    ]  # fmt: skip


def test_keys_that_are_there_twice_are_found_across_partitions(old: Old) -> None:
    """All their rows are rejected; with `keep_latest` the newest stays, unless two are. `a` and `A` are two keys."""
    old.write(
        "create table one (id varchar(9), day date, at datetime)",
        "insert into one values ('a', '2020-01-01', '2020-01-01'), ('a', '2020-02-01', '2020-01-02'),"
        " ('a', '2020-02-02', '2020-01-01'), ('A', '2020-03-01', '2020-01-01'), ('b', '2020-01-01', '2020-01-01'),"
        " ('b', '2020-01-03', '2020-01-01'), ('c', '2020-01-04', null), ('c', '2020-01-04', '2020-01-01'),"
        " (null, '2020-01-05', null)",
    )
    old.small.target("create table one (new_id bigint generated always as identity primary key, day date)")
    some = {"partition": DATES, "drop": ["at"]}
    old.small.declare("one", "id: str", **some)
    old.small.migrating.load_all()
    assert old.small.rows("select day::text from one") == [("2020-03-01",)]
    old.small.declare("one", "id: str", duplicates="keep_latest", source={"updated_at": "at"}, **some)
    old.small.migrating.load_all()
    assert old.small.rows("select day::text from one order by 1") == [("2020-02-01",), ("2020-03-01",)]


def test_rows_and_facts_are_of_the_moment_when_the_partition_began(old: Old) -> None:
    """Somebody who writes meanwhile is not seen and does not wait; a reading that is given up leaves nothing behind."""
    old.write(
        "create table one (id int primary key, v varchar(200), n decimal(20,2))",
        "insert into one select seq, concat('before', repeat('x', 150)), seq / 4 from seq_1_to_60000",
    )
    old.small.target("create table one (id int primary key, v text, n numeric(20,2))")
    old.small.declare("one", "id: int; v: str", made="natural", new_key="id")
    plans = old.small.migrating.plans()
    source = open_source(plans.migration, "one", old.small.migrating.settings)
    for reads_all in (False, True):
        with source.extraction("one", "all", plans["one"].scheme, print) as reading:
            old.write("update one set v = 'after', n = 0 where id <= 2")
            batches = reading.batches()
            first = next(batches)
            assert first.num_rows < reading.facts().rows == 60_000
            assert 2**20 < first.nbytes < 2**23
            if reads_all:
                assert first.num_rows + sum(batch.num_rows for batch in batches) == 60_000
    assert reading.facts().sums == {"id": "1800030000", "n": "450007499.25"}
    assert first.column("v")[0].as_py() == "after"
    source.close()


@pytest.mark.parametrize("size", [20_000_000, 16_777_215 - 2 - 4 - 1, 70_000, 251, 0])
def test_a_row_of_any_length_comes_whole(mariadb: MariaDb, size: int) -> None:
    """The server cuts what is longer than 16 MiB into packets, and follows a full one by an empty one."""
    mariadb.run("mysql", "set global max_allowed_packet = 67108864")
    connection = connect(mariadb.create("rows"), "legacy")
    large = f"select 2, repeat('x', {size}), null union all select 3, '', repeat('y', {size})"
    rows = f"select 1, 'a', 'b' union all {large}"
    found = [pa.Table.from_arrays(block, names=["id", "v", "w"]) for block in stream(connection, rows)]
    assert pa.concat_tables(found).to_pylist() == [
        {"id": b"1", "v": b"a", "w": b"b"},
        {"id": b"2", "v": b"x" * size, "w": None},
        {"id": b"3", "v": b"", "w": b"y" * size},
    ]
    assert list(stream(connection, "select 1 from dual where false")) == []
    with pytest.raises(pymysql.MySQLError, match="more than 1 row"):
        list(stream(connection, "select (select seq from seq_1_to_2) from seq_1_to_3"))
    connection.close()


def test_a_server_that_goes_away_amid_the_rows_is_a_passing_error(mariadb: MariaDb) -> None:
    """A retry can help, and nobody takes what has come for all there is."""
    connection = connect(mariadb.create("rows"), "legacy")
    blocks = stream(connection, "select seq, repeat('x', 1000) from seq_1_to_1000000")
    next(blocks)
    mariadb.run("mysql", f"kill {connection.thread_id()}")  # type: ignore[attr-defined]
    with pytest.raises((pymysql.MySQLError, OSError)) as broken:
        list(blocks)
    assert isinstance(told(broken.value, "orders, 2020-01"), TransientError)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("s3cret", "guess"), PermanentError, "Access denied for user 'ferry'"),
        (("/old", "/nowhere"), PermanentError, "Unknown database 'nowhere'"),
        (("/old", ""), DeclarationError, "names no database"),
        (("/old", "/old?tls=1"), DeclarationError, "there is no option 'tls'"),
        ((r":\d+/", ":1/"), TransientError, "Connection refused"),
        ((r":\d+/", ":port/"), DeclarationError, "cannot be read"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_told_without_the_password(
    mariadb: MariaDb, change: tuple[str, str], error: type[FerryError], words: str
) -> None:
    """Whether a retry can help is told with it."""
    with pytest.raises(error) as refused:
        connect(re.sub(*change, mariadb.url("old")), "legacy")
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert "guess" not in str(refused.value)
    assert "FERRY_CONNECTIONS__LEGACY" in str(refused.value)


def test_what_the_source_does_not_have_is_told(every: Small, mariadb: MariaDb) -> None:
    """A table with the nearest one; a condition that the server does not understand in its words."""
    mariadb.run("every", "create or replace table one (id int primary key)")
    every.target("drop table if exists one", "create table one (id bigint primary key)")
    every.declare("one", "id: int", made="natural", new_key="id", source={"table": "ones"})
    with pytest.raises(DeclarationError, match="Did you mean 'one'"):
        every.migrating.plans("one")
    every.declare("one", "id: int", made="natural", new_key="id", source={"where": "nothing = 1"})
    assert (
        "Unknown column 'nothing'"
        in every.migrating.load("one", plans=every.migrating.plans("one")).failed["all"]
    )


def test_the_page_says_of_every_type_what_becomes_of_it() -> None:
    """docs/values.md names each type that is tried here, and those that are the same under another name."""
    section = PAGE.read_text().partition("## From MySQL and MariaDB")[2]
    named = set(re.findall(r"`([a-z0-9]+)`", " ".join(re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE))))
    assert {re.match("[a-z0-9]+", type_)[0] for type_ in VALUES} <= named  # type: ignore[index]
    known = {*_INTEGERS, *_BYTES, *_TEXTS, *_SHAPES, *_SAME, "decimal", "float", "double", "bit", "datetime", "time",
             "timestamp"} - {"geomcollection"}  # fmt: skip
    assert known <= named

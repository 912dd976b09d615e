"""SQLite as a source: what a column declares is carried, what lies in it and is something else is rejected."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ferry.errors import DeclarationError, PermanentError
from ferry.extract import open_source
from small import Small

DATES = {"by": "day", "every": "month", "start": "2020-01-01", "end": "2020-03-31"}


class Old:
    """An SQLite file that is migrated into PostgreSQL."""

    def __init__(self, new_database: Callable[..., str], place: Path) -> None:
        self.small = Small(new_database, place)
        self.file = place / "old shop.db"
        self.small.migrating.source_url = f"sqlite:///{self.file}"

    def write(self, *statements: str) -> None:
        """Change the file."""
        with sqlite3.connect(self.file) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()


@pytest.fixture
def old(new_database: Callable[..., str], tmp_path: Path) -> Old:
    """An empty file, which is not there yet, and an empty target."""
    return Old(new_database, tmp_path)


# Declared type, the target's, what is in it as SQL, and what the target then says; None: rejected.
VALUES = [
    ("integer", "bigint", ["9223372036854775807", "-9223372036854775808", "'x'", "1.5"],
     ["9223372036854775807", "-9223372036854775808", None, None]),
    ("real", "double precision", ["0.1", "9e999", "5e-324", "'x'"],
     ["0.1", "Infinity", "5e-324", None]),
    ("decimal(10,2)", "numeric(10,2)", ["19.9", "5", "19.999", "1e9", "'abc'", "0.07"],
     ["19.90", "5.00", None, None, None, "0.07"]),
    ("numeric", "numeric", ["1e20", "0.1", "12345678901234567", "x'00'"],
     ["100000000000000000000", "0.1", "12345678901234567", None]),
    ("varchar(3)", "text", ["'longer than three'", "'字 𝔘'", "''", "x'6162'", "cast(x'636166e9' as text)"],
     ["longer than three", "字 𝔘", "", None, None]),
    ("blob", "bytea", ["x'00ff'", "x''", "'text'", "7"], ["\\x00ff", "\\x", None, None]),
    ("boolean", "boolean", ["1", "0", "2", "'t'"], ["true", "false", None, None]),
    ("date", "date", ["'2020-02-29'", "'2021-02-29'", "'20200101'", "2459000", "''"],
     ["2020-02-29", None, None, None, None]),
    ("datetime", "timestamp", ["'2020-02-29 10:11:12.123456'", "'2020-02-29T10:11'", "'2020-02-29'", "'now'"],
     ["2020-02-29 10:11:12.123456", "2020-02-29 10:11:00", "2020-02-29 00:00:00", None]),
    ("", "text", ["'any'", "1"], ["any", None]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "target", "given", "arrives"), VALUES, ids=[v[0] or "none" for v in VALUES]
)
def test_values_of_the_declared_type_arrive_and_others_are_rejected_as_they_are(
    old: Old, declared: str, target: str, given: list[str], arrives: list[str | None]
) -> None:
    """NULL too; a row with a value of another kind is named with that value, and nothing is made to fit."""
    old.write(f"create table one (id integer primary key, v {declared})")
    old.write("insert into one values (0, null)")
    old.write(*(f"insert into one values ({row}, {value})" for row, value in enumerate(given, 1)))
    old.small.target(f"create table one (id bigint primary key, v {target})")
    old.small.declare("one", "id: int", made="natural", new_key="id")
    went = old.small.migrating.load("one")
    assert (went.failed, went.different) == ({}, 0)
    found = dict(old.small.rows("select id::int, v::text from one"))
    assert found == {0: None} | {row: text for row, text in enumerate(arrives, 1) if text is not None}
    assert old.small.rejected("one") == {
        str(row): "contract" for row, text in enumerate(arrives, 1) if text is None
    }


def test_each_row_lies_in_one_partition_whatever_its_date_is(old: Old) -> None:
    """NULL and numbers go with the first, garbage where text sorts it; children follow their parent."""
    old.write(
        "create table orders (id integer primary key, day date)",
        "create table lines (order_id integer not null, n integer not null, primary key (order_id, n))",
        "insert into orders values (1, '2020-01-31'), (2, '2020-02-01'), (3, '2020-03-31'), (4, null), (5, 20200201),"
        " (6, 'zzz'), (7, '2019-01-01'), (8, '2021-01-01')",
        "insert into lines select id, 1 from orders",
        "insert into lines values (2, 2), (99, 1)",
    )
    old.small.target(
        "create table orders (new_id bigint generated always as identity primary key, day date)",
        "create table lines (order_id bigint references orders, n bigint, primary key (order_id, n))",
    )
    old.small.declare("orders", "id: int", partition=DATES)
    old.small.declare(
        "lines", "order_id: int; n: int", key=["order_id", "n"], new_key=["order_id", "n"], made="natural",
        id_map="none", partition={"through": "orders"}, references=[{"column": "order_id", "to": "orders"}],
    )  # fmt: skip
    went = old.small.migrating.load_all()
    assert went["orders"].loaded == ["2020-01", "2020-02", "2020-03"]
    assert old.small.outcomes("orders") == {"extracted": 8, "inserted": 6, "rejected": 2}
    assert old.small.rejected("orders") == {"5": "contract", "6": "contract"}
    assert old.small.outcomes("lines") == {"extracted": 10, "inserted": 7, "rejected": 3}
    rows = "select partition, extracted::int from ferry.ledger where entity = 'orders' order by 1"
    assert old.small.rows(rows) == [("2020-01", 4), ("2020-02", 1), ("2020-03", 3)]
    again = old.small.migrating.load("orders")
    assert (again.skipped_chunks, again.different) == (3, 0)


def test_a_change_is_an_update_and_a_row_that_is_gone_is_listed(old: Old) -> None:
    """Loaded again: one row differs, one vanished, one is new."""
    old.write(
        "create table one (id integer primary key, v text)", "insert into one values (1, 'a'), (2, 'b')"
    )
    old.small.target("create table one (new_id bigint generated always as identity primary key, v text)")
    old.small.declare("one", "id: int; v: str", on_vanished="delete")
    old.small.migrating.load_all()
    old.write(
        "update one set v = 'c' where id = 1",
        "delete from one where id = 2",
        "insert into one values (3, 'd')",
    )
    old.small.migrating.load_all()
    assert old.small.rows("select v from one order by 1") == [("c",), ("d",)]


def test_a_key_that_is_there_twice_is_found_across_partitions(old: Old) -> None:
    """All its rows are rejected; with `keep_latest` the newest stays, unless two are."""
    old.write(
        "create table one (id integer, day date, at datetime)",
        "insert into one values (1, '2020-01-01', '2020-01-01 00:00:00'), (1, '2020-02-01', '2020-01-02 00:00:00'),"
        " (2, '2020-01-01', '2020-01-01 00:00:00'), (3, '2020-01-01', '2020-01-01 00:00:00'),"
        " (3, '2020-03-01', '2020-01-01 00:00:00'), (null, '2020-01-01', null)",
    )
    old.small.target("create table one (new_id bigint generated always as identity primary key, day date)")
    some = {"partition": DATES, "drop": ["at"]}
    old.small.declare("one", "id: int; day: datetime.date", **some)
    old.small.migrating.load_all()
    assert old.small.rows("select day::text from one") == [("2020-01-01",)]
    old.small.declare(
        "one", "id: int; day: datetime.date", duplicates="keep_latest", source={"updated_at": "at"}, **some
    )
    old.small.migrating.load_all()
    assert old.small.rows("select day::text from one order by 1") == [("2020-01-01",), ("2020-02-01",)]


def test_rows_are_read_as_they_were_when_the_partition_began(old: Old) -> None:
    """Somebody who writes meanwhile is not seen, and does not wait: the file's log keeps both states."""
    old.write(
        "pragma journal_mode = wal",
        "create table one (id integer primary key, v text)",
        "insert into one select value, 'before' from (with recursive n(value) as (select 1 union all select value + 1"
        " from n limit 20000) select value from n)",
    )
    old.small.target("create table one (id bigint primary key, v text)")
    old.small.declare("one", "id: int; v: str", made="natural", new_key="id")
    plans = old.small.migrating.plans()
    source = open_source(plans.migration, "one", old.small.migrating.settings)
    with source.extraction("one", "all", plans["one"].scheme, print) as reading:
        batches = reading.batches()
        rows = next(batches).num_rows
        old.write("update one set v = 'after'", "delete from one where id > 10000")
        seen = {value for batch in batches for value in batch.column("v").to_pylist()}
        assert seen == {"before"}
        assert rows < reading.facts().rows == 20_000
    source.close()


@pytest.mark.parametrize(
    ("table", "words"),
    [("ones", "Did you mean 'one'?"), ("one", "")],
)
def test_a_table_that_is_not_there_is_told(old: Old, table: str, words: str) -> None:
    """With the nearest one; a file that is not there, or is no database, is told by the plan as well."""
    old.small.target("create table one (id bigint primary key)")
    old.small.declare("one", "id: int", made="natural", new_key="id", source={"table": table})
    with pytest.raises(PermanentError, match=r"there is no file 'old shop\.db'"):
        old.small.migrating.plans()
    old.file.write_bytes(b"no database" * 100)
    with pytest.raises(PermanentError, match="file is not a database"):
        old.small.migrating.plans()
    old.file.unlink()
    old.write("create table one (id integer primary key)")
    if words:
        with pytest.raises(DeclarationError) as refused:
            old.small.migrating.plans()
        assert words in str(refused.value)
    else:
        assert old.small.migrating.load("one").failed == {}


def test_a_rejected_row_that_the_target_cannot_even_be_sent_stops_nothing_later(old: Old) -> None:
    """PostgreSQL takes no NUL character in text. When rows are sent again, to find a lost key, that one is left out."""
    old.write(
        "create table names (id integer primary key, name text not null)",
        "insert into names values (1, 'a'), (2, 'b' || char(0)), (3, 'c')",
    )
    small = old.small
    small.target("create table names (new_id bigint generated always as identity primary key, name text)")
    small.declare("names", "id: int; name: str", drop=["id"])
    small.migrating.load_all()
    assert list(small.rejected("names")) == ["2"]
    before = small.rows("select old_id, new_new_id from ferry.id_map_names order by 1")
    small.target("delete from ferry.id_map_names where old_id = 1")
    again = small.migrating.load("names")
    assert (again.failed, again.different) == ({}, 0)
    assert small.rows("select old_id, new_new_id from ferry.id_map_names order by 1") == before


def test_a_key_that_the_target_cannot_even_be_sent_stops_nothing_later(old: Old) -> None:
    """Its row is rejected each time; the others are held against what was loaded, and what is gone is told."""
    old.write(
        "create table codes (code text primary key, v integer)",
        "insert into codes values ('a', 1), ('b' || char(0), 2), ('c', 3)",
    )
    small = old.small
    small.target("create table codes (new_id bigint generated always as identity primary key, v integer)")
    small.declare("codes", "code: str; v: int", key="code", drop=["code"])
    small.migrating.load_all()
    assert list(small.rejected("codes")) == ["b\u2400"]
    old.write("delete from codes where code = 'c'", "update codes set v = v + 1")
    again = small.migrating.load("codes")
    assert (again.failed, again.different, list(small.rejected("codes"))) == ({}, 0, ["b\u2400"])
    assert small.rows("select key from ferry.vanished_rows") == [(["c"],)]

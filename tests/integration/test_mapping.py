"""Values change only as declared: text that is read, columns that are made, and rows for which neither works."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ferry.errors import DeclarationError
from ferry.replay import replay
from shop.demo.databases import create_database, drop_database
from shop.demo.server import EmbeddedServer
from small import Small

SOURCE = """create table old (id int primary key, price text, qty int, state text, extra text, name text, born text,
            big bigint, at timestamptz)"""
TARGET = """create table new (id int primary key, kind varchar(4), total numeric(12,2), state text, city text,
            first text, full_name text, price numeric(10,2), born date, small smallint, note text, at timestamptz)"""


@pytest.fixture(scope="module")
def small(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Two databases that the tests of this module share; each makes its own tables."""
    names = iter(("mapping_old", "mapping_new"))

    def make() -> str:
        create_database(server, name := next(names))
        return server.url(name)

    yield Small(make, tmp_path_factory.mktemp("mapping"))
    for name in ("mapping_old", "mapping_new"):
        drop_database(server, name)


@pytest.fixture
def one(small: Small) -> Iterator[Small]:
    """The same, with an empty table `old` in the one and `new` in the other."""
    small.source(SOURCE)
    small.target(TARGET)
    yield small
    small.source("drop table old")
    small.target("drop table new", "drop schema if exists ferry cascade")


def declare(one: Small, fields: str = "id: int", **attributes: Any) -> Path:
    """The entity `new`, read from `old`; what is not read by `parse` goes nowhere as itself. Returns its folder."""
    columns = ("price", "qty", "state", "extra", "name", "born", "big", "at")
    attributes.setdefault("drop", [column for column in columns if column not in attributes.get("parse", {})])
    one.declare("new", fields, made="natural", new_key="id", source={"table": "old"}, **attributes)
    return one.migrating.folder / "new"


def load(one: Small) -> None:
    """Take everything through all stages."""
    went = one.migrating.load("new")
    assert (went.failed, went.different) == ({}, 0)


def errors(one: Small) -> list[tuple[str, str, str, str, str]]:
    """Key, reason, column, rule and value of each error."""
    return one.rows(
        "select key[1], reason, e->>'column', e->>'rule', e->>'value' from ferry.rejected_rows,"
        " jsonb_array_elements(errors) with ordinality t(e, n) order by 1, n"
    )


def test_every_kind_of_rule_makes_its_column(one: Small) -> None:
    """Constant, expression, lookup, JSON path, split, concat, default, cast and a function, in one row each."""
    one.source(
        "insert into old values (1, '19.90', 3, 'A', '{\"at\": {\"city\": \"Köln\", \"no\": 1.50}}', 'Ada Lovelace',"
        " '2001-02-03', 12, '2020-01-01 00:30+00'), (2, '1', 2, 'B', '{}', 'Bob B', null, 32767, null)"
    )
    folder = declare(
        one,
        mapping={
            "kind": {"constant": "shop"},
            "total": {"expression": "cast(price as decimal(8,2)) * qty"},
            "state": {"from": "state", "lookup": {"A": "active", "B": "blocked"}},
            "city": {"from": "extra", "json": "$.at.city", "default": "unknown"},
            "first": {"from": "name", "split": " ", "part": 1},
            "full_name": {"concat": ["name", "born"], "with": ", "},
            "price": {"from": "price", "cast": "numeric(10,2)"},
            "born": {"from": "born", "cast": "date", "default": "1900-01-01"},
            "small": {"from": "big", "cast": "integer"},
            "note": {"from": ["name", "qty"], "python": "shout"},
        },
        drop=[],
    )
    (folder / "mapping.py").write_text(
        "import pyarrow.compute as pc\n\n\ndef shout(batch):\n    return pc.utf8_upper(batch.column('name'))\n"
    )
    load(one)
    assert one.rows("select * from new order by id") == [
        (1, "shop", Decimal("59.70"), "active", "Köln", "Ada", "Ada Lovelace, 2001-02-03", Decimal("19.90"),
         one.rows("select date '2001-02-03'")[0][0], 12, "ADA LOVELACE", one.rows("select at from new")[0][0]),
        (2, "shop", Decimal("2.00"), "blocked", "unknown", "Bob", "Bob B", Decimal("1.00"),
         one.rows("select date '1900-01-01'")[0][0], 32767, "BOB B", None),
    ]  # fmt: skip
    assert one.migrating.load("new").skipped_chunks == 1


def test_a_row_for_which_a_rule_makes_nothing_is_rejected_with_what_it_was_made_of(one: Small) -> None:
    """Each rule has its bad value; none becomes NULL, the others arrive, and the whole row is kept for replay."""
    good = """{}, '1.5', 1, 'A', '{{"n": 1}}', 'a b', '2001-02-03', 1"""
    changed = (("1.5", "abc"), ("'A'", "'C'"), ("a b", "ab"), ('{{"n": 1}}', "{{"), ('"n": 1', '"n": [1]'),
               ("2001-02-03", "2001-02-30"), (" 1,", " -7,"))  # fmt: skip
    rows = [good, *(good.replace(was, now) for was, now in changed)]
    one.source(*(f"insert into old values ({row.format(number)})" for number, row in enumerate(rows)))
    one.source("insert into old (id) values (8)")
    rules = {
        "total": {"expression": "cast(price as decimal(8,2)) * 2"},
        "state": {"from": "state", "lookup": "states.csv"},
        "first": {"from": "name", "split": " ", "part": 2},
        "city": {"from": "extra", "json": "$.n"},
        "born": {"from": "born", "cast": "date"},
        "note": {"from": "qty", "python": "root"},
    }
    folder = declare(one, mapping=rules)
    (folder / "states.csv").write_text("old,new\nA,active\nB,blocked\n")
    (folder / "mapping.py").write_text(
        "import math\n\nimport pyarrow as pa\n\n\ndef root(batch):\n"
        "    return pa.array([v if v is None else str(math.sqrt(v)) for v in batch['qty'].to_pylist()], pa.string())\n"
    )
    load(one)
    assert one.rows("select id from new order by 1") == [(0,), (8,)]
    assert errors(one) == [
        ("1", "mapping", "total", "expression", "abc"),
        ("2", "mapping", "state", "lookup", "C"),
        ("3", "mapping", "first", "split", "ab"),
        ("4", "mapping", "city", "json", "{"),
        ("5", "mapping", "city", "json", '{"n": [1]}'),
        ("6", "mapping", "born", "cast", "2001-02-30"),
        ("7", "mapping", "note", "python", "-7"),
    ]
    said = one.rows(
        "select errors->0->>'message' from ferry.rejected_rows where key in ('{1}', '{7}') order by key"
    )
    assert 'Could not convert string "abc"' in said[0][0]
    assert "math domain error" in said[1][0]
    assert one.outcomes("new") == {"extracted": 9, "inserted": 2, "rejected": 7}
    # Mended: a longer table, and another expression; only the rejected rows go through again.
    (folder / "states.csv").write_text("old,new\nA,active\nB,blocked\nC,closed\n")
    declare(
        one, mapping={**rules, "total": {"expression": "coalesce(try_cast(price as decimal(8,2)), 0) * 2"}}
    )
    done = replay(one.migrating.plans(), one.migrating.settings)[0]
    assert (done.loaded, done.rejected) == (2, 5)
    assert one.rows("select id, total, state from new where id in (1, 2) order by 1") == [
        (1, Decimal(0), "active"), (2, Decimal("3.00"), "closed"),
    ]  # fmt: skip
    assert one.migrating.load("new").different == 0


def test_a_value_that_a_mapping_is_made_of_is_masked_where_it_is_personal(one: Small) -> None:
    """Neither the value nor a message that could repeat it shows; the row itself is kept whole, for replay."""
    one.source("insert into old (id, price, name) values (1, 'secret', 'x')")
    declare(
        one,
        "id: int; price: Annotated[str, Personal()]; name: Annotated[str, Personal()]",
        parse={"name": "integer"},
        mapping={
            "total": {"expression": "cast(price as decimal(8,2))"},
            "small": {"from": "name", "cast": "integer"},
        },
    )
    contract = one.migrating.folder / "new" / "contract.py"
    contract.write_text(contract.read_text().replace("import Contract", "import Contract, Personal"))
    load(one)
    assert errors(one) == [("1", "parse", "name", "integer", "***")]
    declare(
        one,
        "id: int; price: Annotated[str, Personal()]",
        mapping={"total": {"expression": "cast(price as int)"}},
    )
    contract.write_text(contract.read_text().replace("import Contract", "import Contract, Personal"))
    load(one)
    assert errors(one) == [("1", "mapping", "total", "expression", "***")]
    assert "secret" not in one.rows("select errors::text from ferry.rejected_rows")[0][0]


def test_text_is_read_before_the_contract_judges_it(one: Small) -> None:
    """The contract sees the number; unread text is rejected as it was, beside what the contract says of the row."""
    one.source(
        "insert into old (id, price, qty, born) values (1, '1.234,50', 1, '3.2.2001'), (2, '1,2,3', 1, '3.2.2001'),"
        " (3, '-1,00', -1, '30.2.2001'), (4, '', 1, null)"
    )
    declare(
        one,
        "id: int; price: Annotated[decimal.Decimal, Field(ge=0)] | None; qty: Annotated[int, Field(gt=0)]",
        parse={
            "price": {"type": "numeric(10,2)", "decimal": ",", "thousands": ".", "empty_is_null": True},
            "born": {"type": "date", "format": "%d.%m.%Y"},
        },
    )
    load(one)
    assert one.rows("select id, price, born::text from new order by 1") == [
        (1, Decimal("1234.50"), "2001-02-03"), (4, None, None),
    ]  # fmt: skip
    assert errors(one) == [
        ("2", "parse", "price", "numeric(10,2)", "1,2,3"),
        ("3", "parse", "born", "date", "30.2.2001"),
        ("3", "parse", "price", "greater_than_equal", "-1.00"),
        ("3", "parse", "qty", "greater_than", "-1"),
    ]
    # The text is what is kept, so another rule can read it.
    declare(one, parse={"price": {"type": "numeric(10,2)", "decimal": ","}, "born": "text"}, drop=["qty", "born",
            "state", "extra", "name", "big", "at"])  # fmt: skip
    done = replay(one.migrating.plans(), one.migrating.settings)[0]
    assert (done.loaded, done.rejected) == (1, 1)
    assert one.rows("select price from new where id = 3") == [(Decimal("-1.00"),)]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"total": {"expression": "price * qty"}}, ["mapping.total.expression", "cannot be computed"]),
        ({"total": {"expression": "prise"}}, ["mapping.total.expression", '"prise" not found']),
        ({"total": {"expression": "qty / 3"}}, ["mapping.total", "double precision", "cannot be carried exactly"]),
        ({"total": {"expression": "sum(qty)"}}, ["it looks at other rows"]),
        ({"total": {"expression": "count(*) over ()"}}, ["it looks at other rows"]),
        ({"note": {"expression": "(select content from read_text('/etc/passwd'))"}}, ["it looks at other rows"]),
        ({"note": {"expression": "[1, 2]"}}, ["which no column takes"]),
        ({"small": {"from": "price"}}, ["what the rule makes (text) cannot be carried exactly into small (smallint)"]),
        ({"at": {"expression": "cast(born as timestamp)"}}, ["cannot be carried exactly into at (timestamp with"]),
        ({"small": {"constant": "x"}}, ["'x' is no smallint", "mapping.small.constant"]),
        ({"small": {"constant": 40000}}, ["'40000' is no smallint"]),
        ({"total": {"constant": 1.234}}, ["'1.234' is no numeric(12,2)"]),
        ({"price": {"from": "price", "cast": "numeric(10,3)"}}, ["cannot be carried exactly"]),
        ({"price": {"from": "price", "cast": "number"}}, ["no type 'number'"]),
        ({"kind": {"from": "nme"}}, ["no column 'nme'", "Did you mean 'name'?"]),
        ({"kynd": {"constant": "x"}}, ["no column 'kynd'", "Did you mean 'kind'?"]),
        ({"note": {"from": "name", "python": "missing"}}, ["no function 'missing'"]),
        ({"note": {"from": "name", "python": "broken"}}, ["fails on a batch without rows", "ZeroDivisionError"]),
        ({"note": {"from": "name", "lookup": "none.csv"}}, ["the lookup table cannot be read", "none.csv"]),
        ({"note": {"from": "name", "lookup": "twice.csv"}}, ["twice.csv:3", "'A' stands there twice"]),
        ({"city": {"from": "extra", "json": "$.a[*]"}}, ["'$.a[*]' is no path"]),
        ({"note": {"concat": ["name", "at"]}}, ["can be written as text in more than one way"]),
        ({"note": {}}, ["needs one of `from`"]),
        ({"note": {"from": "name", "split": " "}}, ["`split` and `part` belong together"]),
        ({"note": {"constant": "a", "expression": "1"}}, ["needs one of"]),
        ({"id": {"constant": 1}}, ["the source column 'id' goes nowhere"]),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused_in_the_plan(
    one: Small, mapping: dict[str, Any], words: list[str]
) -> None:
    """With its place, what was found and what would do; nothing is read or written."""
    folder = declare(one, mapping=mapping)
    (folder / "mapping.py").write_text("def broken(batch):\n    return 1 / batch.num_rows\n")
    (folder / "twice.csv").write_text("old,new\nA,1\nA,2\n")
    with pytest.raises(DeclarationError) as refused:
        one.migrating.plans()
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("parse", "words"),
    [
        ({"qty": "integer"}, "qty is integer and no text"),
        ({"prise": "integer"}, "Did you mean 'price'?"),
        ({"price": "integr"}, "Did you mean 'integer'?"),
    ],
)
def test_a_parse_rule_that_cannot_be_is_refused_in_the_plan(
    one: Small, parse: dict[str, Any], words: str
) -> None:
    """A column that is no text, one that is not there, and a type that is not known."""
    declare(one, parse=parse)
    with pytest.raises(DeclarationError) as refused:
        one.migrating.plans()
    assert words in str(refused.value)


def test_the_plan_hash_follows_what_a_mapping_does_and_not_how_it_is_written(one: Small) -> None:
    """White space and comments change nothing; another expression, another table or another function does."""
    expression = "case when qty > 1 then 'a  b' else 'c' end"
    rules = {"note": {"expression": expression}, "kind": {"from": "state", "lookup": "kinds.csv"},
             "city": {"from": "name", "python": "town"}}  # fmt: skip
    folder = declare(one, mapping=rules)
    code, table = folder / "mapping.py", folder / "kinds.csv"
    code.write_text("def town(batch):\n    return batch.column('name')\n")
    table.write_text("old,new\nA,x\n")

    def hash_of() -> str:
        return one.migrating.plans()["new"].plan_hash

    seen = [hash_of()]
    code.write_text('def town(batch):\n    """The town."""\n    # it is\n    return  batch.column("name")\n')
    declare(one, mapping={**rules, "note": {"expression": "case  when qty > 1\n then 'a  b' else 'c' end"}})
    assert hash_of() == seen[0]
    code.write_text("def town(batch):\n    return batch.column('name').slice(0)\n")
    seen.append(hash_of())
    table.write_text("old,new\nA,y\n")
    seen.append(hash_of())
    declare(one, mapping={**rules, "note": {"expression": expression.replace("a  b", "a b")}})
    seen.append(hash_of())
    declare(one, mapping={**rules, "note": {"expression": expression}}, parse={"price": "integer"}, drop=["price",
            "extra", "born", "big", "at"])  # fmt: skip
    seen.append(hash_of())
    assert len(set(seen)) == len(seen)


def test_the_lineage_of_a_made_column_names_what_it_is_made_of(one: Small) -> None:
    """An expression's columns are those without which it cannot be bound; a constant has none."""
    declare(
        one,
        mapping={
            "total": {"expression": "cast(price as decimal(8,2)) * qty"},
            "full_name": {"concat": ["name", "born"]},
            "kind": {"constant": "x"},
        },
    )
    columns = one.migrating.plans()["new"].columns
    assert {column.target: column.origins for column in columns} == {
        "id": ("id",), "total": ("price", "qty"), "full_name": ("name", "born"), "kind": (),
    }  # fmt: skip


def test_plain_renames_cost_nothing(one: Small) -> None:
    """Without rules the very table that was staged is what is loaded."""
    one.source("insert into old (id, name) values (1, 'x')")
    declare(one, columns={"name": "note"}, drop=["price", "qty", "state", "extra", "born", "big", "at"])
    plan = one.migrating.plans()["new"]
    assert not plan.changes
    assert plan.sent == plan.schema
    load(one)
    assert one.rows("select note from new") == [("x",)]

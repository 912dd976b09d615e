"""Every value that PostgreSQL can hold arrives as it was, or is refused with its reason."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ferry.catalogue import MOST_DIGITS
from ferry.errors import DeclarationError
from ferry.replay import replay
from ferry.stage import Stage
from ferry.targets.types import REFUSED
from shop.demo.databases import create_database, drop_database
from shop.demo.server import OWNER, EmbeddedServer
from small import Small
from values import EXACT, MADE, NOT_HERE, OF_USERS

PAGE = Path(__file__).parents[2] / "docs" / "values.md"
ALL = {**EXACT, **OF_USERS}
NAMED = {type_: f"c{number}" for number, type_ in enumerate(ALL)}


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


@pytest.fixture(scope="module")
def carried(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """One table with a column of every type went through all stages; the servers' settings for text differ."""
    names = iter(("values_old", "values_new"))

    def make() -> str:
        create_database(server, name := next(names))
        return server.url(name)

    small = Small(make, tmp_path_factory.mktemp("values"))
    columns = ", ".join(f"{name} {type_}" for type_, name in NAMED.items())
    ddl = (*MADE, f"create table every (id int primary key, {columns})")
    small.source(*ddl)
    small.target(*ddl)
    with psycopg.connect(small.migrating.source_url, autocommit=True) as source:
        for row in range(1 + max(map(len, ALL.values()))):
            given = {t: values[row - 1] for t, values in ALL.items() if 0 < row <= len(values)}
            source.execute(
                sql.SQL("insert into every (id{}) values ({}{})").format(
                    sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(NAMED[t])) for t in given),
                    sql.Literal(row),
                    sql.SQL("").join(
                        sql.SQL(", {}::{}").format(sql.Literal(v), sql.SQL(t)) for t, v in given.items()
                    ),
                )
            )
        for setting in ("intervalstyle = 'sql_standard'", "datestyle = 'German'", "timezone = 'Asia/Tokyo'",
                        "extra_float_digits = -3", "bytea_output = 'escape'"):  # fmt: skip
            source.execute(f"alter role {source.info.user} in database values_old set {setting}".encode())
    small.declare("every", "id: int", made="natural", new_key="id")
    went = small.migrating.load("every")
    assert (went.failed, went.different) == ({}, 0)
    yield small
    for name in ("values_old", "values_new"):
        drop_database(server, name)


@pytest.mark.parametrize("type_", ALL)
def test_a_type_is_carried_exactly(carried: Small, type_: str) -> None:
    """NULL and the values at the type's edges: the same text, and the same bytes of the server's binary form."""
    read = sql.SQL("select id, {} from every order by id").format(sql.Identifier(NAMED[type_]))
    shown = sql.SQL("select id, {}::text from every order by id").format(sql.Identifier(NAMED[type_]))
    found = []
    for url in (carried.migrating.source_url, carried.migrating.target_url):
        with psycopg.connect(url) as connection:
            connection.execute("set intervalstyle = 'postgres'; set datestyle = 'ISO'; set timezone = 'UTC'")
            connection.execute("set extra_float_digits = 1; set bytea_output = 'hex'")
            text = connection.execute(shown).fetchall()
            if type_ in OF_USERS:  # their binary form names types by number, which no two databases share
                found.append((text, b""))
                continue
            with connection.cursor().copy(
                sql.SQL("copy ({}) to stdout (format binary)").format(read)
            ) as binary:
                found.append((text, b"".join(bytes(block) for block in binary)))
    assert sum(value is not None for _, value in found[0][0]) == len(ALL[type_])
    assert found[0] == found[1]


def a_pair(small: Small, old: str, new: str, *values: str, made: tuple[str, ...] = ()) -> None:
    """One table on both sides: `id`, and `v` of the given types; `made` is run in both systems first."""
    small.source(*made, f"create table one (id int primary key, v {old})")
    small.target(*made, f"create table one (id int primary key, v {new})")
    for row, value in enumerate(values, 1):
        small.source(f"insert into one values ({row}, $${value}$$)")


@pytest.fixture
def refused(carried: Small) -> Iterator[Callable[[str, str], str]]:
    """`refused(old, new)` plans a column of these types, in the databases of `carried`, and gives the refusal."""

    def call(old: str, new: str) -> str:
        carried.source(f"create table one (id int primary key, v {old})")
        carried.target(f"create table one (id int primary key, v {new})")
        carried.declare("one", "id: int", made="natural", new_key="id")
        with pytest.raises(DeclarationError) as told:
            carried.migrating.plans("one")
        return str(told.value)

    yield call
    for side in (carried.source, carried.target):
        side("drop table one", "drop type if exists pair")


def load(small: Small, fields: str = "id: int") -> None:
    """Declare `one` with these fields and take it through all stages."""
    small.declare("one", fields, made="natural", new_key="id")
    went = small.migrating.load("one")
    assert (went.failed, went.different) == ({}, 0)


Refused = Callable[[str, str], str]


@pytest.mark.parametrize("type_", [*sorted(REFUSED), "aclitem[]", "regclass[]"])
def test_a_type_that_means_nothing_elsewhere_is_refused_with_its_reason(refused: Refused, type_: str) -> None:
    """The plan names the column, the type and the reason; nothing is written."""
    said = refused(type_, type_)
    assert f"v ({type_}) cannot be carried" in said
    assert REFUSED[type_.removesuffix("[]")] in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("timestamp", "timestamp(3)"), ("timestamptz(6)", "timestamptz(0)"), ("time", "time(2)"),
        ("timestamp", "timestamptz"), ("timestamptz", "timestamp"), ("timestamp", "date"),
        ("numeric(10,3)", "numeric(10,2)"), ("numeric", "numeric(10,2)"), ("double precision", "real"),
        ("double precision", "numeric"), ("bigint", "double precision"), ("bigint", "numeric(10,-2)"),
        ("text", "char(5)"), ("char(4)", "char(5)"), ("mood", "char(5)"), ("text", "integer"), ("text", "jsonb"),
        ("json", "jsonb"),
        ("bit(3)", "bit(4)"), ("interval", "interval day to second"), ("integer[]", "text[]"),
        ("numeric(10,3)[]", "numeric(10,2)[]"),
    ],
)  # fmt: skip
def test_what_could_be_rounded_cut_or_moved_is_refused_in_the_plan(
    refused: Refused, old: str, new: str
) -> None:
    """Types between which some value would change."""
    assert "cannot be carried exactly" in refused(old, new)


@pytest.mark.parametrize("there", ["b text, a text", "a text, b varchar(2)", "a text"])
@pytest.mark.parametrize("array", ["", "[]"])
def test_a_composite_whose_parts_differ_is_refused(
    carried: Small, refused: Refused, there: str, array: str
) -> None:
    """One name on both sides, but the parts are swapped, narrower or fewer: as text nobody would see it."""
    carried.source("create type pair as (a text, b text)")
    carried.target(f"create type pair as ({there})")
    assert "cannot be carried exactly" in refused(f"pair{array}", f"pair{array}")


def test_a_type_of_the_same_shape_in_another_schema_is_the_same(small: Small) -> None:
    """Its name on the two sides is qualified differently, its parts are the same."""
    small.source("create type place as (a text, b point)", "create table one (id int primary key, v place)")
    small.target("create schema new", "create type new.place as (a text, b point)")
    small.target("create table one (id int primary key, v new.place)")
    small.source("insert into one values (1, row('x, y', '(1,2)'))")
    load(small)
    assert small.rows("select v::text from one") == [('("x, y","(1,2)")',)]


def test_a_name_of_an_object_is_carried_as_text_where_the_target_has_text(small: Small) -> None:
    """A `regclass` means a table of its own database: into a text column its name goes."""
    a_pair(small, "regclass", "text", "pg_type")
    load(small)
    assert small.rows("select v from one") == [("pg_type",)]


def test_a_contract_sees_numbers_and_uuids_that_travel_as_text_as_what_they_are(small: Small) -> None:
    """`Decimal` and `UUID` judge a `numeric` without digits and a `uuid`; a field that says `str` sees text."""
    small.source(
        "create table one (id uuid primary key, v numeric, w uuid, x numeric)",
        "insert into one select ('00000000-0000-4000-8000-00000000000' || i)::uuid, i - 1.5,"
        " gen_random_uuid(), i from generate_series(1, 3) i",
        "insert into one values ('00000000-0000-4000-8000-000000000009', 'NaN', null, 9)",
    )
    small.target("create table one (id uuid primary key, v numeric, w uuid, x numeric)")
    load(small, "id: uuid.UUID; v: Annotated[decimal.Decimal, Field(ge=0)]; w: uuid.UUID | None; x: str")
    assert small.rows("select right(id::text, 1), v from one order by 1") == [("2", 0.5), ("3", 1.5)]
    assert set(small.rejected("one").values()) == {"contract"}
    assert len(small.rejected("one")) == 2


def test_json_becomes_jsonb_where_that_is_declared(small: Small) -> None:
    """Key order and repeated keys go, so a rule has to say it; text that is no JSON is rejected as it was."""
    small.source("create table one (id int primary key, a json, b json, c text)")
    small.target("create table one (id int primary key, a jsonb, b jsonb, c jsonb)")
    long = "1" * 5_000
    small.source(
        f"""insert into one values (1, '{{"b": 1,  "a": 2, "b": 3}}', '[1.50]', '"x"'), (2, null, '{long}', null),"""
        """ (3, 'null', null, 'NaN'), (4, null, null, '{"a": }'), (5, null, null, '"\\u0000"')"""
    )
    small.declare(
        "one", "id: int", made="natural", new_key="id", parse={"a": "jsonb", "c": "jsonb"},
        mapping={"b": {"from": "b", "cast": "jsonb"}},
    )  # fmt: skip
    assert small.migrating.load("one").failed == {}
    assert small.rows("select id, a::text, b::text, c::text from one") == [
        (1, '{"a": 2, "b": 3}', "[1.50]", '"x"'), (2, None, long, None),
    ]  # fmt: skip
    assert small.rejected("one") == {"3": "parse", "4": "parse", "5": "target_refused"}


def test_a_month_that_becomes_thirty_days_is_an_update(small: Small) -> None:
    """To PostgreSQL both intervals are equal; they are not the same value."""
    a_pair(small, "interval", "interval", "1 mon")
    load(small)
    small.source("update one set v = '30 days'")
    load(small)
    assert small.outcomes("one") == {"extracted": 1, "updated": 1}
    assert small.rows("select v::text from one") == [("30 days",)]


HARD = {
    "date": ("infinity", "-infinity", "5874897-12-31", "0044-03-15 BC", "2020-02-02"),
    "timestamp": ("infinity", "-infinity", "294276-12-31 23:59:59.999999", "4713-01-01 00:00:00 BC",
                  "2020-02-02 10:11:12.5"),
    "timestamptz": ("infinity", "-infinity", "12020-01-01 00:00:00+00", "0001-01-01 00:00:00+00 BC",
                    "2020-02-02 10:11:12+00"),
    "time": ("24:00:00", "23:59:59.999999"),
}  # fmt: skip


@pytest.mark.parametrize("type_", HARD)
def test_a_moment_that_python_cannot_hold_is_rejected_kept_and_replayed_exactly(
    small: Small, type_: str
) -> None:
    """A contract that asks for dates refuses infinity, BC and far years row by row; let in, they are replayed."""
    a_pair(small, type_, type_, *HARD[type_])
    kind = {"date": "date", "time": "time"}.get(type_, "datetime")
    load(small, f"id: int; v: datetime.{kind}")
    held = small.outcomes("one")
    assert held["rejected"] == len(HARD[type_]) - 1
    kept = small.rows("select row->>'v' from ferry.rejected_rows order by key[1]")
    assert [value for (value,) in kept] == list(HARD[type_][:-1])
    small.declare("one", "id: int", made="natural", new_key="id")
    done = replay(small.migrating.plans(), small.migrating.settings)
    assert (done[0].loaded, done[0].rejected) == (len(HARD[type_]) - 1, 0)
    assert [value for (value,) in small.rows("select v::text from one order by id")] == list(HARD[type_])
    assert small.migrating.load("one").different == 0


def test_not_a_number_among_numbers_of_declared_digits_rejects_its_row_alone(small: Small) -> None:
    """Numbers of up to 38 declared digits travel as such, and those have no NaN: through a view it is carried.

    It travels beside its row in a column that a contract does not see, not even one that forbids others.
    """
    assert MOST_DIGITS == 38
    a_pair(small, "numeric(10,2)", "numeric", "1.50", "NaN", "2.25")
    load(small, "id: int; v: decimal.Decimal; model_config = {'extra': 'forbid'}")
    assert small.rows("select id, v::text from one order by id") == [(1, "1.50"), (3, "2.25")]
    told = "select reason, errors->0->>'column', errors->0->>'rule', errors->0->>'value' from ferry.rejected_rows"
    assert small.rows(told) == [("contract", "v", "type", "NaN")]
    small.source("create view wide as select id, v::numeric as v from one")
    small.declare("one", "id: int", made="natural", new_key="id", source={"table": "wide"})
    assert small.migrating.load("one").failed == {}
    assert small.rows("select v::text from one order by id") == [("1.50",), ("NaN",), ("2.25",)]


@pytest.fixture
def encoded(server: EmbeddedServer) -> Iterator[Callable[[str], str]]:
    """`encoded("LATIN1")` makes a database with that encoding and returns its URL."""
    made = []

    def make(encoding: str) -> str:
        made.append(f"encoded_{len(made)}")
        with server.admin() as admin:
            admin.execute(f"drop database if exists {made[-1]}".encode())
            statement = "create database {} owner {} encoding '{}' locale 'C' template template0"
            admin.execute(statement.format(made[-1], OWNER, encoding).encode())
        return server.url(made[-1])

    yield make
    for name in made:
        drop_database(server, name)


def test_text_that_is_not_utf_8_is_rejected_and_never_replayed_as_something_else(
    small: Small, encoded: Callable[[str], str]
) -> None:
    """A database without an encoding holds any bytes: such rows are named, the others arrive."""
    small.migrating.source_url = encoded("SQL_ASCII")
    a_pair(small, "text", "text", "whole")
    small.source(r"insert into one values (2, E'caf\xe9')")
    load(small, "id: int; v: str")
    assert small.rows("select v from one") == [("whole",)]
    assert small.rows("select errors->0->>'rule', row->>'v' from ferry.rejected_rows") == [
        ("invalid_utf8", "caf\\xe9")
    ]
    small.declare("one", "id: int", made="natural", new_key="id")
    done = replay(small.migrating.plans(), small.migrating.settings)
    assert (done[0].tried, done[0].loaded) == (0, 0)


def test_rows_are_not_asked_for_by_a_key_that_may_be_no_text(
    small: Small, encoded: Callable[[str], str]
) -> None:
    """Where nothing says how text is encoded, a key of text is not compared by what it would be in UTF-8: all is read.

    A number is a number there too.
    """
    small.migrating.source_url = encoded("SQL_ASCII")
    for table, key in (("one", "text"), ("two", "int")):
        small.source(f"create table {table} (id {key} primary key, v int)",
                     f"insert into {table} values ('1', 1), ('2', 2)")  # fmt: skip
        small.target(f"create table {table} (id {key} primary key, v int)")
    small.source(r"insert into one values (E'caf\xe9', 3)")
    small.declare("one", "id: str; v: int", made="natural", new_key="id")
    small.declare("two", "id: int; v: int", made="natural", new_key="id")
    small.migrating.load_all()
    small.source(r"update one set v = 20 where id in ('2', E'caf\xe9')", "update two set v = 20 where id = 2")
    for table, hashed in (("one", ()), ("two", ("id",))):
        loaded = small.migrating.load(table)
        assert (loaded.failed, loaded.different) == ({}, 0)
        manifest = Stage(small.migrating.settings.stage_root, table, "all").manifest()
        assert manifest is not None
        assert manifest.hashed == hashed
        assert small.rows(f"select v from {table} order by 1") == [(1,), (20,)]
    assert small.rows("select reason, row->>'id', row->>'v' from ferry.rejected_rows") == [
        ("contract", "caf\\xe9", "20")
    ]


def test_text_of_another_encoding_arrives_and_a_target_of_another_is_refused(
    small: Small, encoded: Callable[[str], str]
) -> None:
    """From LATIN1 to UTF8 `é` is the same letter in other bytes; the way back could meet letters that LATIN1 lacks."""
    target = small.migrating.target_url
    small.migrating.source_url = encoded("LATIN1")
    a_pair(small, "text", "text")
    small.source("insert into one values (1, 'caf' || chr(233))")
    load(small)
    assert small.rows("select v from one") == [("café",)]
    small.migrating.source_url, small.migrating.target_url = target, encoded("LATIN1")
    small.migrating.__dict__.pop("settings")
    small.target("create table one (id int primary key, v text)")
    with pytest.raises(DeclarationError, match="encoded in LATIN1"):
        small.migrating.plans()


def test_a_value_of_a_hundred_megabytes_arrives_or_is_kept_whole(small: Small) -> None:
    """Large text and bytes are carried; in a row that is rejected they are kept, and their beginning is shown."""
    small.source("create table one (id int primary key, v text, w bytea)")
    small.target("create table one (id int primary key, v text, w bytea)")
    small.source(
        "insert into one values (1, repeat('0123456789', 10000000), null),"
        " (2, 'small', convert_to(repeat('x', 10000000), 'UTF8')), (-3, repeat('y', 5000000), null)"
    )
    load(small, "id: Annotated[int, Field(gt=0)]; v: str")
    query = "select id, length(v), length(w), md5(v), md5(w) from one where id > 0 order by 1"
    with psycopg.connect(small.migrating.source_url) as source:
        assert source.execute(query.encode()).fetchall() == small.rows(query)
    kept = small.rows("select length(row->>'v'), length(errors::text) < 1000 from ferry.rejected_rows")
    assert kept == [(5_000_000, True)]


def a_wide_pair(small: Small, width: int) -> str:
    """One table on both sides with `id` and that many columns; returns the fields of its contract."""
    names = [f"c{number}" for number in range(width)]
    columns = ", ".join(f"{name} int" for name in names)
    small.source(f"create table one (id int primary key, {columns})")
    small.target(f"create table one (id int primary key, {columns})")
    small.source(f"insert into one select i, {', '.join(['i'] * width)} from generate_series(1, 20) i")
    return "id: int; " + "; ".join(f"{name}: int" for name in names)


def test_a_table_of_1500_columns_is_carried(small: Small) -> None:
    """The contract names all of them."""
    load(small, a_wide_pair(small, 1_500))
    assert small.rows("select count(*), sum(c0 + c1499) from one") == [(20, 420)]


def test_a_table_with_more_columns_than_a_load_can_hold_is_refused_in_the_plan(small: Small) -> None:
    """PostgreSQL's tables end at 1,600, and the load needs some for itself: part of the columns has to be dropped."""
    small.declare("one", a_wide_pair(small, 1_599), made="natural", new_key="id")
    with pytest.raises(DeclarationError, match="1600 columns are more than can be loaded"):
        small.migrating.plans()


def test_the_page_says_of_every_built_in_type_what_becomes_of_it(small: Small) -> None:
    """docs/values.md names each base, range and multirange type of this server, under the right heading."""
    rows = re.findall(r"^\| (`.*?) \| (exact|refused)", PAGE.read_text(), re.MULTILINE)
    said = {name: verdict for names, verdict in rows for name in re.findall(r"`([^`]+)`", names)}
    known = {
        name
        for (name,) in small.rows(
            "select typname::text from pg_type where typtype in ('b', 'r', 'm') and typcategory <> 'A'"
            " and typnamespace = 'pg_catalog'::regnamespace"
        )
    }
    assert known - set(said) == set()
    tested = {
        name.strip("_")
        for (name,) in small.rows(
            "select typname::text from unnest(%s::text[]) given, pg_type where oid = given::regtype",
            list(EXACT),
        )
    }
    assert {name for name in known if said[name] == "exact"} - tested == set(NOT_HERE)
    assert {name for name in known if said[name] == "refused"} == set(REFUSED)

"""Target tables of every shape: they are filled exactly, or the plan says why not."""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from asking import wait_for
from ferry.errors import DeclarationError
from ferry.loader import Loader
from ferry.replay import replay
from ferry.rollback import roll_back
from small import Small


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


def test_quoted_mixed_case_and_reserved_names(small: Small) -> None:
    """Schema, table, columns and key need quotes on both sides; load, settle, reload and rollback manage."""
    small.source(
        'create table "Order" (id int primary key, "select" text, "two words" text, "ÄÖ" int)',
        """insert into "Order" values (1, 'a', 'b', 1), (2, 'c', 'd', null)""",
    )
    small.target(
        'create schema "New Shop"',
        'create table "New Shop"."Table" ("User" bigint generated always as identity primary key,'
        ' "From" text, "where" text, "Ü" int)',
    )
    small.declare(
        "orders", "id: int; select: str", source={"table": "Order"}, target="New Shop.Table", new_key="User",
        columns={"select": "From", "two words": "where", "ÄÖ": "Ü"},
    )  # fmt: skip
    small.migrating.load_all()
    query = 'select "From", "where", "Ü" from "New Shop"."Table" order by 1'
    assert small.rows(query) == [("a", "b", 1), ("c", "d", None)]
    small.source("""update "Order" set "two words" = 'x' where id = 2""")
    went = small.migrating.load("orders")
    assert (went.outcomes.updated, went.different) == (1, 0)
    assert [one.removed for one in roll_back(small.migrating.plans(), small.migrating.settings)] == [2]


def test_enums_domains_arrays_json_and_generated_columns(small: Small) -> None:
    """Each arrives exactly and compares as unchanged; what the enum or the domain does not take is one rejected row."""
    small.source(
        "create type mood as enum ('good', 'bad', 'odd')",
        "create table things (id int primary key, mood text, amount int, tags text[], body jsonb, raw json,"
        " span interval, at timestamptz, uid uuid, bits bytea)",
        "insert into things values"
        """ (1, 'good', 5, '{a,"b, c",null}', '{"b": 1, "a": [1.50]}', '{"b": 1,  "a": 2}', '1 mon 2 days',"""
        " '2020-01-01 00:00:00.123456+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff'),"
        " (2, 'odd', 5, '{}', 'null', null, null, null, null, null),"
        " (3, 'bad', -5, null, null, null, null, null, null, null)",
    )
    small.target(
        "create type mood as enum ('good', 'bad')",
        "create domain positive as int check (value > 0)",
        "create table things (new_id bigint generated always as identity primary key, mood mood, amount positive,"
        " tags text[], body jsonb, raw json, span interval, at timestamptz, uid uuid, bits bytea,"
        " twice int generated always as (amount * 2) stored)",
    )
    small.declare("things", "id: int")
    small.migrating.load_all()
    assert small.rejected("things") == {"2": "target_refused", "3": "target_refused"}
    row = small.rows(
        "select mood::text, amount::int, tags, body::text, raw::text, span::text, at at time zone 'UTC',"
        " uid::text, bits, twice from things"
    )
    assert [str(value) for value in row[0]] == [
        "good", "5", "['a', 'b, c', None]", '{"a": [1.50], "b": 1}', '{"b": 1,  "a": 2}', "1 mon 2 days",
        "2019-12-31 22:00:00.123456", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b'\\x00\\xff'", "10",
    ]  # fmt: skip
    small.target("truncate ferry.ledger")
    again = small.migrating.load("things")
    assert (again.outcomes.unchanged, again.outcomes.updated, again.different) == (1, 0, 0)


def test_a_partitioned_table_is_filled_through_its_parent(small: Small) -> None:
    """Rows find their partition; one for which there is none is rejected alone."""
    small.source(
        "create table visits (id int primary key, day date)",
        "insert into visits values (1, '2020-02-01'), (2, '2021-02-01'), (3, '2031-01-01')",
    )
    small.target(
        "create sequence visit_ids",
        "create table visits (id int, day date not null, primary key (id, day)) partition by range (day)",
        "create table visits_2020 partition of visits for values from ('2020-01-01') to ('2021-01-01')",
        "create table visits_2021 partition of visits for values from ('2021-01-01') to ('2022-01-01')",
    )
    small.declare("visits", "id: int", new_key=["id", "day"], made="natural")
    small.migrating.load_all()
    assert small.rows("select tableoid::regclass::text, id from visits order by 2") == [
        ("visits_2020", 1), ("visits_2021", 2),
    ]  # fmt: skip
    assert small.rejected("visits") == {"3": "target_refused"}


def test_a_trigger_that_alters_rows_is_named_and_nothing_is_kept(small: Small) -> None:
    """The target would hold something else than the source: the chunk is undone and the message says why."""
    small.source("create table names (id int primary key, name text)", "insert into names values (1, 'Ada')")
    small.target(
        "create table names (new_id bigint generated always as identity primary key, name text)",
        "create function shout() returns trigger language plpgsql as"
        " $$ begin new.name = upper(new.name); return new; end $$",
        "create trigger shout before insert on names for each row execute function shout()",
    )
    small.declare("names", "id: int; name: str")
    went = small.migrating.load("names")
    assert "a trigger or rule of the target table changes or swallows rows" in went.failed["all"]
    assert small.rows("select count(*) from names") == [(0,)]
    assert small.rows("select count(*) from ferry.id_map_names") == [(0,)]
    small.target("alter table names disable trigger shout")
    assert not small.migrating.load("names").failed


def test_row_level_security_that_hides_rows_is_refused(small: Small) -> None:
    """Rows that the load cannot see it would load twice: the plan refuses, and says who may load."""
    small.source("create table names (id int primary key, name text)")
    small.target(
        "create table names (new_id bigint generated always as identity primary key, name text)",
        "alter table names enable row level security",
        "create policy only_x on names using (name = 'x')",
    )
    small.declare("names", "id: int; name: str")
    assert small.migrating.plans()["names"].name == "names"  # its owner sees every row
    small.target("alter table names force row level security")
    with pytest.raises(DeclarationError, match=r"row-level security hides rows.*Load as the table's owner"):
        small.migrating.plans()


def test_a_percent_sign_in_a_name_is_refused(small: Small) -> None:
    """The driver would read it as a placeholder; the plan says so, and a dropped column may have one."""
    small.source('create table names (id int primary key, "100%" text)')
    small.target(
        'create table names (new_id bigint generated always as identity primary key, "100%" text, other text)'
    )
    small.declare("names", "id: int")
    with pytest.raises(DeclarationError, match="has a percent sign in its name"):
        small.migrating.plans()
    small.declare("names", "id: int", drop=["100%"])
    assert small.migrating.plans().order == ("names",)


@pytest.mark.parametrize(
    ("columns", "key", "words"),
    [
        ("{n}1 int, {n}2 int, v int", ["{n}1", "{n}2"], "Ferry calls them old_"),
        ("id int, {n}1 int, {n}2 int", ["id"], "Ferry calls them c_"),
    ],
)
def test_names_that_would_be_cut_to_one_are_refused(
    small: Small, columns: str, key: list[str], words: str
) -> None:
    """Two that PostgreSQL tells apart by the last character alone are no longer two where Ferry adds a few."""
    name = "n" * 62
    columns, key = columns.replace("{n}", name), [one.replace("{n}", name) for one in key]
    made = "create table x (new_id int generated always as identity primary key, "
    small.source(f"create table x ({columns})")
    small.target(f"{made}{columns})")
    small.declare("x", "pass", key=key)
    with pytest.raises(DeclarationError, match=words):
        small.migrating.plans()


@pytest.mark.parametrize("names", [("x", "x_new", "x_pkey"), ("x_pkey", "x_new", "x")])
def test_entities_may_be_called_as_an_index_is(small: Small, names: tuple[str, ...]) -> None:
    """Indexes and tables share their names: every entity has its map, also where an earlier version named the index."""
    for table, name in zip(("one", "two", "three"), names, strict=True):
        small.source(f"create table {table} (id int primary key)", f"insert into {table} values (1)")
        small.target(f"create table {table} (new_id bigint generated always as identity primary key)")
        small.declare(name, "id: int", source={"table": table}, target=table)
    for name in names:
        assert small.migrating.load(name).outcomes.inserted == 1
        if names[0] == "x" == name:
            index = small.rows(
                "select indexname from pg_indexes where tablename = 'id_map_x' and indexdef ~ 'new_id'"
            )
            small.target(f'alter index ferry."{index[0][0]}" rename to id_map_x_new')
    assert all(small.migrating.load(name).outcomes.unchanged == 1 for name in names)


def test_a_name_that_is_too_long_for_a_kept_row_is_refused(small: Small, tmp_path: Path) -> None:
    """A question as the title of a CSV column: it would be missing from a row that is rejected and replayed."""
    small.migrating.connections["exports"] = str(tmp_path)
    title = "How satisfied are you with what was delivered within the last 12 months?"
    (tmp_path / "answers.csv").write_text(f'id,"{title}"\n1,very\n')
    small.target("create table answers (new_id int generated always as identity primary key, said text)")

    def declare(fields: dict[str, object], columns: dict[str, str]) -> None:
        source = {
            "connection": "exports",
            "files": "answers.csv",
            "key": "id",
            "fields": {"id": "text", **fields},
        }
        small.declare("answers", "id: str", source=source, columns=columns)

    declare({title: "text"}, {title: "said"})
    with pytest.raises(DeclarationError, match=r"longer name than PostgreSQL.*path: <its name>"):
        small.migrating.plans()
    declare({"said": {"type": "text", "path": title}}, {})
    small.migrating.load_all()
    assert small.rows("select said from answers") == [("very",)]


def test_a_view_is_no_target(small: Small) -> None:
    """The plan refuses before anything is read."""
    small.source("create table names (id int primary key, name text)")
    small.target("create view names as select 1 as id, 'x' as name")
    small.declare("names", "id: int", new_key="id", made="natural")
    with pytest.raises(DeclarationError, match="no table that rows can be loaded into"):
        small.migrating.plans()


def test_a_composite_key_with_nulls_among_its_references(small: Small) -> None:
    """A composite reference with a NULL part refers to nobody; what it says all the same stays where keys are kept."""
    small.source(
        "create table rooms (house int, number text, primary key (house, number))",
        "create table guests (id int primary key, house int, number text)",
        "insert into rooms values (1, 'a, b'), (1, 'a'), (2, 'a')",
        "insert into guests values (1, 1, 'a, b'), (2, 1, null), (3, 2, 'a'), (4, 3, 'a'), (5, null, null)",
    )
    small.target(
        "create table rooms (house int, number text, primary key (house, number))",
        "create table guests (new_id bigint generated always as identity primary key, house int, number text,"
        " foreign key (house, number) references rooms)",
    )
    small.declare("rooms", "house: int; number: str", key=["house", "number"], new_key=["house", "number"],
                  made="natural")  # fmt: skip
    small.declare("guests", "id: int", references=[{"column": ["house", "number"], "to": "rooms"}])
    small.migrating.load("guests")
    small.migrating.load_all()
    assert small.rows("select house, number from guests order by new_id") is not None
    assert sorted(small.rows("select coalesce(house, 0), coalesce(number, '') from guests")) == [
        (0, ""), (1, ""), (1, "a, b"), (2, "a"),
    ]  # fmt: skip
    assert small.rejected("guests") == {"4": "missing_parent"}


def test_a_table_that_only_links_others_is_loaded_again_and_moves_with_its_parents(small: Small) -> None:
    """Its key is its two parents' new keys and it has no other column: nothing of it can differ, only be there."""
    small.source(
        "create table tags (id int primary key, name text)",
        "create table tagged (a int, b int, primary key (a, b))",
        "insert into tags values (7, 'x'), (8, 'y')",
        "insert into tagged values (7, 8), (8, 8), (8, 9)",
    )
    small.target(
        "create table tags (new_id bigint generated always as identity primary key, name text)",
        "create table tagged (a bigint references tags, b bigint references tags, primary key (a, b))",
    )
    small.declare("tags", "id: int; name: str")
    small.declare(
        "tagged", "a: int; b: int", key=["a", "b"], new_key=["a", "b"], made="natural", id_map="none",
        references=[{"column": "a", "to": "tags"}, {"column": "b", "to": "tags"}],
    )  # fmt: skip
    small.migrating.load_all()
    small.target("truncate ferry.ledger")
    small.migrating.load_all()
    linked = "select a.name, b.name from tagged t join tags a on a.new_id = t.a join tags b on b.new_id = t.b"
    assert sorted(small.rows(linked)) == [("x", "y"), ("y", "y")]
    assert small.rejected("tagged") == {"8, 9": "missing_parent"}
    assert [one.removed for one in roll_back(small.migrating.plans(), small.migrating.settings)] == [2, 2]


def test_the_old_key_is_kept_beside_the_new_one(small: Small) -> None:
    """`columns` names the place of what the reference held, `into` that of the parent's new key."""
    small.source(
        "create table shops (id int primary key)",
        "create table sales (id int primary key, shop int)",
        "insert into shops values (70), (80)",
        "insert into sales values (1, 80), (2, 70), (3, null)",
    )
    small.target(
        "create table shops (new_id bigint generated always as identity primary key, legacy_id int)",
        "create table sales (new_id bigint generated always as identity primary key, shop bigint references shops,"
        " legacy_shop int)",
    )
    small.declare("shops", "id: int", columns={"id": "legacy_id"})
    small.declare("sales", "id: int", columns={"shop": "legacy_shop"},
                  references=[{"column": "shop", "to": "shops", "into": "shop"}])  # fmt: skip
    small.migrating.load_all()
    both = "select legacy_id, legacy_shop from sales left join shops on shops.new_id = sales.shop order by 1"
    assert small.rows(both) == [(70, 70), (80, 80), (None, None)]


def test_a_reference_that_can_never_equal_its_parents_key_is_refused(small: Small) -> None:
    """A text that should hold a number's key: the plan says so, instead of the database in the middle of a load."""
    small.source("create table shops (id int)", "create table sales (id int, shop text)")
    small.target(
        "create table shops (new_id bigint generated always as identity primary key)",
        "create table sales (new_id bigint generated always as identity primary key, shop bigint)",
    )
    small.declare("shops", "id: int")
    small.declare("sales", "id: int", references=[{"column": "shop", "to": "shops"}])
    with pytest.raises(DeclarationError, match=r"references\[0\].column: shop \(text\) can never be equal"):
        small.migrating.plans()


def test_a_foreign_key_that_no_reference_fills_is_refused(small: Small) -> None:
    """Old keys would lead to whatever row has that number: the plan says which reference is missing."""
    small.source("create table a (id int primary key)", "create table b (id int primary key, a_id int)")
    small.target(
        "create table a (new_id int generated always as identity primary key)",
        "create table b (new_id int generated always as identity primary key, a_id int references a)",
    )
    small.declare("a", "id: int")
    small.declare("b", "id: int")
    with pytest.raises(
        DeclarationError, match=r"no reference says that it leads to a.*\{column: a_id, to: a\}"
    ):
        small.migrating.plans()
    small.declare("b", "id: int", references=[{"column": "a_id", "to": "a"}])
    assert small.migrating.plans().order == ("a", "b")


def test_a_foreign_key_to_a_unique_column_that_is_no_key_does_not_hang_on_the_order(small: Small) -> None:
    """No row waits for such a parent: the plan refuses and says how; set aside, children come first, twice even."""
    small.source(
        "create table a (id int primary key, code text)", "create table b (id int primary key, code text)"
    )
    small.target(
        "create table a (new_id int generated always as identity primary key, code text unique)",
        "create table b (new_id int generated always as identity primary key, code text references a (code))",
    )
    small.declare("a", "id: int", drop=["id"])
    small.declare("b", "id: int", drop=["id"])
    with pytest.raises(DeclarationError, match=r"code of public.a.*constraints: at_end"):
        small.migrating.plans()
    declared = small.migrating.folder / "b" / "defs.yaml"
    document = json.loads(declared.read_text())
    document["attributes"]["target"]["constraints"] = "at_end"
    declared.write_text(json.dumps(document))
    for n, code in enumerate("xy"):
        small.source(f"insert into a values ({n}, '{code}')", f"insert into b values ({n}, '{code}')")
        for name in ("b", "a"):
            assert not small.migrating.load(name).failed
        small.migrating.settle()
        assert small.outcomes("b") == {"extracted": n + 1, "inserted": 1} | ({"unchanged": 1} if n else {})
        assert small.rows("select count(*) from pg_constraint where contype = 'f'") == [(1,)]
    assert small.rows("select code from b order by 1") == [("x",), ("y",)]


def test_a_table_with_dots_and_quotes_in_its_name(small: Small) -> None:
    """A part of the name with a dot stands in double quotes in the declaration."""
    small.source('create table "orders.2019" (id int primary key, name text)',
                 """insert into "orders.2019" values (1, 'a')""")  # fmt: skip
    small.target(
        'create table "say ""hi""" (new_id bigint generated always as identity primary key, name text)'
    )
    small.declare("orders", "id: int", source={"table": 'public."orders.2019"'}, target='say "hi"')
    small.migrating.load_all()
    assert small.rows('select name from "say ""hi"""') == [("a",)]


AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ferry.declaration import read_migration
from ferry.pipeline import carry
from ferry.plan import plan_migration
from ferry.settings import read_settings

settings = read_settings()
plans = plan_migration(read_migration(Path(sys.argv[1])), settings)
with ThreadPoolExecutor() as pool:
    list(pool.map(lambda name: list(carry(plans, name, ("all",), settings)), plans.order))
"""


def test_keys_of_every_kind_outlast_a_kill_a_replay_and_a_rollback(small: Small) -> None:
    """Version 7 and 5 UUIDs, an expression of the old key and one of a sequence: each old key keeps its new one.

    A load of each is killed while its third chunk waits to be written, and goes on; the row that was rejected is
    replayed; all is taken back and comes again.
    """
    kinds = {
        "v7": {"from": "uuid7"},
        "v5": {"from": "uuid5"},
        "told": {"from": "expression", "expression": "lpad('e' || r.k0, 32, '0')::uuid"},
        "drawn": {"from": "expression", "expression": "lpad(nextval('drawn_keys')::text, 32, '0')::uuid"},
    }
    small.migrating.chunk_rows = 2
    small.source(*(f"create table {kind} as select n as id, 'n' || n as name from generate_series(1, 8) n"
                   for kind in kinds))  # fmt: skip
    small.target("create sequence drawn_keys")
    for kind, key in kinds.items():
        small.target(f"create table {kind} (uid uuid primary key, name text check (name <> 'n2'))")
        small.declare(kind, "id: int; name: str", drop=["id"], target_key={"column": "uid", **key})
    with Loader(small.migrating.plans(), "v7", small.migrating.settings):
        pass
    third = f"insert into ferry.ledger select unnest(array{list(kinds)}), 'all', 2, '', '', '', 0, 0, 0, 0, 0, 0, 0"
    with psycopg.connect(small.migrating.target_url) as holder:
        holder.execute(third.encode())
        loads = subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(small.migrating.folder)],
            env={**os.environ, **small.migrating.environment, "FERRY_LOADERS": "1"},
        )
        waiting = "select from pg_locks where locktype = 'transactionid' and not granted"
        wait_for(
            "all loads wait, or ended",
            lambda: loads.poll() is not None or len(small.rows(waiting)) == len(kinds),
            120,
            pause=0.02,
        )
        assert loads.poll() is None
        loads.kill()
        loads.wait()
        holder.rollback()

    def keys(kind: str) -> dict[int, uuid.UUID]:
        return dict(
            small.rows(f"select old_id, new_uid from ferry.id_map_{kind} where status <> 'tombstone'")
        )

    begun = {kind: keys(kind) for kind in kinds}
    assert [set(found) for found in begun.values()] == [{1, 3, 4}] * len(kinds)
    small.migrating.load_all()
    small.target(*(f"alter table {kind} drop constraint {kind}_name_check" for kind in kinds))
    plans = small.migrating.plans()
    assert [(one.loaded, one.rejected) for one in replay(plans, small.migrating.settings)] == [(1, 0)] * len(
        kinds
    )
    whole = {kind: keys(kind) for kind in kinds}
    for kind in kinds:
        assert small.rows(f"select name, uid from {kind} order by 1") == [
            (f"n{old}", whole[kind][old]) for old in range(1, 9)
        ]
        assert begun[kind].items() <= whole[kind].items()
    assert {str(key)[14] for key in whole["v7"].values()} == {"7"}
    assert len({*whole["v7"].values(), *whole["drawn"].values()}) == 16
    space = uuid.uuid5(uuid.NAMESPACE_URL, "ferry:v5")
    assert whole["v5"] == {old: uuid.uuid5(space, str(old)) for old in range(1, 9)}
    assert whole["told"] == {old: uuid.UUID(f"e{old}".rjust(32, "0")) for old in range(1, 9)}
    roll_back(plans, small.migrating.settings)
    assert [keys(kind) for kind in kinds] == [{}] * len(kinds)
    small.migrating.load_all()
    assert {kind: keys(kind) for kind in kinds} == whole


def test_version_5_uuids_are_those_that_anybody_would_compute(small: Small) -> None:
    """Of the namespace and the old key: for rows loaded at once, rows that waited, and rows of a cycle."""
    space = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    small.source(
        "create table nodes (id int primary key, up int, name text)",
        "insert into nodes values (1, 2, 'a'), (2, 1, 'b'), (3, 1, 'c')",
    )
    small.target("create table nodes (uid uuid primary key, up uuid not null references nodes, name text)")
    small.declare(
        "nodes", "id: int; up: int", references=[{"column": "up", "to": "nodes"}],
        target_key={"column": "uid", "from": "uuid5", "namespace": str(space)},
    )  # fmt: skip
    small.migrating.load_all()
    small.source("insert into nodes values (4, 3, 'd')")
    assert small.migrating.load("nodes").different == 0
    made = {i: uuid.uuid5(space, str(i)) for i in range(1, 5)}
    assert sorted(small.rows("select name, uid, up from nodes")) == [
        ("a", made[1], made[2]), ("b", made[2], made[1]), ("c", made[3], made[1]), ("d", made[4], made[3]),
    ]  # fmt: skip


def test_two_loads_of_one_partition_at_once_take_turns(small: Small) -> None:
    """The second waits as long as it may, then says who is in its way; afterwards it goes on."""
    small.source("create table names (id int primary key, name text)", "insert into names values (1, 'a')")
    small.target("create table names (new_id bigint generated always as identity primary key, name text)")
    small.declare("names", "id: int; name: str")
    plans = small.migrating.plans()
    impatient = small.migrating.settings.model_copy(update={"lock_timeout_seconds": 0.2})
    small.migrating.__dict__["settings"] = impatient
    with Loader(plans, "names", impatient) as other:
        other.lock("all")
        went = small.migrating.load("names")
    assert "somebody else is loading it" in went.failed["all"]
    assert not small.migrating.load("names").failed


def test_a_lost_connection_fails_the_partition_and_the_next_run_goes_on(small: Small) -> None:
    """The backend is terminated while a chunk waits for a lock: a clear message, nothing kept, then all of it."""
    small.source("create table names (id int primary key, name text)", "insert into names values (1, 'a')")
    small.target("create table names (new_id bigint generated always as identity primary key, name text)")
    small.declare("names", "id: int; name: str")
    found: list[str] = []
    with psycopg.connect(small.migrating.target_url) as holder:
        holder.execute("lock table names in share mode")
        loading = threading.Thread(target=lambda: found.extend(small.migrating.load("names").failed.values()))
        loading.start()
        waiting = (
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            " and query ilike 'copy%'"
        )
        pids = wait_for("the load waits for the table", lambda: small.rows(waiting), 60, pause=0.02)
        small.rows("select pg_terminate_backend(%s)", pids[0][0])
        loading.join()
    assert len(found) == 1
    assert "The transaction was undone" in found[0]
    assert small.rows("select count(*) from ferry.id_map_names") == [(0,)]
    went = small.migrating.load("names")
    assert (went.outcomes.inserted, went.failed) == (1, {})

"""References of every shape: chains, cycles, orphans, and rows that the target takes only when their parents came."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg import sql
from typer.testing import CliRunner

from asking import wait_for
from ferry.cli import app
from ferry.constraints import set_aside
from ferry.errors import DeclarationError, PermanentError
from ferry.loader import Loader
from ferry.pipeline import hold
from ferry.replay import replay
from ferry.rollback import roll_back
from ferry.row_hashes import added_up, hash_of_values
from ferry.settle import settle
from small import Small

HALVES = {"by": "half", "values": ["a", "b"]}


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


def a_chain(small: Small, rows: str, *, deferrable: str = "", nullable: bool = False) -> None:
    """A table whose rows refer to each other, in two partitions; `code` tells them apart on both sides."""
    small.source(
        "create table nodes (id int primary key, up int, half text, code text)",
        f"insert into nodes {rows}",
    )
    small.target(
        "create table nodes (new_id bigint generated always as identity primary key, up bigint"
        f" {'' if nullable else 'not null'} references nodes {deferrable}, half text, code text)"
    )
    small.declare(
        "nodes",
        f"id: int; up: int{' | None' if nullable else ''}; half: str; code: str",
        partition=HALVES,
        references=[{"column": "up", "to": "nodes"}],
    )


PARENTS = "select c.code, p.code from nodes c left join nodes p on p.new_id = c.up order by 1"


def test_a_chain_of_ten_thousand_not_null_references_is_loaded_whole(small: Small) -> None:
    """Each row refers to the next, across partitions, the last to itself; the target never allows NULL."""
    a_chain(
        small,
        "select i, least(i + 1, 10000), case when i %% 2 = 0 then 'a' else 'b' end, i::text"
        " from generate_series(1, 10000) i".replace("%%", "%"),
    )
    went = small.migrating.load("nodes", ("b", "a"))
    assert not went.failed
    small.migrating.settle()
    assert small.outcomes("nodes") == {"extracted": 10_000, "inserted": 10_000}
    assert {(int(a), int(b)) for a, b in small.rows(PARENTS)} == {
        (i, min(i + 1, 10_000)) for i in range(1, 10_001)
    }
    again = small.migrating.load("nodes")
    assert (again.different, again.skipped_chunks) == (0, again.chunks)


def test_a_chain_without_an_end_is_rejected_and_each_row_says_why(small: Small) -> None:
    """The row whose parent never was is `missing_parent`, all that hang from it `parent_rejected`; a ring stays."""
    a_chain(
        small,
        "values (1, 99, 'a', '1'), (2, 1, 'b', '2'), (3, 2, 'a', '3'),"
        " (10, 11, 'a', '10'), (11, 12, 'b', '11'), (12, 10, 'a', '12'), (13, 10, 'b', '13')",
    )
    small.migrating.load("nodes", ("a",))
    small.migrating.settle()
    assert small.outcomes("nodes") == {"extracted": 4, "waiting": 4}
    small.migrating.load("nodes", ("b",))
    small.migrating.settle()
    assert small.rejected("nodes") == {"1": "missing_parent", "2": "parent_rejected", "3": "parent_rejected"}
    assert small.rows(PARENTS) == [("10", "11"), ("11", "12"), ("12", "10"), ("13", "10")]
    small.source("insert into nodes values (99, 99, 'b', '99')")
    small.migrating.load_all()
    assert small.rejected("nodes") == {}
    assert ("3", "2") in small.rows(PARENTS)
    assert small.outcomes("nodes")["extracted"] == 8


def test_an_optional_reference_in_a_chain_that_must_exist_is_not_left_empty(small: Small) -> None:
    """`on_missing: reject` holds for a nullable self-reference too: NULL stays NULL, an orphan is rejected."""
    a_chain(small, "values (1, null, 'a', '1'), (2, 1, 'b', '2'), (3, 77, 'a', '3')", nullable=True)
    small.migrating.load_all()
    assert small.rejected("nodes") == {"3": "missing_parent"}
    assert small.rows(PARENTS) == [("1", None), ("2", "1")]


def a_ring(small: Small, firm: str, person: str, *, firm_boss: str = "reject") -> None:
    """Firms have a boss, people work for a firm: a cycle over two tables."""
    small.source(
        "create table firms (id int primary key, boss int, name text)",
        "create table people (id int primary key, firm int, name text)",
        "insert into firms values (1, 10, 'one'), (2, 20, 'two'), (3, 99, 'three'), (4, 30, 'four')",
        "insert into people values (10, 1, 'ten'), (20, 1, 'twenty'), (30, 3, 'thirty'), (40, 2, 'forty')",
    )
    small.target(
        f"create table firms (new_id bigint generated always as identity primary key, boss bigint {firm}, name text)",
        "create table people (new_id bigint generated always as identity primary key,"
        f" firm bigint {person} references firms, name text)",
        "alter table firms add constraint firms_boss foreign key (boss) references people",
    )
    small.declare(
        "firms", "id: int; boss: int; name: str",
        references=[{"column": "boss", "to": "people", "on_missing": firm_boss}],
    )  # fmt: skip
    small.declare("people", "id: int; firm: int; name: str", references=[{"column": "firm", "to": "firms"}])


RING = (
    "select f.name, p.name from firms f left join people p on p.new_id = f.boss"
    " union all select p.name, f.name from people p join firms f on f.new_id = p.firm order by 1"
)


def test_a_cycle_with_one_nullable_reference_is_opened_there(small: Small) -> None:
    """The nullable side goes in as NULL and is filled in; who is really missing stays NULL."""
    a_ring(small, "", "not null", firm_boss="set_null")
    plans = small.migrating.plans()
    assert [(e.parent, e.strategy) for n in plans.order for e in plans[n].edges] == [
        ("people", "null first, then update"), ("firms", "wait"),
    ]  # fmt: skip
    small.migrating.load_all()
    assert small.rows(RING) == [
        ("forty", "two"), ("four", "thirty"), ("one", "ten"), ("ten", "one"), ("thirty", "three"),
        ("three", None), ("twenty", "one"), ("two", "twenty"),
    ]  # fmt: skip


@pytest.mark.parametrize("order", [("firms", "people"), ("people", "firms")])
def test_a_cycle_of_not_null_references_is_inserted_together(small: Small, order: tuple[str, str]) -> None:
    """With one deferrable constraint both tables are filled in one transaction; who lacks anybody is rejected."""
    a_ring(small, "not null", "not null")
    small.target("alter table firms alter constraint firms_boss deferrable")
    for name in order:
        assert not small.migrating.load(name).failed
    small.migrating.settle()
    assert small.rows(RING) == [
        ("forty", "two"), ("one", "ten"), ("ten", "one"), ("twenty", "one"), ("two", "twenty"),
    ]  # fmt: skip
    assert small.rejected("firms") == {"3": "missing_parent", "4": "parent_rejected"}
    assert small.rejected("people") == {"30": "parent_rejected"}


def test_constraints_that_are_set_aside_are_shown_and_come_back_checked(small: Small) -> None:
    """A NOT NULL cycle without a deferrable constraint; a row that breaks one keeps it on record until it is gone."""
    a_ring(small, "not null", "not null")
    small.target("create index people_name on people (name)")
    for name in ("firms", "people"):
        declared = small.migrating.folder / name / "defs.yaml"
        document = json.loads(declared.read_text())
        document["attributes"]["target"]["constraints"] = "at_end"
        declared.write_text(json.dumps(document))
    aside = "select name from ferry.set_aside order by 1"
    there = "select conname from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace"
    for name in ("people", "firms"):
        assert not small.migrating.load(name).failed
    said = CliRunner().invoke(app, ["status", "--json"], env=small.migrating.environment)
    assert {row["entity"]: row["set_aside"] for row in json.loads(said.stdout)} == {
        "firms": ["foreign key firms_boss"], "people": ["index people_name", "foreign key people_firm_fkey"],
    }  # fmt: skip
    assert small.rows(there) == []
    small.target("insert into people (firm, name) values (-1, 'broken')")
    with pytest.raises(PermanentError, match=r"people_firm_fkey of .+ cannot be put back"):
        small.migrating.settle()
    assert (small.rows(there), small.rows(aside)) == ([("firms_boss",)], [("people_firm_fkey",)])
    small.target("delete from people where name = 'broken'")
    small.migrating.settle()
    assert sorted(small.rows(there)) == [("firms_boss",), ("people_firm_fkey",)]
    assert small.rows(aside) == []
    assert small.rows("select count(*) from pg_indexes where indexname = 'people_name'") == [(1,)]
    assert small.rows(RING) == [
        ("forty", "two"), ("one", "ten"), ("ten", "one"), ("twenty", "one"), ("two", "twenty"),
    ]  # fmt: skip


def test_of_two_runs_that_begin_together_one_sets_the_constraints_aside(small: Small) -> None:
    """The other one waits until it is done, and finds nothing left to do."""
    small.source("create table things (id int primary key)")
    small.target(
        "create table things (new_id bigint generated always as identity primary key, v int)",
        "create index things_v on things (v)",
    )
    small.declare("things", "id: int")
    plans, settings = small.migrating.plans(), small.migrating.settings
    waiting = "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    with (
        Loader(plans, "things", settings) as one,
        Loader(plans, "things", settings) as other,
        ThreadPoolExecutor(1) as beside,
    ):
        pid = other.connection.info.backend_pid
        with one.connection.transaction():
            assert set_aside(one.connection, plans["things"]) == 1
            second = beside.submit(set_aside, other.connection, plans["things"])
            wait_for("the other waits", lambda: small.rows(waiting, pid), 60, pause=0.02)
        assert second.result() == 0
    assert small.rows("select name from ferry.set_aside") == [("things_v",)]


def test_a_cycle_that_no_order_resolves_is_refused_with_the_way_out(small: Small) -> None:
    """Nothing is read or written; the message has a statement that helps, and with it the plan goes through."""
    a_ring(small, "not null", "not null")
    with pytest.raises(DeclarationError, match="neither can be inserted first") as refused:
        small.migrating.plans()
    statement = re.search(r"alter table [^;]+ deferrable", str(refused.value))
    assert statement
    small.target(statement[0])
    assert {edge.strategy for plan in small.migrating.plans().entities.values() for edge in plan.edges} == {
        "keys ahead"
    }


def parents_and_children(small: Small, on_missing: str, *, nullable: bool = True) -> None:
    """Children with a parent each; the parent with the id 2 breaks its contract, 9 does not exist."""
    small.source(
        "create table parents (id int primary key, name text)",
        "create table children (id int primary key, parent int, name text)",
        "insert into parents values (1, 'one'), (2, '')",
        "insert into children values (1, 1, 'a'), (2, 2, 'b'), (3, 9, 'c'), (4, null, 'd')",
    )
    small.target(
        "create table parents (new_id bigint generated always as identity primary key, name text)",
        "create table children (new_id bigint generated always as identity primary key, parent bigint"
        f" {'' if nullable else 'not null'} references parents, name text check (name <> 'c'))",
    )
    small.declare("parents", "id: int; name: Annotated[str, Field(min_length=1)]")
    small.declare(
        "children", "id: int; parent: int | None; name: str",
        references=[{"column": "parent", "to": "parents", "on_missing": on_missing}],
    )  # fmt: skip


LINKS = "select c.name, p.name from children c left join parents p on p.new_id = c.parent order by 1"


def test_a_reference_set_to_null_is_filled_in_when_its_parent_comes_after_all(small: Small) -> None:
    """A child whose parent was rejected stays, without parent; after the replay of the parent it has it again."""
    parents_and_children(small, "set_null")
    small.target("alter table children drop constraint children_name_check")
    small.migrating.load_all()
    assert small.rows(LINKS) == [("a", "one"), ("b", None), ("c", None), ("d", None)]
    small.declare("parents", "id: int; name: str")
    plans = small.migrating.plans()
    replay(plans, small.migrating.settings)
    settle(plans, small.migrating.settings)
    assert small.rows(LINKS) == [("a", "one"), ("b", ""), ("c", None), ("d", None)]
    assert small.migrating.load("children").different == 0


def test_a_run_counts_the_children_that_come_because_their_parent_was_mended(small: Small) -> None:
    """Their own rows are as they were, so nothing of them is loaded again: settling brings back what was rejected."""
    parents_and_children(small, "reject")
    small.migrating.load_all()
    assert small.rejected("children") == {"2": "parent_rejected", "3": "missing_parent"}
    small.source("update parents set name = 'two' where id = 2")
    said = CliRunner().invoke(app, ["run", "--json"], env=small.migrating.environment)
    assert said.exit_code == 0, said.exception
    told = json.loads(said.stdout)["entities"]["children"]
    ends = {"extracted": 4, "inserted": 1, "updated": 0, "unchanged": 2, "rejected": 1, "waiting": 0}
    assert {end: told[end] for end in ends} == ends
    assert small.rows(LINKS) == [("a", "one"), ("b", "two"), ("d", None)]


def test_references_filled_in_later_do_not_mix_however_long_their_names(small: Small) -> None:
    """Two columns that PostgreSQL would cut to one name, and two entities that read alike once joined with theirs.

    Each reference waits in a table of its own, and what an earlier version kept under a shorter name is still there.
    """
    wide = "an_entity_with_the_longest_name_there_is_"
    entities = {wide: ("a_column_1", "a_column_2"), "a": ("b_c",), "a_b": ("c",)}
    small.source("create table parents (id int primary key)")
    small.target("create table parents (new_id int generated always as identity (start 10) primary key)")
    small.declare("parents", "id: int", drop=["id"])
    parents = iter(range(1, 5))
    for name, columns in entities.items():
        typed = "".join(f", {column} int" for column in columns)
        small.source(
            f"create table {name} (id int primary key{typed})",
            f"insert into {name} values (1, {', '.join(str(next(parents)) for _ in columns)})",
        )
        small.target(f"create table {name} (new_id int generated always as identity primary key{typed})")
        small.declare(
            name, "id: int", drop=["id"],
            references=[{"column": one, "to": "parents", "on_missing": "set_null"} for one in columns],
        )  # fmt: skip
    small.migrating.load_all()
    (kept,) = small.rows(
        "select tablename from pg_tables where tablename like 'deferred\\_a\\_b\\_c\\_%' limit 1"
    )
    small.target(f"alter table ferry.{kept[0]} rename to deferred_a_b_c")
    small.source("insert into parents select generate_series(1, 4)")
    small.migrating.load_all()
    links = f"select a_column_1, a_column_2, a.b_c, a_b.c from {wide}, a, a_b"
    assert small.rows(links) == [(10, 11, 12, 13)]
    assert small.rows("select tablename from pg_tables where tablename = 'deferred_a_b_c'") == []


def test_without_a_map_a_reference_is_filled_in_later_too(small: Small) -> None:
    """The child has its natural key and no map; its parent is mended and replayed, and the accounts still agree."""
    small.source(
        "create table parents (id int primary key, name text)",
        "create table children (code text primary key, parent int)",
        "insert into parents values (1, 'one'), (2, '')",
        "insert into children values ('a', 1), ('b', 2), ('c', 9), ('d', null)",
    )
    small.target(
        "create table parents (new_id bigint generated always as identity primary key, name text)",
        "create table children (code text primary key, parent bigint references parents)",
    )
    small.declare("parents", "id: int; name: Annotated[str, Field(min_length=1)]")
    small.declare(
        "children", "code: str; parent: int | None", key="code", new_key="code", made="natural", id_map="none",
        references=[{"column": "parent", "to": "parents", "on_missing": "set_null"}],
    )  # fmt: skip
    small.migrating.load_all()
    links = "select code, name from children left join parents on new_id = parent order by 1"
    assert small.rows(links) == [("a", "one"), ("b", None), ("c", None), ("d", None)]
    small.declare("parents", "id: int; name: str")
    plans = small.migrating.plans()
    replay(plans, small.migrating.settings)
    settled = {one.entity: one.linked for one in settle(plans, small.migrating.settings)}
    assert settled == {"parents": 0, "children": 1}
    assert small.rows(links) == [("a", "one"), ("b", ""), ("c", None), ("d", None)]
    again = small.migrating.load("children")
    assert (again.skipped_chunks, again.different) == (1, 0)
    with small.migrating.target() as target:
        total = added_up(hash_of_values([(sql.SQL("code"), "text"), (sql.SQL("parent"), "int8")]))
        sums = sql.SQL(
            "select sum(row_hash) = (select {} from children) from ferry.ledger where entity = 'children'"
        )
        assert target.execute(sums.format(total)).fetchone() == (True,)
    roll_back(plans, small.migrating.settings)
    small.migrating.load_all()
    assert small.rows(links) == [("a", "one"), ("b", ""), ("c", None), ("d", None)]


def test_a_waiting_row_that_the_target_refuses_is_the_only_one_rejected(small: Small) -> None:
    """Settling isolates the row; the others of its partition are loaded, and the accounts add up."""
    parents_and_children(small, "set_null")
    small.migrating.load("children")
    small.migrating.load("parents")
    small.migrating.settle()
    assert small.rejected("children") == {"3": "target_refused"}
    assert [name for name, _ in small.rows(LINKS)] == ["a", "b", "d"]
    assert small.outcomes("children") == {"extracted": 4, "inserted": 3, "rejected": 1}
    small.target("alter table children drop constraint children_name_check")
    plans = small.migrating.plans()
    replay(plans, small.migrating.settings)
    settle(plans, small.migrating.settings)
    assert [name for name, _ in small.rows(LINKS)] == ["a", "b", "c", "d"]
    assert small.outcomes("children") == {"extracted": 4, "inserted": 4}


def test_a_row_that_waited_is_kept_whole_when_it_is_rejected(small: Small) -> None:
    """With what is dropped and before what is made, for either reason; replay makes it once, and the child follows."""
    small.source(
        "create table parents (id int primary key, name text)",
        "create table children (id int primary key, parent int, label text, note text)",
        "insert into parents values (1, 'one'), (2, '')",
        "insert into children values (1, 1, 'bad', 'first'), (2, 2, 'b', 'second'), (3, 1, 'c', 'third')",
    )
    small.target(
        "create table parents (new_id bigint generated always as identity primary key, name text)",
        "create table children (new_id bigint generated always as identity primary key, parent bigint"
        " references parents, name text check (name <> 'bad!'))",
    )
    small.declare("parents", "id: int; name: Annotated[str, Field(min_length=1)]")
    small.declare(
        "children", "id: int", drop=["note"], mapping={"name": {"expression": "label || '!'"}},
        references=[{"column": "parent", "to": "parents"}],
    )  # fmt: skip
    small.migrating.load("children")
    small.migrating.load("parents")
    small.migrating.settle()
    kept = "select reason, row from ferry.rejected_rows where entity = 'children' order by id"
    assert sorted(small.rows(kept)) == [
        ("parent_rejected", {"id": 2, "parent": 2, "label": "b", "note": "second"}),
        ("target_refused", {"id": 1, "parent": 1, "label": "bad", "note": "first"}),
    ]
    small.target("alter table children drop constraint children_name_check")
    small.declare("parents", "id: int; name: str")
    plans = small.migrating.plans()
    replay(plans, small.migrating.settings)
    settle(plans, small.migrating.settings)
    assert [name for name, _ in small.rows(LINKS)] == ["b!", "bad!", "c!"]
    assert small.outcomes("children") == {"extracted": 3, "inserted": 3}


def test_fail_stops_settling_and_names_the_first_row(small: Small) -> None:
    """`on_missing: fail` rejects nothing by itself: the rows wait until somebody decides."""
    parents_and_children(small, "fail")
    small.migrating.load("parents")
    small.migrating.load("children")
    with pytest.raises(PermanentError, match=r"2 rows refer to parents.*first has the key"):
        small.migrating.settle()
    assert small.outcomes("children") == {"extracted": 4, "inserted": 2, "waiting": 2}


def test_a_stub_is_made_for_a_parent_that_never_comes_and_yields_to_the_real_one(small: Small) -> None:
    """One made-up parent for each old key, however many refer to it; the real one takes over its row and key."""
    parents_and_children(small, "reject")
    small.source("insert into children values (5, 9, 'e')")
    small.target("alter table children drop constraint children_name_check")
    small.declare(
        "children", "id: int; parent: int | None; name: str",
        references=[{"column": "parent", "to": "parents", "on_missing": "stub", "stub": {"name": "unknown"}}],
    )  # fmt: skip
    small.migrating.load("children")
    small.migrating.settle()
    assert small.outcomes("children") == {"extracted": 5, "inserted": 1, "waiting": 4}
    small.migrating.load_all()
    assert small.rows(LINKS) == [
        ("a", "one"),
        ("b", "unknown"),
        ("c", "unknown"),
        ("d", None),
        ("e", "unknown"),
    ]
    assert small.rows("select old_id, status::text from ferry.id_map_parents order by 1") == [
        (1, "inserted"), (2, "stub"), (9, "stub"),
    ]  # fmt: skip
    key = small.migrating.new_key("parents", 9)
    small.source("insert into parents values (9, 'nine')")
    went = small.migrating.load_all()
    assert (went["parents"].outcomes.updated, went["parents"].different) == (1, 0)
    assert small.rows(LINKS)[2] == ("c", "nine")
    assert small.migrating.new_key("parents", 9) == key
    assert small.rows("select status::text from ferry.id_map_parents where old_id = 9") == [("inserted",)]


def test_a_stub_without_a_value_for_a_required_column_is_refused(small: Small) -> None:
    """The plan names the column that the made-up row would lack."""
    parents_and_children(small, "stub")
    small.target("alter table parents alter column name set not null")
    with pytest.raises(DeclarationError, match=r"no value for public\.parents\.name"):
        small.migrating.plans()


def test_a_reference_to_a_row_that_came_last_of_all_is_filled_in_by_the_same_settling(small: Small) -> None:
    """A row that refers to itself, and waited for a parent that never came, points to itself when it is settled."""
    parents_and_children(small, "set_null")
    small.source("alter table children add friend int", "update children set friend = id where id in (2, 3)")
    small.target(
        "alter table children drop constraint children_name_check",
        "alter table children add friend bigint references children",
    )
    small.declare(
        "children", "id: int; parent: int | None; name: str; friend: int | None",
        references=[
            {"column": "parent", "to": "parents", "on_missing": "set_null"},
            {"column": "friend", "to": "children", "on_missing": "set_null"},
        ],
    )  # fmt: skip
    small.migrating.load_all()
    assert small.rows("select name, new_id = friend from children order by 1") == [
        ("a", None), ("b", True), ("c", True), ("d", None),
    ]  # fmt: skip


def test_of_rows_that_need_each_other_only_the_refused_one_and_its_children_stay_out(small: Small) -> None:
    """The target refuses one row of a chain over two partitions by a CHECK: it is found, the others are loaded."""
    a_chain(
        small,
        "select i, greatest(i - 1, 1), case when i %% 3 = 0 then 'a' else 'b' end, i::text"
        " from generate_series(1, 60) i".replace("%%", "%"),
    )
    small.source("update nodes set up = 1 where id > 50")
    small.target("alter table nodes add check (code not in ('41', '55'))")
    small.migrating.load_all()
    rejected = small.rejected("nodes")
    assert {key for key, reason in rejected.items() if reason == "target_refused"} == {"41", "55"}
    assert {int(key) for key, reason in rejected.items() if reason == "parent_rejected"} == set(range(42, 51))
    assert small.outcomes("nodes") == {"extracted": 60, "inserted": 49, "rejected": 11}
    small.target("alter table nodes drop constraint nodes_code_check")
    replay(small.migrating.plans(), small.migrating.settings)
    small.migrating.settle()
    assert small.outcomes("nodes") == {"extracted": 60, "inserted": 60}


def test_composite_keys_that_read_alike_are_told_apart_in_a_chain(small: Small) -> None:
    """('a, b', 'c') and ('a', 'b, c') are two rows, also where rows wait for each other."""
    small.source(
        "create table nodes (x text, y text, up_x text, up_y text, primary key (x, y))",
        "insert into nodes values ('a, b', 'c', 'a', 'b, c'), ('a', 'b, c', 'a, b', 'c'),"
        " ('d', 'e', 'a', 'b, c'), ('f', 'g', 'a, b, c', '')",
    )
    small.target(
        "create table nodes (new_id bigint generated always as identity primary key, x text, y text,"
        " up bigint not null references nodes)"
    )
    small.declare(
        "nodes", "x: str; y: str", key=["x", "y"], columns={"x": "x", "y": "y"},
        references=[{"column": ["up_x", "up_y"], "to": "nodes", "into": "up"}],
    )  # fmt: skip
    small.migrating.load_all()
    assert small.rows("select c.x, p.x from nodes c join nodes p on p.new_id = c.up order by 1") == [
        ("a", "a, b"), ("a, b", "a"), ("d", "a"),
    ]  # fmt: skip
    assert small.rejected("nodes") == {"f, g": "missing_parent"}


def test_children_wait_while_a_partition_of_their_parents_is_not_as_it_should_be(small: Small) -> None:
    """Something in the target alters a row of `b` after it was written: the partition is found wrong, so its children
    wait, and so does a child without a parent. Put right, it is complete: they come, and that one is rejected."""
    small.source(
        "create table parents (id int primary key, half text, note text)",
        "insert into parents values (1, 'a', 'x'), (2, 'b', 'y')",
        "create table children (id int primary key, parent int)",
        "insert into children values (1, 1), (2, 2), (3, 9)",
    )
    small.target(
        "create table parents (new_id bigint generated always as identity primary key, half text, note text)",
        "create table children (new_id bigint generated always as identity primary key,"
        " parent bigint references parents)",
        "create function spoil() returns trigger language plpgsql as"
        " 'begin update parents set note = note || ''!'' where half = ''b''; return null; end'",
        "create trigger spoil after insert on parents execute function spoil()",
    )
    small.declare("parents", "id: int; half: str; note: str", partition=HALVES)
    small.declare("children", "id: int; parent: int", references=[{"column": "parent", "to": "parents"}])
    assert small.migrating.load("parents").different == 1
    small.migrating.load("children")
    small.migrating.settle()
    assert small.outcomes("children") == {"extracted": 3, "inserted": 1, "waiting": 2}

    small.target("drop trigger spoil on parents", "update parents set note = 'y' where half = 'b'")
    assert small.migrating.load("parents").different == 0
    small.migrating.settle()
    assert small.outcomes("children") == {"extracted": 3, "inserted": 2, "rejected": 1}
    assert small.rejected("children") == {"3": "missing_parent"}


@pytest.mark.parametrize("mapped", [True, False])
def test_what_a_failed_check_finds_in_the_target_stays_and_what_is_new_waits(
    small: Small, mapped: bool
) -> None:
    """A row of `b` is altered after its children came. Those are in the target and are updated as ever; a new child,
    and one that is replayed, wait until the partition is put right. Only then is decided about a child of nobody."""
    small.source(
        "create table parents (id int primary key, half text)",
        "insert into parents values (1, 'a'), (2, 'b')",
        "create table children (id int primary key, parent int, n int)",
        "insert into children values (1, 1, 1), (2, 2, 1), (3, 2, 99)",
    )
    small.target(
        "create table parents (new_id bigint generated always as identity primary key, half text)",
        "create table children (new_id bigint generated always as identity primary key,"
        " parent bigint references parents, n int)"
        if mapped
        else "create table children (id int primary key, parent bigint references parents, n int)",
    )
    small.declare("parents", "id: int; half: str", partition=HALVES)
    small.declare(
        "children", "id: int; parent: int; n: Annotated[int, Field(lt=10)]",
        references=[{"column": "parent", "to": "parents"}],
        **({} if mapped else {"new_key": "id", "made": "natural", "id_map": "none"}),
    )  # fmt: skip
    small.migrating.load_all()
    assert small.outcomes("children") == {"extracted": 3, "inserted": 2, "rejected": 1}

    small.target("update parents set half = 'x' where half = 'b'")
    assert small.migrating.load("parents").different == 1
    small.source(
        "update children set n = 2 where id = 2",
        "insert into children values (4, 2, 1), (5, 1, 1), (6, 9, 1)",
    )
    went = small.migrating.load("children")
    assert (went.failed, went.different) == ({}, 0)
    small.target("update ferry.rejected_rows set row = jsonb_set(row, '{n}', '3')")
    replay(small.migrating.plans(), small.migrating.settings)
    small.migrating.settle()
    assert small.rows("select n, count(*)::int from children group by 1 order by 1") == [(1, 2), (2, 1)]
    waiting = "select array_to_string(key, ', '), missing from ferry.waiting_rows order by id"
    assert sorted(small.rows(waiting)) == [
        ("3", ["parents {2}"]), ("4", ["parents {2}"]), ("6", ["parents {9}"]),
    ]  # fmt: skip

    put_right = hold(small.migrating.plans(), ("parents",), small.migrating.settings, repair=True)
    assert [one.repaired for _, one in put_right] == [0, 1]
    small.migrating.settle()
    assert small.rows("select n, count(*)::int from children group by 1 order by 1") == [
        (1, 3),
        (2, 1),
        (3, 1),
    ]
    assert small.rejected("children") == {"6": "missing_parent"}


def test_rows_that_refer_to_rows_of_their_own_table_wait_for_a_failed_check_too(small: Small) -> None:
    """A new row that refers to an altered one waits, and what refers to that; holding the partition against its stage
    again, after somebody has put the value back by hand, is enough to let them come."""
    a_chain(small, "values (1, 1, 'a', '1'), (2, 1, 'b', '2')")
    small.migrating.load_all()
    small.target("update nodes set half = 'x' where code = '1'")
    assert small.migrating.load("nodes", ["a"]).different == 1
    small.source("insert into nodes values (3, 1, 'b', '3'), (4, 3, 'a', '4'), (5, 2, 'a', '5')")
    small.migrating.load("nodes")
    small.migrating.settle()
    assert small.rows(PARENTS) == [("1", "1"), ("2", "1"), ("5", "2")]
    assert small.outcomes("nodes")["waiting"] == 2

    small.target("update nodes set half = 'a' where code = '1'")
    assert not any(one.different for _, one in hold(small.migrating.plans(), (), small.migrating.settings))
    small.migrating.settle()
    assert small.rows(PARENTS) == [("1", "1"), ("2", "1"), ("3", "1"), ("4", "3"), ("5", "2")]

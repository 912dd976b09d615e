"""What a second load makes of a source that changed: rows that moved, vanished, came twice, or were altered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from typer.testing import CliRunner

from ferry import ledger
from ferry.cli import app
from ferry.components.checks import evaluating_checks
from ferry.errors import DeclarationError, PermanentError
from ferry.loader import Loader
from ferry.pipeline import hold
from ferry.rollback import roll_back
from ferry.settle import settle
from small import Small

KINDS = {"by": "kind", "values": ["a", "b", "c"]}
THINGS = "select name from things order by 1"


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Six things of three kinds on their way, with the kind as partition."""
    small = Small(new_database, tmp_path)
    small.source(
        "create table things (id int not null, kind text, name text, at timestamp)",
        "insert into things select i, (array['a', 'b', 'c'])[1 + i % 3], 'thing ' || i, '2020-01-01'"
        " from generate_series(1, 6) i",
    )
    small.target(
        "create table things (new_id bigint generated always as identity primary key, kind text, name text,"
        " at timestamp)"
    )
    return small


def declare(small: Small, **attributes: object) -> None:
    """The things, with whatever the test declares of them."""
    small.declare(
        "things", "id: int; kind: str; name: str; at: datetime.datetime | None",
        source={"updated_at": "at"}, **{"partition": KINDS, **attributes},
    )  # fmt: skip


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_row_that_moved_to_another_partition_is_updated_not_doubled(
    small: Small, order: tuple[str, str]
) -> None:
    """Whichever partition is loaded first, the row keeps its new key and has not vanished."""
    declare(small, on_vanished="delete")
    small.migrating.load_all()
    before = small.migrating.new_key("things", 3)
    small.source("update things set kind = 'b' where id = 3")
    assert not small.migrating.load("things", order).failed
    settled = settle(small.migrating.plans(), small.migrating.settings)
    assert (settled[0].removed, settled[0].vanished) == (0, 0)
    assert small.rows("select new_id, kind from things where name = 'thing 3'") == [(before, "b")]
    assert len(small.rows(THINGS)) == 6


def test_a_moved_row_whose_new_partition_was_not_loaded_yet_is_not_taken_for_vanished(small: Small) -> None:
    """The source is asked before anything is removed: it still has the row, elsewhere."""
    declare(small, on_vanished="delete")
    small.migrating.load_all()
    small.source("update things set kind = 'b' where id = 3")
    small.migrating.load("things", ("a",))
    settled = settle(small.migrating.plans(), small.migrating.settings)
    assert (settled[0].removed, settled[0].vanished) == (0, 1)
    assert ("thing 3",) in small.rows(THINGS)


def test_a_loaded_row_that_is_rejected_later_is_told_to_be_in_the_target(small: Small) -> None:
    """One whose value the contract refuses now, and one whose key came a second time; not one that never was there,
    and none once it is rolled back."""
    declare(small)
    small.migrating.load_all()
    small.source(
        "update things set name = null where id = 3",
        "insert into things values (5, 'c', 'twin', '2020-01-01'), (9, 'a', null, '2020-01-01')",
    )
    small.migrating.load("things")
    told = small.migrating.ferry("status").stdout
    assert (
        "things: 2 rows that are rejected now were loaded before, and the target has them as they were"
        in told
    )

    def shown() -> tuple[int, dict[str, bool]]:
        status, rejects = (
            json.loads(small.migrating.ferry(one, "--json").stdout) for one in ("status", "rejects")
        )
        return status[0]["rejected_but_there"], {row["key"][0]: row["in_target"] for row in rejects["rows"]}

    assert shown() == (2, {"3": True, "5": True, "9": False})
    assert "(in the target as it was)" in " ".join(
        small.migrating.ferry("rejects", COLUMNS="200").stdout.split()
    )
    roll_back(small.migrating.plans(), small.migrating.settings)
    assert shown() == (0, {})


def test_vanished_rows_are_counted_and_stay(small: Small) -> None:
    """Without `on_vanished: delete` nothing is removed; a row that comes back is no longer counted."""
    declare(small)
    small.migrating.load_all()
    small.source("delete from things where id in (3, 4)")
    small.migrating.load("things")
    plans = small.migrating.plans()
    assert [one.vanished for one in settle(plans, small.migrating.settings)] == [2]
    assert small.rows("select key from ferry.vanished_rows order by 1") == [(["3"],), (["4"],)]
    assert len(small.rows(THINGS)) == 6
    small.source("insert into things values (3, 'a', 'thing 3', '2020-01-01')")
    small.migrating.load("things")
    assert [one.vanished for one in settle(plans, small.migrating.settings)] == [1]


def test_vanished_rows_are_counted_without_a_map_too(small: Small) -> None:
    """Rows that the source has no more, and that no map lists: settling says how many, rows from before aside."""
    small.source("create table marks (name text primary key, n int)",
                 "insert into marks values ('a', 1), ('b', 2), ('c', 3)")  # fmt: skip
    small.target("create table marks (name text primary key, n int)", "insert into marks values ('z', 26)")
    small.declare("marks", "name: str; n: int", key="name", new_key="name", made="natural", id_map="none")
    small.migrating.load_all()
    small.source("delete from marks where name <> 'b'", "insert into marks values ('d', 4)")
    small.migrating.load("marks")
    settled = settle(small.migrating.plans(), small.migrating.settings)
    assert [(one.entity, one.vanished, one.removed) for one in settled] == [("marks", 2, 0)]
    assert len(small.rows("select from marks")) == 5


def test_vanished_rows_are_removed_if_declared_and_come_back_under_their_key(small: Small) -> None:
    """A row somebody else refers to stays and is counted; the others go, and their keys are kept for them."""
    declare(small, on_vanished="delete")
    small.migrating.load_all()
    keys = {old: small.migrating.new_key("things", old) for old in (1, 3, 4)}
    small.target(
        "create table reviews (thing bigint references things)",
        f"insert into reviews values ({keys[1]})",
    )
    small.source("delete from things where id in (1, 3, 4)")
    small.migrating.load("things")
    settled = settle(small.migrating.plans(), small.migrating.settings)
    assert (settled[0].removed, settled[0].vanished) == (2, 1)
    assert small.rows(THINGS) == [("thing 1",), ("thing 2",), ("thing 5",), ("thing 6",)]
    small.source("insert into things values (4, 'b', 'thing 4', '2021-01-01')")
    small.migrating.load("things")
    assert small.rows("select new_id from things where name = 'thing 4'") == [(keys[4],)]


def test_nothing_waits_for_a_row_that_vanished_and_was_removed(small: Small) -> None:
    """Its reference stood as NULL until its parent would come; the row is gone, and that is forgotten with it."""
    small.source("alter table things add parent int", "update things set parent = 9 where id < 3")
    small.target("alter table things add parent bigint references things")
    declare(
        small, on_vanished="delete",
        references=[{"column": "parent", "to": "things", "on_missing": "set_null"}],
    )  # fmt: skip
    small.migrating.load_all()
    (table,) = small.rows("select tablename from pg_tables where tablename like 'deferred\\_things%'")
    waiting = f"select parent_0, new_new_id from ferry.{table[0]} order by 2"
    assert small.rows(waiting) == [(9, small.migrating.new_key("things", old)) for old in (1, 2)]
    small.source("delete from things where id = 1")
    small.migrating.load_all()
    assert small.rows(waiting) == [(9, small.migrating.new_key("things", 2))]


def test_a_partition_is_replaced(small: Small) -> None:
    """`replace_partition` takes out what this partition no longer has, at once, and nothing of the others."""
    declare(small, mode="replace_partition")
    small.target("insert into things (kind, name) values ('a', 'theirs')")
    small.migrating.load_all()
    small.source("delete from things where id in (3, 4)", "update things set name = 'new' where id = 6")
    small.migrating.load("things", ("a",))
    assert small.rows(THINGS) == [
        ("new",), ("theirs",), ("thing 1",), ("thing 2",), ("thing 4",), ("thing 5",),
    ]  # fmt: skip


def test_insert_only_never_changes_a_row(small: Small) -> None:
    """A changed row is left as it was loaded, a new one comes, and reconciliation has nothing against it."""
    declare(small, mode="insert_only")
    small.migrating.load_all()
    small.source(
        "update things set name = 'changed' where id = 3",
        "insert into things values (9, 'a', 'thing 9', null)",
    )
    went = small.migrating.load("things")
    assert (went.outcomes.inserted, went.outcomes.updated, went.different) == (1, 0, 0)
    assert [name for (name,) in small.rows(THINGS)] == [f"thing {i}" for i in (1, 2, 3, 4, 5, 6, 9)]


def test_insert_only_without_a_map_reconciles_with_what_was_left(small: Small) -> None:
    """The one hash that the ledger keeps for a chunk is that of the rows as they were left."""
    small.target("create table plain (id int primary key, kind text, name text, at timestamp)")
    small.declare(
        "things", "id: int", target="plain", new_key="id", made="natural", id_map="none", mode="insert_only"
    )
    small.migrating.load_all()
    small.source("update things set name = 'changed' where id = 3")
    went = small.migrating.load("things")
    assert (went.outcomes.updated, went.outcomes.unchanged, went.different) == (0, 6, 0)
    assert small.rows("select name from plain where id = 3") == [("thing 3",)]


@pytest.mark.parametrize(("key", "value"), [("mode", "replace_partition"), ("on_vanished", "delete")])
def test_what_needs_a_map_is_refused_without_one(small: Small, key: str, value: str) -> None:
    """The message names the key and the way out; nothing of the declaration is passed over."""
    small.target("create table plain (id int primary key, kind text, name text, at timestamp)")
    small.declare(
        "things", "id: int", target="plain", new_key="id", made="natural", id_map="none", **{key: value}
    )
    with pytest.raises(DeclarationError, match=f"{key}: {value}.*Remove `id_map: none`"):
        small.migrating.plans()


def test_a_key_that_is_repeated_elsewhere_or_no_longer_is_noticed_where_nothing_changed(small: Small) -> None:
    """Of two rows with one key in two partitions, the one whose partition is as it was is rejected, and comes back."""
    declare(small)
    small.migrating.load_all()
    small.source("insert into things values (3, 'b', 'again', '2020-01-01')")
    small.migrating.load_all()
    repeated = small.rows(
        "select partition, key from ferry.rejected_rows where reason = 'duplicate_key' order by 1"
    )
    assert repeated == [("a", ["3"]), ("b", ["3"])]
    small.source("delete from things where name = 'again'", "insert into things values (3, 'c', 'x', null)")
    small.migrating.load("things", ("b",))
    assert small.outcomes("things")["rejected"] == 1
    small.source("delete from things where name = 'x'")
    went = small.migrating.load_all()["things"]
    assert (went.outcomes.unchanged, went.outcomes.rejected, went.different) == (6, 0, 0)
    assert small.rejected("things") == {}


@pytest.mark.parametrize("partition", [KINDS, None])
def test_the_latest_of_several_rows_with_one_key_is_kept(small: Small, partition: object) -> None:
    """Across partitions or within one; where two are the latest, none is; the others say `duplicate_key`."""
    small.source(
        "insert into things values (3, 'b', 'newer', '2021-01-01'), (3, 'c', 'older', '2019-01-01'),"
        " (4, 'b', 'as new', '2020-01-01')"
    )
    declare(small, partition=partition, duplicates="keep_latest")
    small.migrating.load_all()
    assert small.rows(THINGS) == [("newer",), ("thing 1",), ("thing 2",), ("thing 5",), ("thing 6",)]
    assert small.rows(
        "select array_to_string(key, ''), count(*), min(reason) from ferry.rejected_rows group by 1 order by 1"
    ) == [("3", 2, "duplicate_key"), ("4", 2, "duplicate_key")]
    assert small.outcomes("things") == {"extracted": 9, "inserted": 5, "rejected": 4}
    small.source("insert into things values (3, 'a', 'newest', '2022-01-01')")
    small.migrating.load_all()
    assert small.rows(THINGS)[0] == ("newest",)


def test_a_row_that_somebody_deleted_from_the_target_is_named_and_comes_back_under_its_key(
    small: Small,
) -> None:
    """The next run says so, of one that was altered as well; put right, both are as they were, and so are all keys."""
    declare(small)
    small.migrating.load_all()
    before = small.rows("select * from things order by 1")
    small.target(
        "delete from things where name = 'thing 3'", "update things set name = 'x' where name = 'thing 2'"
    )
    again = small.migrating.load("things")
    assert (again.outcomes.unchanged, again.different) == (6, 2)
    plans, settings = small.migrating.plans(), small.migrating.settings
    assert sum(one.different for _, one in hold(plans, (), settings)) == 2
    found = [one for _, one in hold(plans, (), settings, repair=True)]
    assert (sum(one.different for one in found), sum(one.repaired for one in found)) == (0, 2)
    assert small.rows("select * from things order by 1") == before
    assert [one.different for _, one in hold(plans, (), settings)] == [0] * len(found)


def test_what_refers_to_a_row_that_somebody_deleted_is_put_right_with_it(small: Small) -> None:
    """The child's partition comes before its parent's, and the target refuses it until the parent is there again."""
    small.source("alter table things add parent int", "update things set parent = 1 where id = 3")
    small.target("alter table things add parent bigint references things")
    declare(small, references=[{"column": "parent", "to": "things"}])
    small.migrating.load_all()
    whole = small.rows("select * from things order by 1")
    small.target("update things set parent = null", "delete from things where name = 'thing 1'")
    plans = small.migrating.plans()
    repaired = sum(one.repaired for _, one in hold(plans, (), small.migrating.settings, repair=True))
    assert (repaired, small.rejected("things")) == (2, {})
    assert small.rows("select * from things order by 1") == whole
    assert small.migrating.load("things").different == 0


def test_the_books_of_an_earlier_version_are_brought_up_to_this_one(small: Small) -> None:
    """By whichever command looks at them first; nothing that is written there is lost."""
    declare(small)
    small.migrating.load_all()
    small.target(
        "update ferry.about set version = 2",
        "drop table ferry.unreconciled",
        "alter table ferry.before_images drop column id, add primary key (entity, key)",
        "insert into ferry.before_images values ('things', 'a', '{1}', '{}')",
    )
    said = CliRunner().invoke(app, ["status", "--json"], env=small.migrating.environment)
    assert (said.exit_code, json.loads(said.stdout)[0]["complete"]) == (0, 3), said.exception
    assert small.rows("select partition, id > 0 from ferry.before_images") == [("a", True)]
    again = small.migrating.load("things")
    assert (again.skipped_chunks, again.different) == (3, 0)


def test_the_books_of_an_earlier_version_are_read_by_who_may_not_write(small: Small) -> None:
    """Who may only read is told what is there, and nothing is brought up to date.

    Where the earlier version lacks what this one reads, and where the user may not read at all, one message says so.
    """
    declare(small)
    small.migrating.load_all()
    small.target("update ferry.about set version = version - 1")
    before = small.rows("select version from ferry.about")
    reads = "-c default_transaction_read_only=on"
    with psycopg.connect(small.migrating.target_url, options=reads, autocommit=True) as reader:
        assert ledger.is_prepared(reader)
        assert ledger.totals(reader, "things").inserted == 6
    assert small.rows("select version from ferry.about") == before

    def refused() -> str:
        said = small.migrating.ferry("status", PGOPTIONS=reads)
        assert (said.returncode, said.stderr.count("\n")) == (1, 1), said.stderr
        return said.stderr

    small.target("drop table ferry.unreconciled")
    told = refused()
    books = (
        f"the bookkeeping in the target is of an earlier version of Ferry ({ledger.VERSION - 1}, this one is"
    )
    assert f"{books} {ledger.VERSION})" in told
    assert "ferry.unreconciled" in told
    assert "as the user that loads" in told
    small.target("revoke usage on schema ferry from current_user")
    assert "this user may not read the bookkeeping" in refused()


def test_what_failed_is_said_although_the_checks_cannot_be_evaluated(small: Small) -> None:
    """The ledger is gone as well: the first error is the one that is raised."""
    declare(small)
    small.migrating.load_all()
    plans, settings = small.migrating.plans(), small.migrating.settings

    def fails(instance: dg.DagsterInstance) -> None:
        with evaluating_checks(plans, settings, instance):
            small.target("drop table ferry.ledger")
            raise PermanentError("the first")

    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(PermanentError, match="the first"):
        fails(instance)


def test_a_row_that_is_lost_while_its_partition_is_loaded_is_loaded_again(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody says so after the load has asked what is known of its chunk, of which only another row has changed."""
    declare(small)
    small.migrating.load_all()
    small.source("update things set name = 'other' where id = 6")
    begin = Loader.begin

    def lost(loader: Loader, partition: str) -> dict[int, dict[str, Any]]:
        before = begin(loader, partition)
        small.target(
            "delete from things where name = 'thing 3'", "delete from ferry.id_map_things where old_id = 3"
        )
        with small.migrating.target() as other:
            ledger.doubt(other, "things", "a")
        return before

    monkeypatch.setattr(Loader, "begin", lost)
    went = small.migrating.load("things", ("a",))
    assert (went.outcomes.inserted, went.outcomes.updated, went.different, went.failed) == (1, 1, 0, {})
    assert small.rows("select name from things where kind = 'a' order by 1") == [("other",), ("thing 3",)]


def test_a_ledger_that_was_emptied_is_written_again_and_nothing_comes_twice(small: Small) -> None:
    """Without the ledger every chunk is held against the map: the rows are found unchanged.

    So they are by the run after the one that says that its numbers do not add up.
    """
    declare(small)
    small.migrating.load_all()
    small.target("truncate ferry.ledger, ferry.partitions")
    went = small.migrating.load("things")
    assert (went.outcomes.unchanged, went.outcomes.inserted, went.different) == (6, 0, 0)
    assert len(small.rows(THINGS)) == 6
    small.target("update ferry.ledger set extracted = 9, unchanged = 9 where partition = 'b'")
    said = small.migrating.load("things").failed
    assert list(said) == ["b"]
    assert "the stage has 2 rows in 1 chunks, the ledger 9 in 1. Run the partition again" in said["b"]
    went = small.migrating.load("things")
    assert (went.failed, went.outcomes.unchanged, went.skipped_chunks, went.different) == ({}, 6, 2, 0)


def test_an_emptied_partition_ends_with_nothing_extracted(small: Small) -> None:
    """A partition without rows is complete all the same, before and after it had some."""
    declare(small, on_vanished="delete")
    small.source("delete from things where kind = 'c'")
    small.migrating.load_all()
    small.source("delete from things where kind = 'a'")
    small.migrating.load_all()
    assert small.outcomes("things") == {"extracted": 2, "inserted": 2}
    assert [name for (name,) in small.rows(THINGS)] == ["thing 1", "thing 4"]

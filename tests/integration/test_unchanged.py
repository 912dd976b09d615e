"""What did not change is not read, not sent and not written again, and nothing is missed for it."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from asking import wait_for
from ferry import digest
from ferry.errors import PermanentError, TransientError
from ferry.loader import Loader
from ferry.loaders import Loaders
from ferry.pipeline import carry
from ferry.rollback import roll_back
from ferry.row_hashes import added_up
from ferry.stage import Manifest, Stage
from ferry.targets.postgres.hashes import first_row_hash, row_hash
from small import Small

FIELDS = "id: int; name: str; price: decimal.Decimal; parent: int | None"


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two hundred things in chunks of fifty, and four parents that they belong to."""
    small = Small(new_database, tmp_path)
    small.migrating.chunk_rows = 50
    small.source(
        "create table parents (id int primary key)",
        "insert into parents select generate_series(1, 4)",
        "create table things (id int primary key, name text not null, price numeric(10, 2) not null, parent int)",
        "insert into things select i, 'thing ' || i, i / 100.0, 1 + i % 4 from generate_series(1, 200) i",
    )
    small.target(
        "create table parents (new_id bigint generated always as identity primary key)",
        "create table things (new_id bigint generated always as identity unique, id int not null unique,"
        " name text not null, price numeric(10, 2) check (price >= 0), parent bigint references parents)",
    )
    small.declare("parents", "id: int")
    return small


def declare(small: Small, *, mapped: bool) -> None:
    """The things, with an id map and keys of their own, or by their natural key and without a map."""
    references = [{"column": "parent", "to": "parents"}]
    if mapped:
        small.declare("things", FIELDS, references=references, columns={"id": "id"})
    else:
        small.declare("things", FIELDS, references=references, id_map="none", new_key="id", made="natural")


def staged(small: Small) -> Manifest:
    """The manifest of the things."""
    manifest = Stage(small.migrating.settings.stage_root, "things", "all").manifest()
    assert manifest is not None
    return manifest


def hashes_agree(small: Small) -> bool:
    """Whether the ledger's sum of row hashes is that of the rows in the target."""
    with Loader(small.migrating.plans(), "things", small.migrating.settings) as loader:
        there = loader.connection.execute(
            b"select " + added_up(row_hash(loader.plan, "t")).as_bytes(loader.connection) + b" from things t"
        ).fetchone()
        kept = loader.connection.execute(
            "select sum(row_hash) from ferry.ledger where entity = 'things'"
        ).fetchone()
    return there == kept


@pytest.mark.parametrize("mapped", [True, False])
def test_a_partition_that_the_source_says_is_the_same_is_not_read_again(small: Small, mapped: bool) -> None:
    """The stage stays the one that it was, as of a later moment, and every row is accounted for as unchanged."""
    declare(small, mapped=mapped)
    small.migrating.load_all()
    first = staged(small)
    again = small.migrating.load("things")
    assert again.outcomes.as_dict() == {
        "extracted": 200, "inserted": 0, "updated": 0, "unchanged": 200, "preserved": 0, "rejected": 0, "waiting": 0,
    }  # fmt: skip
    second = staged(small)
    assert (second.stage_id, second.content_hash) == (first.stage_id, first.content_hash)
    assert second.taken_at > first.taken_at


def test_a_kept_stage_is_loaded_where_the_ledger_does_not_know_it(small: Small) -> None:
    """After a rollback nothing is read from the source again, and all rows come back."""
    declare(small, mapped=True)
    small.migrating.load_all()
    first = staged(small)
    roll_back(small.migrating.plans(), small.migrating.settings, ("things",))
    again = small.migrating.load("things")
    assert again.outcomes.inserted == 200
    assert staged(small).stage_id == first.stage_id


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_part_is_staged_anew_although_the_source_is_the_same(small: Small, damage: str) -> None:
    """What is missing or short is noticed at once; a flipped bit when it is read, and by the next run mended."""
    declare(small, mapped=True)
    small.migrating.load_all()
    first = staged(small)
    part = (
        Stage(small.migrating.settings.stage_root, "things", "all").folder
        / first.stage_id
        / first.parts[2].file
    )
    body = part.read_bytes()
    roll_back(small.migrating.plans(), small.migrating.settings, ("things",))
    match damage:
        case "truncated":
            part.write_bytes(body[:-1])
        case "flipped":
            part.write_bytes(body[:100] + bytes([body[100] ^ 1]) + body[101:])
        case _:
            part.unlink()
    again = small.migrating.load("things")
    if damage == "flipped":
        assert "is not what was written" in str(again.failed["all"])
        again = small.migrating.load("things")
    assert not again.failed
    assert staged(small).stage_id != first.stage_id
    assert small.rows("select count(*), sum(price) from things") == [(200, sum(range(1, 201)) / 100)]


@pytest.mark.parametrize("mapped", [True, False])
def test_only_rows_that_changed_are_written_and_the_books_agree(small: Small, mapped: bool) -> None:
    """Through rounds of updates and new rows: the target is the source, and the ledger's hashes are the target's."""
    declare(small, mapped=mapped)
    small.migrating.load_all()
    draw = random.Random(mapped)
    last = 200
    for _ in range(4):
        changed = draw.sample(range(1, last + 1), 7)
        added = draw.choice([0, 3])
        small.source(
            f"update things set price = price + 1 where id = any(array{changed})",
            f"insert into things select i, 'new', 1, 1 from generate_series({last + 1}, {last + added}) i",
        )
        last += added
        loaded = small.migrating.load("things")
        assert (loaded.outcomes.updated, loaded.outcomes.inserted) == (7, added)
        assert loaded.outcomes.unchanged == last - 7 - added
        assert not loaded.different
        assert mapped or hashes_agree(small)
    with small.migrating.source() as connection:
        wanted = connection.execute("select name, price from things order by 1, 2").fetchall()
    assert small.rows("select name, price from things order by 1, 2") == wanted


def test_a_row_in_between_shifts_the_chunks_and_is_loaded_all_the_same(small: Small) -> None:
    """Keys that do not line up with the stage before are compared in the target, as ever."""
    declare(small, mapped=False)
    small.source("update things set id = id + 1000 where id > 20")
    small.migrating.load_all()
    small.source(
        "insert into things values (21, 'between', 0, 1)", "update things set price = 9 where id = 1150"
    )
    loaded = small.migrating.load("things")
    assert (loaded.outcomes.inserted, loaded.outcomes.updated, loaded.outcomes.unchanged) == (1, 1, 199)
    assert not loaded.different


def test_rows_that_were_kept_aside_are_looked_at_again(small: Small) -> None:
    """A row that waits for its parent, and one that the target refused, are not taken for loaded."""
    declare(small, mapped=True)
    small.source("update things set parent = 5 where id = 10", "update things set price = -1 where id = 11")
    small.migrating.load_all()
    assert small.rows("select count(*) from things") == [(198,)]
    small.source("insert into parents values (5)", "update things set name = 'other' where id = 12")
    small.target("alter table things drop constraint things_price_check")
    small.migrating.load("parents")
    loaded = small.migrating.load("things")
    outcomes = loaded.outcomes
    assert (outcomes.inserted, outcomes.updated, outcomes.unchanged, outcomes.rejected) == (2, 1, 197, 0)
    assert small.rows("select name from things where name in ('thing 10', 'thing 11', 'other') order by 1") == [
        ("other",), ("thing 10",), ("thing 11",),
    ]  # fmt: skip


def test_a_row_that_somebody_altered_in_the_target_is_named(small: Small) -> None:
    """A change beside it does not repair it behind everybody's back: reconciliation says which key differs."""
    declare(small, mapped=True)
    small.migrating.load_all()
    small.target("update things set price = 7777 where name = 'thing 30'")
    small.source("update things set price = 3 where id = 31")
    loaded = small.migrating.load("things")
    assert loaded.outcomes.updated == 1
    assert [difference.key for difference in loaded.differences] == ["30"]


def test_sums_of_hashes_as_an_earlier_version_kept_them_are_made_anew(small: Small) -> None:
    """Where a sum is all that was kept, every row is held against the target once, and found as it was."""
    declare(small, mapped=False)
    small.migrating.load_all()
    small.target("update ferry.about set version = 5", "update ferry.ledger set row_hash = row_hash + 1")
    again = small.migrating.load("things")
    assert (again.outcomes.unchanged, again.skipped_chunks, again.different) == (200, 0, 0)
    assert hashes_agree(small)


def test_hashes_in_a_map_as_an_earlier_version_made_them_are_made_anew(small: Small) -> None:
    """Of rows that are as they were; one that somebody altered meanwhile is found, and nothing is written again."""
    declare(small, mapped=True)
    small.migrating.load_all()
    with small.migrating.target() as target:
        old = sql.SQL(
            "update ferry.id_map_things m set row_hash = {} from things t where new_new_id = new_id"
        )
        target.execute(old.format(first_row_hash(small.migrating.plans()["things"], "t")))
    small.target("update things set price = 7777 where id = 30", "update ferry.about set version = 5")
    again = small.migrating.load("things")
    assert (again.outcomes.unchanged, again.outcomes.updated) == (200, 0)
    assert [one.key for one in again.differences] == ["30"]
    with small.migrating.target() as target:
        same = sql.SQL(
            "select count(*) from ferry.id_map_things join things t on new_new_id = new_id where row_hash = {}"
        ).format(row_hash(small.migrating.plans()["things"], "t"))
        assert target.execute(same).fetchone() == (199,)


@pytest.mark.parametrize("mapped", [True, False])
def test_two_rows_that_swap_a_value_are_other_rows(small: Small, mapped: bool) -> None:
    """Every sum over the column is as it was; in the source they are read again, in the target they are named."""
    swap = "update things t set price = o.price from things o where (t.id, o.id) in (({0}, {1}), ({1}, {0}))"
    declare(small, mapped=mapped)
    small.migrating.load_all()
    small.source(swap.format(60, 61))
    loaded = small.migrating.load("things")
    assert (loaded.outcomes.updated, loaded.different) == (2, 0)
    small.target(swap.format(10, 11))
    assert {one.key for one in small.migrating.load("things").differences} == {"10", "11"}


@pytest.mark.parametrize("mapped", [True, False])
def test_numbers_that_change_their_sign_are_other_numbers(small: Small, mapped: bool) -> None:
    """Also where one becomes what the other was, and every sum stays: PostgreSQL hashes 1.5 and -1.5 alike."""
    flip = "update things set price = -price where id in (150, 151)"
    small.source("update things set price = case id when 150 then 1.5 else -1.5 end where id in (150, 151)")
    small.target("alter table things drop constraint things_price_check")
    declare(small, mapped=mapped)
    small.migrating.load_all()
    small.source(flip)
    loaded = small.migrating.load("things")
    assert (loaded.outcomes.updated, loaded.different) == (2, 0)
    small.target(flip)
    assert {one.key for one in small.migrating.load("things").differences} == {"150", "151"}


def test_a_number_within_a_document_has_a_sign(small: Small) -> None:
    """PostgreSQL's hash of `jsonb` leaves it out; one that changes is another row in the source and in the target."""
    flip = "update notes set body = '{\"n\": -1}' where id = 2"
    small.source(
        "create table notes (id int primary key, body jsonb)",
        "insert into notes select n, '{\"n\": 1}' from generate_series(1, 3) n",
    )
    small.target("create table notes (id int primary key, body jsonb)")
    small.declare("notes", "id: int; body: str", id_map="none", new_key="id", made="natural")
    small.migrating.load_all()
    small.source(flip)
    assert small.migrating.load("notes").outcomes.updated == 1
    small.target(flip.replace("-1", "1"))
    assert [one.key for one in small.migrating.load("notes").differences] == ["2"]


def test_a_change_that_no_hash_tells_is_told_by_the_sums(small: Small) -> None:
    """Of a `bigint`, PostgreSQL hashes 32 bits; the partition is read anew, as no hash says which row it is."""
    small.source(
        "create table counts (id int primary key, n bigint)", "insert into counts values (1, -1), (2, 0)"
    )
    small.target("create table counts (id int primary key, n bigint)")
    small.declare("counts", "id: int; n: int", id_map="none", new_key="id", made="natural")
    small.migrating.load_all()
    small.source("update counts set n = 4294967295 where id = 1")
    loaded = small.migrating.load("counts")
    assert (loaded.outcomes.updated, loaded.failed) == (1, {})
    assert small.rows("select n from counts order by id") == [(4294967295,), (0,)]


@pytest.mark.parametrize("made", ["identity", "natural"])
def test_a_map_that_is_read_over_several_connections_tells_what_one_would(
    small: Small, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """Rows that were altered, that have each other's values or are gone are counted, wherever the ranges are cut."""
    monkeypatch.setattr(digest, "_LARGE", 1)
    references = [{"column": "parent", "to": "parents"}]
    key = "new_id" if made == "identity" else "id"
    small.declare("things", FIELDS, references=references, columns={"id": "id"}, new_key=key, made=made)
    small.migrating.load_all()
    plans, settings = small.migrating.plans(), small.migrating.settings

    def told() -> set[tuple[int, int]]:
        told = set()
        for loaders in (1, 2, 3, 7):
            with Loader(plans, "things", settings.model_copy(update={"loaders": loaders})) as loader:
                found = digest.digest(loader, ["all"])
            assert found is not None
            told.add((found["all"].compared, found["all"].different))
        return told

    assert told() == {(200, 0)}
    small.target(
        "update things set price = 7777 where id = 30",
        "update things t set price = o.price from things o where (t.id, o.id) in ((60, 61), (61, 60))",
        "delete from things where id in (1, 150, 200)",
    )
    assert told() == {(200, 6)}


def test_chunks_are_loaded_side_by_side_and_an_error_waits_for_the_others(small: Small) -> None:
    """Two loads overlap, each over its own connection; when one fails the other comes to its end first."""
    declare(small, mapped=True)
    plans, settings = small.migrating.plans(), small.migrating.settings
    ended: list[int] = []

    def other() -> Loader:
        return Loader(plans, "things", settings)

    def waits(loader: Loader) -> int:
        # Ends only when the lock that the other load holds is free: they have to run at once.
        loader.connection.execute("select pg_advisory_lock(77)")
        ended.append(loader.connection.info.backend_pid)
        return loader.connection.info.backend_pid

    def fails(loader: Loader) -> int:
        with psycopg.connect(small.migrating.target_url, autocommit=True) as watcher:
            waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted and objid = 77"
            wait_for("the other waits", lambda: watcher.execute(waiting).fetchone(), 60, pause=0.02)
        ended.append(loader.connection.info.backend_pid)
        loader.connection.execute("select pg_advisory_unlock(77)")
        raise PermanentError("this one fails")

    with Loader(plans, "things", settings) as first:
        first.connection.execute("select pg_advisory_lock(77)")
        with Loaders[int](first, other, 2) as loaders:
            loaders.start(fails)
            loaders.start(waits)
            with pytest.raises(PermanentError, match="this one fails"):
                loaders.finish()
            assert len(set(ended)) == 2
            assert ended[0] == first.connection.info.backend_pid


@pytest.mark.parametrize("others", [True, False])
def test_a_row_that_only_a_torn_run_has_loaded_is_told_when_it_is_gone(
    small: Small, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    """The run ended before it had a stage; the next one, with other changes or none, starts from the stage before."""
    declare(small, mapped=True)
    small.migrating.load_all()
    small.source("insert into things values (201, 'short-lived', 0, 1)")

    def killed(*_: object, **__: object) -> None:
        raise TransientError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "seal", killed)
        assert small.migrating.load("things").failed
    assert small.rows("select count(*) from things where id = 201") == [(1,)]
    small.source("delete from things where id = 201")
    if others:
        small.source("insert into things values (202, 'other', 0, 1)")
    assert not small.migrating.load("things").failed
    assert small.rows("select key from ferry.vanished_rows") == [(["201"],)]


def test_a_repeated_key_is_found_although_only_its_other_row_is_new(small: Small, tmp_path: Path) -> None:
    """A run has staged the file and loaded nothing; the part with the first row is as it was when it was loaded."""
    small.migrating.chunk_rows = 5
    small.migrating.connections["exports"] = str(tmp_path)
    small.target("create table items (id int primary key, name text)")
    fields = {"id": {"type": "int", "parse": True}, "name": "text"}
    source = {"connection": "exports", "files": "items.csv", "key": "id", "fields": fields}
    small.declare("items", "id: int; name: str", source=source, new_key="id", made="natural")
    lines = ["id,name", *(f"{number},n{number}" for number in range(10)), ""]
    (tmp_path / "items.csv").write_text("\n".join(lines))
    assert small.migrating.load("items").outcomes.inserted == 10
    (tmp_path / "items.csv").write_text("\n".join([*lines[:-1], "3,other", ""]))
    # A file that has only just changed is read again in any case.
    os.utime(tmp_path / "items.csv", (1_600_000_000, 1_600_000_000))
    list(
        carry(
            small.migrating.plans(), "items", ("all",), small.migrating.settings, stages=("raw", "validated")
        )
    )
    went = small.migrating.load("items")
    assert (went.outcomes.rejected, went.skipped_chunks, went.failed) == (2, 1, {})
    # Now all is known: nothing is loaded again.
    again = small.migrating.load("items")
    assert (again.outcomes.rejected, again.skipped_chunks) == (2, 3)

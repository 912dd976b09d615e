"""A first load takes the short way into the target, and whatever does not fit it takes the long way: all the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg import sql

from ferry.load import load_part
from ferry.loader import Loader
from ferry.loading import reconcile
from ferry.pipeline import RAW, VALIDATED, Staged, carry
from ferry.rollback import roll_back
from ferry.row_hashes import WAY, SourceHashes, added_up, hash_of_values
from ferry.sources.facts import ROW_HASH
from ferry.stage import Stage
from ferry.targets.direct import DirectLoad, OtherwiseError, writes_directly
from ferry.targets.postgres.hashes import hashed_alike, row_hash
from ferry.verdict import Judge
from small import Small


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Parents and children of every kind: in order, without a parent, with parents far apart."""
    small = Small(new_database, tmp_path)
    small.source(
        "create table parents (id bigint primary key, name text not null)",
        "create table children (id int primary key, parent_id bigint, other_id bigint, amount numeric(9, 2), at date,"
        " note varchar(20))",
        "insert into parents select n * n * 1000003, 'parent ' || n from generate_series(1, 40) n",
        "insert into children select n, case when n % 7 > 0 then (1 + n % 40) ^ 2 * 1000003 end,"
        " case when n % 11 = 0 then n else (1 + n % 3) ^ 2 * 1000003 end,"
        " n + 0.25, date '2020-02-29' + n, 'child' || n from generate_series(1, 300) n",
    )
    small.target(
        "create table parents (new_id int generated always as identity primary key, name text not null)",
        "create table children (id bigint primary key, parent_id int references parents, other_id bigint,"
        " amount numeric(12, 2) check (amount <> 76.25), at date, note varchar(20), more int default 5)",
    )
    small.declare("parents", "id: int")
    small.declare(
        "children", "id: int", made="natural", new_key="id", id_map="none",
        references=[{"column": "parent_id", "to": "parents"}, {"column": "other_id", "to": "parents"}],
    )  # fmt: skip
    small.migrating.chunk_rows = 64
    return small


EXPECTED = (
    "select c.id, p.name, o.name, c.amount, c.at::text, c.note, c.more from children c"
    " left join parents p on p.new_id = c.parent_id left join parents o on o.new_id = c.other_id order by 1"
)


def expected(small: Small, but: int = 0) -> list[tuple[object, ...]]:
    """What plain SQL says of the children whose parents are there, in the old system."""
    query = (
        "select c.id, p.name, o.name, c.amount, c.at::text, c.note, 5 from children c"
        " left join parents p on p.id = c.parent_id join parents o on o.id = c.other_id where c.id <> %s order by 1"
    )
    with small.migrating.source() as connection:
        return connection.execute(query, (but,)).fetchall()


def short_way(small: Small, name: str) -> bool:
    """Whether the first load of an entity takes it."""
    return writes_directly(small.migrating.plans()[name])


def test_references_keys_and_types_arrive_as_the_long_way_has_them(small: Small) -> None:
    """Every child stands with its own parents, those without one wait, a row that a check refuses is rejected alone."""
    assert short_way(small, "parents")
    assert short_way(small, "children")
    small.migrating.load("parents")
    went = small.migrating.load("children")
    assert small.rows(EXPECTED) == expected(small, but=76)
    assert small.outcomes("children") == {"extracted": 300, "inserted": 272, "rejected": 1, "waiting": 27}
    assert (went.compared, went.different) == (272, 0)
    assert small.rows("select count(*), count(row_hash) from ferry.id_map_parents") == [(40, 40)]


def test_a_run_has_no_use_for_pandas(small: Small) -> None:
    """Neither reading, staging, judging and the preview nor keys, references and reconciling import it (0.3 s of CPU).

    A moment with a zone and rows that are rejected by the contract, for their key and by the target are no reason.
    """
    small.source(
        "alter table parents add since timestamptz default now(), drop constraint parents_pkey",
        "insert into parents select 100 + n / 2, 'p' || n from generate_series(1, 3) n",
        "update children set note = 'none of these' where id = 5",
    )
    small.target("alter table parents add since timestamptz", "alter table children alter note set not null")
    small.source("update children set note = null where id = 6")
    small.declare("parents", "id: int; since: datetime.datetime")
    small.declare(
        "children", "id: int; note: Annotated[str, Field(pattern='^child')] | None", made="natural", new_key="id",
        id_map="none",
        references=[{"column": "parent_id", "to": "parents"}, {"column": "other_id", "to": "parents"}],
    )  # fmt: skip
    done = small.migrating.ferry("run", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ferry.reconcile" in imported
    assert "pandas" not in imported
    reasons = set(small.rows("select distinct reason from ferry.rejected_rows"))
    assert reasons >= {("duplicate_key",), ("contract",), ("target_refused",)}
    assert small.outcomes("children")["inserted"] == 270


def test_rows_that_are_there_already_are_compared_and_not_written_twice(small: Small) -> None:
    """A natural key that somebody filled before the first load: equal rows stay, another one is updated."""
    small.migrating.load("parents")
    small.target(
        "insert into children (id, parent_id, other_id, amount, at, note) select 2, p.new_id, p.new_id, 2.25,"
        " '2020-03-02', 'child2' from parents p where name = 'parent 3'",
        "insert into children (id, note) values (100, 'somebody''s')",
    )
    small.migrating.load("children")
    assert small.rows(EXPECTED) == expected(small, but=76)
    assert small.outcomes("children") == {
        "extracted": 300, "inserted": 270, "updated": 1, "unchanged": 1, "rejected": 1, "waiting": 27,
    }  # fmt: skip


def test_a_key_that_the_target_cannot_hold_is_rejected_alone(small: Small) -> None:
    """A number beyond the target's integer stops neither the others of its chunk nor those that follow."""
    small.source("create table wide (id bigint primary key, n bigint)")
    small.source(
        "insert into wide select n, case when n = 70 then 3000000000 else n end from generate_series(1, 200) n"
    )
    small.target("create table wide (id bigint primary key, n int)")
    small.declare("wide", "id: int", made="natural", new_key="id")
    assert short_way(small, "wide")
    small.migrating.load("wide")
    assert small.rejected("wide") == {"70": "target_refused"}
    assert small.rows("select count(*), sum(n) from wide") == [(199, 20100 - 70)]
    assert small.rows("select count(*) from ferry.id_map_wide m join wide w on w.id = m.new_id") == [(199,)]


def test_a_key_that_is_null_after_all_is_none_of_the_short_ways(small: Small) -> None:
    """Whatever let it through: nothing is written, and the long way is asked to find out."""
    plan = small.migrating.plans()["children"]
    with small.migrating.target() as target:
        rows = pa.table({"id": [None, None]}, pa.schema([plan.sent.field("id")]))
        for field in list(plan.sent)[1:]:
            rows = rows.append_column(field, pa.nulls(2, field.type))
        with pytest.raises(OtherwiseError, match="a key is NULL"):
            DirectLoad(plan, target).write(rows, np.arange(2), "all")
    assert small.rows("select from children") == []


def test_text_that_the_target_would_cut_takes_the_long_way(small: Small) -> None:
    """PostgreSQL cuts blanks off the end of text that is too long without a word; it is not copied blindly."""
    small.source(
        "create table notes (id int primary key, note text)", "insert into notes values (1, 'ab   ')"
    )
    small.target("create table notes (id int primary key, note varchar(3))")
    small.declare("notes", "id: int", made="natural", new_key="id", id_map="none")
    assert not short_way(small, "notes")


def test_what_was_taken_back_and_comes_again_has_the_keys_it_had(small: Small) -> None:
    """After a rollback nothing is in the ledger, and the map decides all the same."""
    small.migrating.load("parents")
    before = small.rows("select old_id, new_new_id from ferry.id_map_parents order by 1")
    roll_back(small.migrating.plans(), small.migrating.settings)
    small.migrating.load("parents")
    assert small.rows("select old_id, new_new_id from ferry.id_map_parents order by 1") == before
    assert small.rows("select count(*) from parents") == [(40,)]


def test_chunks_side_by_side_find_their_own_rows_again(small: Small) -> None:
    """With four connections at once, the hash of each chunk is that of its own rows; one altered row is found."""
    small.source(
        "create table many (note text, id bigint primary key)",
        "insert into many select repeat('x', (n * 37) % 400), n * 7919 from generate_series(1, 20000) n",
    )
    small.target("create table many (id bigint primary key, note text)")
    small.declare("many", "id: int", made="natural", new_key="id", id_map="none")
    small.migrating.chunk_rows = 500
    settings = small.migrating.settings
    settings.loaders = 4
    went = small.migrating.load("many")
    assert (went.outcomes.inserted, went.different, went.chunks) == (20000, 0, 40)
    with small.migrating.target() as target:
        whole = sql.SQL("select {} from many").format(
            added_up(hash_of_values([(sql.SQL("id"), "int8"), (sql.SQL("note"), "text")]))
        )
        kept = "select sum(row_hash) from ferry.ledger where entity = 'many'"
        assert small.rows(kept) == target.execute(whole).fetchall()
    small.target("update many set note = note || '!' where id = 7919 * 19999")
    again = small.migrating.load("many")
    assert [one.key for one in again.differences] == [str(7919 * 19999)]


COLUMNS = "id bigint primary key, n int, note varchar(20), amount numeric(9, 2), at timestamptz, ok bool, body bytea"
SECOND = COLUMNS.replace("bigint primary key, n int", "bigint, n int primary key")
ALIKE = {
    "same": (COLUMNS, COLUMNS),
    "mapped": (COLUMNS, COLUMNS),
    "wider": (
        COLUMNS,
        COLUMNS.replace("n int", "n bigint").replace("(9, 2)", "(12, 4)").replace("varchar(20)", "text"),
    ),
}
OTHERWISE = {
    "padded": (COLUMNS.replace("varchar(20)", "char(20)"), COLUMNS.replace("varchar(20)", "text")),
    "moved": (SECOND, SECOND),
    "dropped": (f"{COLUMNS}, more text", COLUMNS),
}
"""Tables there and here whose rows hash alike, and others: `moved` has its key in the second column."""


def test_the_ledger_has_the_hashes_of_what_the_target_holds_wherever_they_come_from(small: Small) -> None:
    """From the source where its rows hash as those of the target do, without a rejected row; else from the target."""
    for name, (there, here) in {**ALIKE, **OTHERWISE}.items():
        small.source(
            f"create table {name} ({there})",
            f"insert into {name} (id, n, note, amount, at, ok, body)"
            " select n, case when n % 2 = 0 then -n else n end, nullif('café ' || n, 'café 5'),"
            " case n when 7 then 'NaN' else n / 3.0 end, timestamptz '2000-02-29 12:00+00' + n * interval '4801.5 s',"
            " n % 2 = 0, int4send(n) from generate_series(1, 150) n",
        )
        small.target(f"create table {name} ({here})")
        map_ = {} if name == "mapped" else {"id_map": "none"}
        drop = {"drop": ["more"]} if name == "dropped" else {}
        key = {"key": "n", "new_key": "n"} if name == "moved" else {"new_key": "id"}
        small.declare(name, "id: int; amount: decimal.Decimal", made="natural", **map_, **key, **drop)
    plans = small.migrating.plans(*ALIKE, *OTHERWISE)
    for name in (*ALIKE, *OTHERWISE):
        plan = plans[name]
        assert writes_directly(plan)
        assert hashed_alike(plan) == (name in ALIKE)
        went = small.migrating.load(name, plans=plans)
        assert (went.compared, went.different) == (149, 0)
        assert small.rejected(name) == {"7": "contract"}
        with small.migrating.target() as target:
            whole = sql.SQL("select {} from {} t").format(
                added_up(row_hash(plan, "t")), plan.target.identifier
            )
            kept = "select sum(row_hash) from ferry.ledger where entity = %s"
            assert small.rows(kept, name) == target.execute(whole).fetchall()
    with small.migrating.target() as target:
        entries = sql.SQL(
            "select count(*), count(*) filter (where {} is distinct from row_hash)"
            " from mapped t join ferry.id_map_mapped on old_id = id"
        ).format(row_hash(plans["mapped"], "t"))
        assert target.execute(entries).fetchall() == [(149, 0)]


def test_a_value_that_changes_between_stage_and_target_is_found(small: Small) -> None:
    """The hashes in the ledger are the source's: what reaches the target otherwise is named, though Ferry wrote it."""
    small.source(
        "create table notes (id int primary key, note text)",
        "insert into notes select n, 'note ' || n from generate_series(1, 200) n",
    )
    small.target("create table notes (id int primary key, note text)")
    small.declare("notes", "id: int", made="natural", new_key="id", id_map="none")
    plans, settings = small.migrating.plans("notes"), small.migrating.settings
    read = [
        e for e in carry(plans, "notes", ("all",), settings, stages=(RAW, VALIDATED)) if isinstance(e, Staged)
    ]
    stage, manifest = Stage(settings.stage_root, "notes", "all"), read[0].manifest
    with Loader(plans, "notes", settings) as loader:
        loader.begin("all")
        way = loader.connection.execute(sql.SQL("select {}").format(WAY)).fetchone()
        for part in manifest.parts:
            rows = stage.read_hashed(manifest, part)
            hashes = SourceHashes(rows.column(ROW_HASH.name), way[0] if way else "")
            rows = rows.drop_columns([ROW_HASH.name])
            rows = rows.set_column(
                1, rows.schema.field(1), pc.replace_substring(rows.column(1), "note 77", "note 17")
            )
            verdict = Judge(loader.plan).judge(rows, None)
            load_part(loader, manifest.stage_id, "all", part, rows, verdict, {}, hashes=hashes)
        found = list(reconcile(loader, settings, {"all": manifest}))
    assert [(one.compared, one.different) for one in found] == [(200, 1)]
    assert [str(one) for one in found[0].differences] == ["key 77: note is 'note 17', should be 'note 77'"]

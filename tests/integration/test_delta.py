"""Of a partition that was staged before, only what changed is read again, and the result is as if all had been."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ferry.digest import digest
from ferry.loader import Loader
from ferry.row_hashes import FORMULA
from ferry.sources.postgres import PostgresExtraction
from ferry.stage import Manifest, Stage
from small import Small

KEYS = {
    "a number": ("id bigint", "id", "{0}"),
    "text": ("id text collate \"C\"", "id", "'k{0:05d}'"),
    "two columns": ("a int, b smallint", "a, b", "{0} / 7, ({0} % 7)::smallint"),
    "a uuid": ("id uuid", "id", "lpad(to_hex({0}), 32, '0')::uuid"),
}  # fmt: skip


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two databases, parts of forty rows."""
    small = Small(new_database, tmp_path)
    small.migrating.chunk_rows = 40
    return small


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were asked for by key, and how many came by being read in a row, each time."""
    found: list[int] = []
    picked, batches = PostgresExtraction.picked, PostgresExtraction.batches

    def counted(self: PostgresExtraction, keys: pa.Table) -> pa.Table:
        found.append(keys.num_rows)
        return picked(self, keys)

    def read(self: PostgresExtraction, *span: object) -> object:
        for batch in batches(self, *span):  # type: ignore[arg-type]
            found.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(PostgresExtraction, "picked", counted)
    monkeypatch.setattr(PostgresExtraction, "batches", read)
    return found


def declare(small: Small, kind: str, *, mapped: bool) -> None:
    """Things with a key of some kind; with keys of their own and a map, or under the old key."""
    columns, key, _ = KEYS[kind]
    names = key.split(", ")
    types = {"bigint": "int", "text": "str", "int": "int", "smallint": "int", "uuid": "uuid.UUID"}
    fields = "; ".join(f"{c.split()[0]}: {types[c.split()[1]]}" for c in columns.split(", "))
    small.source(f"create table things ({columns}, primary key ({key}), v int, note text)")
    new, unique = (
        ("new_id bigint generated always as identity primary key, ", "unique")
        if mapped
        else ("", "primary key")
    )
    small.target(f"create table things ({new}{columns}, {unique} ({key}), v int, note text)")
    fields = f"{fields}; v: int; note: str"
    if mapped:
        small.declare("things", fields, key=names, columns={name: name for name in names})
    else:
        small.declare("things", fields, key=names, new_key=names, made="natural", id_map="none")


def staged(small: Small) -> Manifest:
    """The manifest of the things."""
    manifest = Stage(small.migrating.settings.stage_root, "things", "all").manifest()
    assert manifest is not None
    return manifest


def insert(small: Small, kind: str, numbers: list[int]) -> None:
    """Put things with these numbers into the old system; every eleventh lacks what the contract asks for."""
    notes = (f"'note {number}'" if number % 11 else "null" for number in numbers)
    keys = (KEYS[kind][2].format(number) for number in numbers)
    values = ", ".join(f"({key}, {n}, {note})" for key, n, note in zip(keys, numbers, notes, strict=True))
    small.source(f"insert into things values {values}")


def chosen(kind: str, numbers: list[int]) -> str:
    """The SQL condition that picks things by their numbers."""
    keys = ", ".join(f"({KEYS[kind][2].format(number)})" for number in numbers)
    return f"({KEYS[kind][1]}) in ({keys})"


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("kind", KEYS)
def test_the_target_follows_the_source_whatever_changes(
    small: Small, asked: list[int], kind: str, mapped: bool
) -> None:
    """Rounds of new, changed and removed rows in every place: the stage holds the source, the target what is left.

    What the contract rejects stays rejected, read again or not. What was removed from the source stays in the target,
    is told of once, and comes back with its key.
    """
    declare(small, kind, mapped=mapped)
    draw = random.Random(f"{kind} {mapped}")
    there = list(range(0, 400, 2))
    insert(small, kind, there)
    small.migrating.load_all()
    gone: set[int] = set()
    for round_ in range(6):
        removed = draw.sample(there, draw.choice([0, 0, 3])) if mapped else []
        others = [number for number in there if number not in removed]
        changed = draw.sample(others, draw.choice([1, 5]))
        free = sorted(set(range(400 + 60 * round_)) - set(there))
        added = draw.sample(free, draw.choice([0, 2, 7])) + list(
            range(1000 * (round_ + 1), 1000 * (round_ + 1) + draw.choice([0, 90]))
        )
        small.source(f"update things set v = v + 1000000 where {chosen(kind, changed)}")
        if removed:
            small.source(f"delete from things where {chosen(kind, removed)}")
        if added:
            insert(small, kind, added)
        there = sorted({*others, *added})
        gone = (gone | {number for number in removed if number % 11}) - set(added)
        asked.clear()
        loaded = small.migrating.load("things")
        assert not loaded.failed
        assert not loaded.different
        assert sum(asked) <= len(changed) + len(added)
        assert staged(small).rows == len(there)
        assert loaded.outcomes.rejected == sum(number % 11 == 0 for number in there)
        with small.migrating.source() as connection:
            wanted = connection.execute(
                f"select {KEYS[kind][1]}, v, note from things where note is not null order by v".encode()
            ).fetchall()
        kept = f"not ({chosen(kind, sorted(gone))})" if gone else "true"
        found = small.rows(f"select {KEYS[kind][1]}, v, note from things where {kept} order by v")
        assert found == wanted
        with Loader(small.migrating.plans(), "things", small.migrating.settings) as loader:
            books = digest(loader, ["all"])
        assert gone or (books and books["all"].reconciled)
        vanished = small.rows(
            "select count(*) from ferry.vanished_rows where entity = 'things' and key <> '{}'"
        )
        assert vanished == [(len(gone),)]


def test_a_span_with_far_more_rows_than_before_is_read_as_a_whole(small: Small, asked: list[int]) -> None:
    """Five hundred rows between two old ones come as rows, in parts of the usual size."""
    declare(small, "a number", mapped=True)
    insert(small, "a number", [*range(20), *range(10_000, 10_100)])
    small.migrating.load_all()
    insert(small, "a number", list(range(100, 600)))
    loaded = small.migrating.load("things")
    assert loaded.outcomes.inserted == sum(number % 11 > 0 for number in range(100, 600))
    assert not loaded.different
    assert max(part.rows for part in staged(small).parts) <= 40
    assert sum(asked) < 700


def test_a_stage_with_hashes_of_an_earlier_formula_is_read_anew(small: Small, asked: list[int]) -> None:
    """None of its hashes is held against one of the source's: all rows come again, and only what changed is written."""
    declare(small, "a number", mapped=True)
    insert(small, "a number", list(range(1, 101)))
    small.migrating.load_all()
    path = Stage(small.migrating.settings.stage_root, "things", "all").folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["formula"]
    path.write_text(json.dumps(manifest))
    small.source("update things set v = 0 where id = 5")
    asked.clear()
    again = small.migrating.load("things")
    assert (again.outcomes.updated, again.different, sum(asked)) == (1, 0, 100)
    assert staged(small).formula == FORMULA


def test_parts_stay_small_however_often_rows_come_between(small: Small) -> None:
    """A table that doubles five times, each new key between two old ones: no part has more than half as many again."""
    declare(small, "a number", mapped=True)
    insert(small, "a number", list(range(0, 102_400, 1024)))
    small.migrating.load_all()
    for step in (512, 256, 128, 64, 32):
        insert(small, "a number", list(range(step, 102_400, 2 * step)))
        assert not small.migrating.load("things").failed
        assert max(part.rows for part in staged(small).parts) <= 60


def test_wide_rows_that_come_between_are_cut_by_their_bytes(small: Small) -> None:
    """Four MiB of them in a span of small rows: no part takes more than two parts' bytes."""
    small.migrating.chunk_rows, small.migrating.chunk_bytes = 1000, 2**20
    declare(small, "a number", mapped=True)
    insert(small, "a number", [1, 2, 3, 10_000])
    small.migrating.load_all()
    small.source("insert into things select i, i, repeat('x', 20000) from generate_series(100, 300) i")
    loaded = small.migrating.load("things")
    assert (loaded.outcomes.inserted, loaded.different) == (201, 0)
    stage, manifest = Stage(small.migrating.settings.stage_root, "things", "all"), staged(small)
    assert max(stage.read(manifest, part).nbytes for part in manifest.parts) <= 2 * 2**20


def test_what_the_target_takes_by_now_is_loaded_when_another_row_changes(small: Small) -> None:
    """Rows that it refused are judged again, though they are as they were."""
    declare(small, "a number", mapped=True)
    insert(small, "a number", list(range(3, 11)))
    small.target("alter table things alter note type varchar(6)")
    small.migrating.load_all()
    refused = small.rejected("things")
    assert refused == {"10": "target_refused"}
    small.source("update things set note = 'short', v = v where id = 3")
    small.target("alter table things alter note type text")
    loaded = small.migrating.load("things")
    assert (loaded.outcomes.rejected, loaded.different) == (0, 0)
    assert small.rows("select count(*) from things") == [(8,)]


def test_everything_that_is_removed_leaves_an_empty_stage(small: Small) -> None:
    """Also the last row; what was loaded is told of as vanished."""
    declare(small, "a number", mapped=True)
    insert(small, "a number", list(range(100)))
    small.migrating.load_all()
    small.source("delete from things")
    loaded = small.migrating.load("things")
    assert not loaded.failed
    assert (staged(small).rows, staged(small).parts) == (0, ())
    assert small.rows("select count(*) from ferry.vanished_rows") == [(90,)]


def test_a_hash_that_does_not_tell_a_change_is_noticed_and_the_next_run_reads_all(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of the source do not fit what was staged: nothing is loaded from it, and the next run mends it."""
    declare(small, "a number", mapped=True)
    insert(small, "a number", list(range(100)))
    small.migrating.load_all()
    small.source("update things set v = v + 1 where id in (5, 7)")
    hashes = PostgresExtraction.hashes

    def blind(self: PostgresExtraction, span: object) -> object:
        manifest = staged(small)
        old = [
            Stage(small.migrating.settings.stage_root, "things", "all").read_hashed(manifest, part)
            for part in manifest.parts
        ]
        known = dict(
            zip(
                *(pa.concat_tables(old).column(name).to_pylist() for name in ("id", "_row_hash")), strict=True
            )
        )
        for batch in hashes(self, span):  # type: ignore[arg-type]
            ids = batch.column(0).to_pylist()
            told = [
                known[5] if id_ == 5 else hash_
                for id_, hash_ in zip(ids, batch.column(1).to_pylist(), strict=True)
            ]
            yield pa.RecordBatch.from_arrays(
                [batch.column(0), pa.array(told, pa.int64())], schema=batch.schema
            )

    with monkeypatch.context() as patch:
        patch.setattr(PostgresExtraction, "hashes", blind)
        failed = small.migrating.load("things").failed
    assert "what was read is not what the source holds" in str(failed["all"])
    assert small.rows("select v from things where id = 5") == [(5,)]
    assert not small.migrating.load("things").different
    assert small.rows("select v from things where id in (5, 7) order by 1") == [(6,), (8,)]

"""The staging area: whole or not there, and what was written is what is read."""

import dataclasses
import json
import resource
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.errors import FerryError, PermanentError, PromiseBroken
from ferry.sources.facts import Facts
from ferry.stage import Manifest, Stage, cut

SCHEMA = pa.schema([("id", pa.int64()), ("price", pa.decimal128(12, 2)), ("text", pa.string())])


def batch(first: int, count: int) -> pa.RecordBatch:
    """Rows with ids from `first`, prices of id + 0.10 and some text."""
    ids = range(first, first + count)
    return pa.RecordBatch.from_pylist(
        [{"id": n, "price": Decimal(n) + Decimal("0.10"), "text": f"row {n} 🚢"} for n in ids], schema=SCHEMA
    )


def facts(count: int, **wrong: object) -> Facts:
    """What a source with the rows 0 … count-1 says of itself, but for what is said to be wrong."""
    price = format((sum(range(count)) + Decimal("0.10") * count).normalize(), "f")
    told = {"id": str(sum(range(count))), "price": price, "rows": count, **wrong}
    return Facts(int(str(told.pop("rows"))), told)


def fill(stage: Stage, count: int = 250, chunk_rows: int = 100) -> Manifest:
    """Stage the rows 0 … count-1 in parts."""
    for _ in stage.write([batch(0, count)], SCHEMA, chunk_rows=chunk_rows, chunk_bytes=2**20):
        pass
    return stage.seal(facts(count), None, "2021-03-04T05:06:07+00:00")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """The staging area of one partition, empty."""
    return Stage(str(tmp_path), "orders", "2021-03")


def test_what_is_read_is_what_was_written(stage: Stage) -> None:
    """Parts of the size that was asked for, whole, in order, and counted and summed in the manifest."""
    written = fill(stage)
    found = stage.manifest()
    assert found == written
    assert found is not None
    assert [part.rows for part in found.parts] == [100, 100, 50]
    assert (found.rows, found.sums["id"], found.sums["price"]) == (250, "31125", "31150")
    table = pa.concat_tables([stage.read(found, part) for part in found.parts])
    assert table.to_pylist() == batch(0, 250).to_pylist()


def test_an_unfinished_stage_is_none(stage: Stage) -> None:
    """Parts that were written but never sealed are not what the next reader sees."""
    for _ in stage.write([batch(0, 10)], SCHEMA, chunk_rows=5, chunk_bytes=2**20):
        assert stage.manifest() is None
    assert stage.manifest() is None


def test_while_a_stage_is_written_readers_see_the_one_before(stage: Stage, tmp_path: Path) -> None:
    """The manifest is replaced in one step; the parts of the old stage are there until then, and gone after."""
    before = fill(stage, 120)
    again = Stage(str(tmp_path), "orders", "2021-03")
    for _ in again.write([batch(0, 30)], SCHEMA, chunk_rows=10, chunk_bytes=2**20):
        assert stage.manifest() == before
        assert stage.read(before, before.parts[0]).num_rows == 100
    after = again.seal(facts(30), None, "2021-03-04T06:06:07+00:00")
    assert stage.manifest() == after
    with pytest.raises(PermanentError, match=r"part-00000.parquet: a staged part is gone"):
        stage.read(before, before.parts[0])
    folders = [path for path in (tmp_path / "orders" / "2021-03").iterdir() if path.is_dir()]
    assert [folder.name for folder in folders] == [after.stage_id]


def test_no_name_ever_shows_half_a_file(stage: Stage, tmp_path: Path) -> None:
    """The file may not grow in the middle of a part: nothing has the part's name, and nothing is left of it."""
    writing: Iterator[object] = stage.write([batch(0, 250)], SCHEMA, chunk_rows=100, chunk_bytes=2**20)
    next(writing)
    (written,) = tmp_path.rglob("part-*")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written.stat().st_size // 2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            next(writing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.rglob("*part-*")] == ["part-00000.parquet"]
    assert stage.manifest() is None


@pytest.mark.parametrize("damage", ["one bit", "cut short", "another part's bytes"])
def test_a_part_that_was_altered_is_found(stage: Stage, tmp_path: Path, damage: str) -> None:
    """Its bytes are held against the manifest's hash before a row of it is believed."""
    manifest = fill(stage)
    folder = tmp_path / "orders" / "2021-03" / manifest.stage_id
    path = folder / manifest.parts[1].file
    body = bytearray(path.read_bytes())
    if damage == "one bit":
        body[len(body) // 2] ^= 1
    elif damage == "cut short":
        del body[-1]
    else:
        body = bytearray((folder / manifest.parts[0].file).read_bytes())
    path.write_bytes(body)
    with pytest.raises(
        PermanentError, match=r"orders, 2021-03, part-00001.parquet: a staged part is not what was"
    ):
        stage.read(manifest, manifest.parts[1])
    assert stage.read(manifest, manifest.parts[0]).num_rows == 100


def test_doubt_of_a_stage_that_is_no_longer_current_leaves_the_newer_one(stage: Stage) -> None:
    """Another run has staged the partition anew and removed the parts that this one still wanted."""
    before = fill(stage, 120)
    after = fill(stage, 130)
    with pytest.raises(PermanentError, match="a staged part is gone"):
        stage.read(before, before.parts[0])
    assert stage.manifest() == after


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"rows": 251}, "251 rows there and 250 here"), ({"id": "31126"}, "sum(id) is 31126 there and 31125 here"),
     ({"price": "31150.01"}, "sum(price) is 31150.01 there and 31150 here"), ({"id": None}, "sum(id) is None there")],
)  # fmt: skip
def test_rows_or_sums_that_differ_from_the_sources_are_refused(
    stage: Stage, wrong: dict[str, object], said: str
) -> None:
    """What the source counted in the same snapshot decides; nothing becomes current, and the old stage stays."""
    before = fill(stage, 20)
    for _ in stage.write([batch(0, 250)], SCHEMA, chunk_rows=100, chunk_bytes=2**20):
        pass
    with pytest.raises(PromiseBroken) as error:
        stage.seal(facts(250, **wrong), None, "2021-03-04T05:06:07+00:00")
    assert said in str(error.value)
    assert stage.manifest() == before


def test_the_content_hash_is_that_of_the_content(tmp_path: Path) -> None:
    """Equal rows give equal hashes wherever and whenever they are staged; one other value gives another."""
    one, two = (fill(Stage(str(tmp_path / name), "orders", "2021-03")) for name in ("a", "b"))
    assert one.content_hash == two.content_hash
    assert one.stage_id != two.stage_id
    other = Stage(str(tmp_path / "c"), "orders", "2021-03")
    changed = batch(0, 250).set_column(2, "text", pa.array(["row"] * 249 + ["?"]))
    for _ in other.write([changed], SCHEMA, chunk_rows=100, chunk_bytes=2**20):
        pass
    assert other.seal(facts(250), None, "").content_hash != one.content_hash


def test_repeated_keys_lie_beside_the_parts(stage: Stage) -> None:
    """They are part of the content: the same rows with another list of repeated keys are another stage."""
    plain = fill(stage)
    repeated = pa.table({"id": pa.array([7, 9], pa.int64())})
    for _ in stage.write([batch(0, 250)], SCHEMA, chunk_rows=100, chunk_bytes=2**20):
        pass
    manifest = stage.seal(facts(250), repeated, "")
    assert manifest.duplicate_keys == 2
    assert manifest.content_hash != plain.content_hash
    assert stage.duplicates(manifest) == repeated
    assert stage.duplicates(plain) is None


def test_a_partition_without_rows_is_staged_too(stage: Stage) -> None:
    """No part, no sum, and a manifest that says so."""
    for _ in stage.write([], SCHEMA, chunk_rows=100, chunk_bytes=2**20):
        pass
    manifest = stage.seal(Facts(0, {"id": None, "price": None}), None, "")
    assert (manifest.rows, manifest.parts, manifest.sums) == (0, (), {"id": None, "price": None})


def test_the_manifest_is_plain_json(stage: Stage, tmp_path: Path) -> None:
    """Anybody can read it: its keys are the fields of `Manifest`."""
    manifest = fill(stage)
    found = json.loads((tmp_path / "orders" / "2021-03" / "manifest.json").read_text())
    assert set(found) == {field.name for field in dataclasses.fields(Manifest)}
    assert found["content_hash"] == manifest.content_hash


def test_a_part_that_was_given_out_is_not_kept(stage: Stage) -> None:
    """While one part is loaded the next one is read: the stage itself holds on to no row of it."""

    def arriving() -> Iterator[pa.RecordBatch]:
        yield batch(0, 3000)
        held.append(pa.total_allocated_bytes() - before)
        yield batch(3000, 10)

    held: list[int] = []
    before = pa.total_allocated_bytes()
    parts = stage.write(arriving(), SCHEMA, chunk_rows=1000, chunk_bytes=2**20)
    sizes = [next(parts)[1].nbytes for _ in range(3)]
    assert next(parts)[1].num_rows == 10
    assert held[0] < sizes[-1] / 10


@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    rows=st.integers(1, 30),
    size=st.sampled_from([1024, 10**6]),
)
def test_parts_do_not_depend_on_the_drivers_batches(sizes: list[int], rows: int, size: int) -> None:
    """However the rows arrive, no part has more than `rows`, none is lost, and only the last may be short."""
    total, batches = 0, []
    for count in sizes:
        batches.append(batch(total, count))
        total += count
    tables = list(cut(batches, SCHEMA, rows, size))
    assert [n for table in tables for n in table.column("id").to_pylist()] == list(range(total))
    assert all(0 < table.num_rows <= rows for table in tables)
    if size == 10**6:
        assert all(table.num_rows == rows for table in tables[:-1])


def test_every_error_of_a_stage_is_ferrys_own() -> None:
    """What `pipeline` catches covers what `stage` raises."""
    assert issubclass(PermanentError, FerryError)
    assert issubclass(PromiseBroken, PermanentError)

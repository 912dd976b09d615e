"""Staged Parquet: what was read from the source, whole and unchanged, so that no retry goes back for it.

    <stage_root>/<entity>/<partition>/
        manifest.json                   the current stage of this partition
        <stage_id>/part-00000.parquet   written under a temporary name, renamed when whole
        <stage_id>/verdict-<contract>/part-00000.parquet
        arrived/                        pages of a source that brings them one by one, until they are loaded

The manifest is written last and replaced in one step: whoever reads sees a whole stage or the one before it.
"""

import contextlib
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from ferry.arrow import constant, numbers_of
from ferry.errors import PermanentError, PromiseBroken
from ferry.row_hashes import FORMULA, sum_of
from ferry.sources.facts import ROW_HASH, Facts, canonical_number, exact_sum, summable

MANIFEST = "manifest.json"
DUPLICATES = "duplicates.parquet"
ARRIVED = "arrived"
LONGEST_NAME = 120
_NO = constant(False, pa.bool_())


@dataclass(frozen=True)
class Part:
    """One staged part, which is loaded as one chunk: its number, file, rows, bytes and content hash."""

    number: int
    file: str
    rows: int
    bytes: int
    content_hash: str


@dataclass(frozen=True)
class Manifest:
    """What a stage holds; `content_hash` covers every part and the list of repeated keys.

    `fingerprint` is what the source said of the same rows (`Facts.fingerprint`), '' if it said nothing; `hashed` the
    key in whose order the rows lie there with their hashes, nothing if they have none, and `formula` the one of these
    hashes (`row_hashes.FORMULA`). `since` is the content hash of the stage that this one was made from without losing a
    row of it.
    """

    entity: str
    partition: str
    stage_id: str
    taken_at: str
    content_hash: str
    rows: int
    bytes: int
    columns: dict[str, str]
    sums: dict[str, str | None]
    parts: tuple[Part, ...] = field(default=())
    duplicate_keys: int = 0
    said: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    hashed: tuple[str, ...] = ()
    formula: int = 1
    since: str = ""


class Stage:
    """The staging area of one partition of one entity."""

    def __init__(self, root: str, entity: str, partition: str) -> None:
        """Args: the storage URI or folder, the entity's and the partition's name."""
        self.entity, self.partition = entity, partition
        self.folder = UPath(root) / entity / file_name(partition)
        self.where = f"{entity}, {partition}"

    def manifest(self) -> Manifest | None:
        """The current manifest, or None when this partition was never staged."""
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        parts, hashed = (Part(**part) for part in found["parts"]), tuple(found.get("hashed", ()))
        return Manifest(**{**found, "parts": tuple(parts), "hashed": hashed})

    def write(
        self,
        batches: Iterable[pa.RecordBatch],
        schema: pa.Schema,
        *,
        chunk_rows: int,
        chunk_bytes: int,
        hashed: tuple[str, ...] = (),
    ) -> Iterator[tuple[Part, pa.Table, pa.ChunkedArray | None]]:
        """Write parts as rows arrive; each is given out as `add` does, as soon as it is whole.

        Call `seal` afterwards; without it the stage never becomes current.
        """
        self.begin(schema, hashed=hashed)
        whole = schema.append(ROW_HASH) if hashed else schema
        yield from map(self.add, cut(batches, whole, chunk_rows, chunk_bytes))

    def begin(self, schema: pa.Schema, *, hashed: tuple[str, ...] = ()) -> None:
        """Begin to write a stage, one part after the other; with `hashed` if the rows come with `ROW_HASH`."""
        self._stage_id = uuid.uuid4().hex
        self._parts: list[Part] = []
        self._totals: dict[str, Decimal | int | None] = {f.name: None for f in schema if summable(f.type)}
        self._schema = schema
        self._hashed, self._hashes = hashed, 0

    def add(self, table: pa.Table) -> tuple[Part, pa.Table, pa.ChunkedArray | None]:
        """Write one part; returns it with its rows, and their hashes apart from them if they came with such."""
        number = len(self._parts)
        file = f"part-{number:05d}.parquet"
        rows = table.num_rows
        with _whole(self._path(file)) as opened:
            told = _Told(opened)
            _write_parquet(table, told)
        self._parts.append(Part(number, file, rows, told.bytes, told.hash.hexdigest()))
        hashes = None
        if self._hashed:
            hashes = table.column(ROW_HASH.name)
            self._hashes += sum_of(hashes)
            table = table.drop_columns([ROW_HASH.name])
        for name in self._totals:
            total = exact_sum(table.column(name))
            if total is not None:
                before = self._totals[name]
                self._totals[name] = total if before is None else before + total
        return self._parts[-1], table, hashes

    def seal(self, facts: Facts, duplicates: pa.Table | None, taken_at: str, *, since: str = "") -> Manifest:
        """Make the stage that was just written the current one, once it agrees with what the source counted.

        Args:
            facts: what the source says of the rows.
            duplicates: `Extraction.duplicates`.
            taken_at: the source's clock.
            since: `Manifest.since`.

        Raises:
            PromiseBroken: rows or sums differ from the source's own, taken in the same snapshot.
        """
        rows = sum(part.rows for part in self._parts)
        sums = {
            name: None if total is None else canonical_number(total) for name, total in self._totals.items()
        }
        wrong = [
            f"sum({name}) is {facts.sums[name]} there and {sums[name]} here"
            for name in sums
            if name in facts.sums and facts.sums[name] != sums[name]
        ]
        hashes = str(self._hashes) if self._hashed else ""
        if facts.fingerprint and hashes and facts.fingerprint != hashes:
            wrong.append("the rows' hashes add up to something else")
        if rows != facts.rows:
            wrong.insert(0, f"{facts.rows} rows there and {rows} here")
        if wrong:
            raise PromiseBroken(
                "what was read is not what the source holds",
                where=self.where,
                why="; ".join(wrong[:3]),
                next="Nothing was loaded from it; run it again, and check the source's driver if it comes back",
            )
        digest = hashlib.blake2b(digest_size=16)
        for part in self._parts:
            digest.update(part.content_hash.encode())
        if duplicates is not None and duplicates.num_rows:
            body = parquet(duplicates)
            digest.update(hashlib.blake2b(body).digest())
            put(self._path(DUPLICATES), body)
        manifest = Manifest(
            entity=self.entity,
            partition=self.partition,
            stage_id=self._stage_id,
            taken_at=taken_at,
            content_hash=digest.hexdigest(),
            rows=rows,
            bytes=sum(part.bytes for part in self._parts),
            columns=columns_of(self._schema),
            sums=sums,
            parts=tuple(self._parts),
            duplicate_keys=duplicates.num_rows if duplicates is not None else 0,
            said=facts.said,
            fingerprint=facts.fingerprint or hashes,
            hashed=self._hashed,
            formula=FORMULA,
            since=since,
        )
        before = self.manifest()
        put(self.folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        if before is not None:
            self._forget(before.stage_id)
        return manifest

    def renew(self, facts: Facts, schema: pa.Schema, taken_at: str) -> Manifest | None:
        """Keep the stage as it is, as of a later moment, if the source says that it still holds the same rows.

        Returns:
            The manifest, or None when the source says nothing or something else, or a part is not as it was written.
        """
        manifest = self.manifest()
        if manifest is None or not facts.fingerprint or not self.holds(manifest, schema):
            return None
        if (facts.rows, facts.fingerprint) != (manifest.rows, manifest.fingerprint):
            return None
        # Of a `bigint`, PostgreSQL hashes 32 bits; the sums have all of it.
        if any(manifest.sums.get(name, total) != total for name, total in facts.sums.items()):
            return None
        manifest = replace(manifest, taken_at=taken_at)
        put(self.folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        return manifest

    def holds(self, manifest: Manifest, schema: pa.Schema) -> bool:
        """Whether every part of a manifest is there, as long as it was written, and has these columns."""
        return manifest.columns == columns_of(schema) and all(
            self._size(manifest, part) == part.bytes for part in manifest.parts
        )

    def sample(self, manifest: Manifest, rows: int = 5) -> pa.Table | None:
        """The first rows, without reading the whole of the first part; None if there are none."""
        if not manifest.parts:
            return None
        with (self.folder / manifest.stage_id / manifest.parts[0].file).open("rb") as file:
            batch = next(
                pq.ParquetFile(file).iter_batches(batch_size=rows, columns=list(manifest.columns)), None
            )
            return pa.Table.from_batches([batch]) if batch is not None else None

    def read(self, manifest: Manifest, part: Part) -> pa.Table:
        """The rows of a part, after its bytes were compared with the hash in the manifest."""
        rows = self.read_hashed(manifest, part)
        return rows.drop_columns([ROW_HASH.name]) if manifest.hashed else rows

    def read_hashed(self, manifest: Manifest, part: Part) -> pa.Table:
        """The same, with `ROW_HASH` where the stage has it."""
        path = self.folder / manifest.stage_id / part.file
        try:
            body = path.read_bytes()
        except FileNotFoundError:
            self.doubt(manifest)
            raise PermanentError(
                "a staged part is gone",
                where=f"{self.where}, {part.file}",
                next="Materialize raw again to stage it anew",
            ) from None
        if hashlib.blake2b(body, digest_size=16).hexdigest() != part.content_hash:
            self.doubt(manifest)
            raise PermanentError(
                "a staged part is not what was written",
                where=f"{self.where}, {part.file}",
                why="its content hash differs from the manifest's",
                next="Materialize raw again to stage it anew",
            )
        return _table(body)

    def same_rows(
        self, earlier: Manifest, number: int, table: pa.Table, key: tuple[str, ...]
    ) -> tuple[str, np.ndarray] | None:
        """Which rows of a new part are as they were in the part of the same number of an earlier stage.

        Returns:
            The earlier part's content hash and a mask over the rows; None where they cannot be told: there is no such
            part, or its keys are not the first keys of this one, in their order.
        """
        if number >= len(earlier.parts) or earlier.columns != columns_of(table.schema):
            return None
        part = earlier.parts[number]
        if part.rows > table.num_rows or not (self.folder / earlier.stage_id / part.file).exists():
            return None
        old, new = self.read(earlier, part), table.slice(0, part.rows)
        try:
            equal = {name: _equal(old.column(name), new.column(name)) for name in key}
            if not all(mask.all() for mask in equal.values()):
                return None
            for name in table.schema.names:
                if name not in equal:
                    equal[name] = _equal(old.column(name), new.column(name))
        except pa.ArrowNotImplementedError:
            return None
        same = np.zeros(table.num_rows, dtype=bool)
        same[: part.rows] = np.logical_and.reduce(list(equal.values()))
        return part.content_hash, same

    def duplicates(self, manifest: Manifest) -> pa.Table | None:
        """The keys that occur more than once in the source, as staged; None if there are none."""
        if not manifest.duplicate_keys:
            return None
        body = (self.folder / manifest.stage_id / DUPLICATES).read_bytes()
        return _table(body)

    def write_beside(self, stage_id: str, name: str, body: bytes) -> None:
        """Write a file beside the parts of a stage (a verdict)."""
        put(self.folder / stage_id / name, body)

    def read_beside(self, stage_id: str, name: str) -> bytes | None:
        """Read what `write_beside` wrote, or None."""
        path = self.folder / stage_id / name
        return path.read_bytes() if path.exists() else None

    @property
    def stage_id(self) -> str:
        """The id of the stage that is being written."""
        return self._stage_id

    def _size(self, manifest: Manifest, part: Part) -> int:
        try:
            return (self.folder / manifest.stage_id / part.file).stat().st_size
        except FileNotFoundError:
            return -1

    def doubt(self, manifest: Manifest) -> None:
        """Make sure that the next materialization reads the source, unless somebody has staged the partition anew."""
        current = self.manifest()
        if current is None or current.stage_id != manifest.stage_id:
            return
        doubted = replace(manifest, fingerprint="")
        put(self.folder / MANIFEST, json.dumps(asdict(doubted), indent=1).encode())

    def _path(self, file: str) -> UPath:
        return self.folder / self._stage_id / file

    @property
    def arrived(self) -> UPath:
        """The folder of the pages that have arrived and are not loaded yet."""
        return self.folder / ARRIVED

    def forget_arrived(self) -> None:
        """Remove the pages that have arrived: the next reading begins at the beginning."""
        remove(self.arrived)

    def _forget(self, stage_id: str) -> None:
        """Remove the files of a stage that is no longer current; one that somebody else is writing stays."""
        remove(self.folder / stage_id)


def put(path: UPath, body: bytes) -> None:
    """Write a file so that its name never shows half of it."""
    with _whole(path) as file:
        file.write(body)


@contextlib.contextmanager
def _whole(path: UPath) -> Iterator[IO[bytes]]:
    """A file to write into, which gets its name when it is whole. An object store's PUT is whole by itself."""
    if path.protocol in ("", "file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as file:
                yield file
            temporary.rename(path)
        except BaseException:
            # On a full disk, half a file would take the room that the next try needs.
            temporary.unlink(missing_ok=True)
            raise
    else:
        body = io.BytesIO()
        yield body
        path.write_bytes(body.getvalue())


class _Told:
    """A file that tells how many bytes were written to it, and their hash: nobody holds all of them for that."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.bytes, self.hash = file, 0, hashlib.blake2b(digest_size=16)

    def write(self, body: bytes) -> None:
        self._file.write(body)
        self.hash.update(body)
        self.bytes += len(body)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Whoever opened the file closes it."""


def remove(folder: UPath) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if not folder.exists():
        return
    for path in sorted(folder.rglob("*"), key=lambda path: -len(path.parts)):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Where two columns hold the same, NULL being the same as NULL."""
    same = numbers_of(pc.fill_null(pc.call_function("equal", [one, other]), _NO))
    if one.null_count and other.null_count:
        same = same | (numbers_of(one.is_null()) & numbers_of(other.is_null()))
    return same


def parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    _write_parquet(table, sink)
    return sink.getvalue()


def _write_parquet(table: pa.Table, sink: Any) -> None:
    """Write a table as Parquet, cheap to write and to read again."""
    pq.write_table(
        table,
        sink,
        compression="lz4",
        use_dictionary=False,
        write_statistics=False,
        store_decimal_as_integer=True,
        write_batch_size=16_384,
    )


def _table(body: bytes) -> pa.Table:
    """What `parquet` made; by one thread, for on files of this size several take four times the CPU."""
    return pq.ParquetFile(pa.BufferReader(body)).read(use_threads=False)


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Columns and their types in the source's words, as a manifest records them."""
    return {f.name: (f.metadata or {}).get(b"pg_type", str(f.type).encode()).decode() for f in schema}


def file_name(key: str) -> str:
    """The name of a folder or file for any partition's key: no two have one, none leads elsewhere or is too long."""
    name = quote(key, safe=" |()[]+,=@&:")
    if not name.strip("."):
        name = name.replace(".", "%2E")
    return (
        name
        if len(name) <= LONGEST_NAME
        else f"{name[:LONGEST_NAME]}%{hashlib.sha256(key.encode()).hexdigest()}"
    )


def cut(batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int, size: int) -> Iterator[pa.Table]:
    """Regroup batches into tables of exactly `rows` rows, or fewer where `size` bytes are reached first.

    Cutting by count makes the parts of an unchanged source the same each time, whatever the driver's batches are.
    """

    def joined() -> pa.Table:
        # Nothing of a part that was given out stays here: while it is loaded, the next one is read.
        table = pa.Table.from_batches(held, schema).combine_chunks()
        held.clear()
        return table

    held: list[pa.RecordBatch] = []
    count = total = 0
    for batch in batches:
        while batch.num_rows:
            room = rows - count
            width = max(1, batch.nbytes // batch.num_rows)
            take = min(batch.num_rows, room, max(1, (size - total) // width + 1))
            held.append(batch.slice(0, take))
            count, total = count + take, total + take * width
            batch = batch.slice(take)
            if count >= rows or total >= size:
                count = total = 0
                yield joined()
        del batch
    if held:
        yield joined()

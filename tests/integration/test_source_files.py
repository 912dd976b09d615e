"""Files of every kind, local, on an S3-like store and over SFTP, with the faults that files have."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import paramiko
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from emulators import reader
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.sources.files import FileSource
from ferry.sources.page import WindowIncomplete
from file_stores import S3, Folder, SftpServer

ROWS = [
    {"id": str(n), "name": f'Größe "{n}"', "note": None if n % 3 == 0 else f"a,b\nline {n}"}
    for n in range(3000)
]
SMALL = 8_192


def write_csv(path: Path, rows: list[dict[str, Any]] = ROWS, pack: Callable[[bytes], bytes] = bytes) -> Path:
    """A CSV file of the rows, as Python writes it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    path.write_bytes(pack(out.getvalue().encode()))
    return path


def zstd(data: bytes) -> bytes:
    """Packed by Zstandard."""
    return pa.compress(data, "zstd", asbytes=True)


def rows(source: FileSource, window: Any = None, checkpoint: Any = None) -> list[dict[str, Any]]:
    """All rows that the source brings, in order."""
    return [row for page in source.read(window, checkpoint) for row in page.batch.to_pylist()]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstd)])
def test_csv_in_blocks(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    """Quotes, doubled quotes, newlines and nulls come as they are, packed or not, in many small blocks."""
    path = write_csv(tmp_path / f"rows.csv{ending}", pack=pack)
    source = FileSource(url=str(path), block_bytes=SMALL)
    pages = list(source.read(None, None))
    assert len(pages) == 1 if ending else len(pages) >= 1
    assert [r for p in pages for r in p.batch.to_pylist()] == ROWS
    assert source.completeness is not None
    assert source.completeness.stated == source.completeness.arrived == 3000


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet", "fixed"])
def test_after_a_kill_reading_goes_on_in_the_file(tmp_path: Path, kind: str) -> None:
    """Killed after each of the first pages, every row has come once, and the hash is that of one reading."""
    big = [{"id": str(n), "name": f"name {n}", "note": "x" * 900} for n in range(4000)]
    given: dict[str, Any] = {"block_bytes": 1 << 20}
    path = tmp_path / f"rows.{kind}"
    if kind.startswith("csv"):
        write_csv(path, big, gzip.compress if kind.endswith("gz") else bytes)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in big))
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(big), path, row_group_size=1000)
    else:
        path.write_text("".join(f"{r['id']:>10}{r['name']:<20}{r['note']}\n" for r in big))
        columns = {"id": [1, 10], "name": [11, 30], "note": [31, 930]}
        given["format"] = {"kind": "fixed", "columns": columns}
    spec = {"kind": "files", "given": {"url": str(path), **given}}
    reader.read(spec, tmp_path / "whole")
    for _ in range(2):
        assert reader.run(spec, tmp_path / "cut", 1).returncode == -9
    reader.read(spec, tmp_path / "cut")
    assert reader.rows(tmp_path / "cut") == reader.rows(tmp_path / "whole") == big
    assert (tmp_path / "cut/said.json").read_text() == (tmp_path / "whole/said.json").read_text()


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        (b"id,name\n1,a\n2\n3,c\n", {}, "line 3: the record has 1 values, and there are 2 columns"),
        (b'id,name\n1,"a\nb"\n2,b,c\n', {}, "line 4: the record has 3 values"),
        (b'id,name\n1,5" pipe\n', {}, "line 2: a quote stands inside a value"),
        (b'id,name\n1,"a"b\n', {}, "line 2: a quote stands inside a value"),
        (b'id,name\n1,a\n2,"never closed\n3,c\n', {}, "line 3: a quote is opened and not closed"),
        (b"id,id\n1,2\n", {}, "two columns are called 'id'"),
        (b"id,\n1,2\n", {}, "a column has no name"),
        (b"", {}, "empty"),
        (b"id,name\n1,a\n2,\xff\n", {}, "line 3, byte 3: byte 0xff is not UTF-8"),
        (b"id,name\n1,\x81\n", {"encoding": "cp1252"}, "it is not cp1252"),
        (b"id,name\n", {"encoding": "klingon"}, "no such encoding"),
        (b"only\n", {"skip": 4}, "fewer than 4 lines"),
    ],
)
def test_csv_faults_have_their_line(tmp_path: Path, text: bytes, form: dict[str, Any], message: str) -> None:
    """Every fault of a CSV file is said with file and line, and no row of its block is handed on."""
    path = tmp_path / "rows.csv"
    path.write_bytes(text)
    with pytest.raises(FerryError, match=message) as raised:
        rows(FileSource(url=str(path), format={"kind": "csv", **form}))
    assert "rows.csv" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("id;name\r\n1;Größe\r\n2;\r\n", {"delimiter": ";", "encoding": "cp1252"}),
        ("id\tname\n1\tGröße\n2\t\n", {"delimiter": "\t", "encoding": "utf-16"}),
        ("# made by\n# somebody\nid,name\n1,Größe\n2,\n", {"skip": 2}),
        ("\ufeffid,name\n1,Größe\n2,\n\n", {}),
        ("id,name\n1,Größe\n2,NULL\n", {"null": ["NULL"]}),
        ("id,name\n1,Größe\n2,", {}),
    ],
)
def test_csv_dialects(tmp_path: Path, text: str, form: dict[str, Any]) -> None:
    """Delimiters, encodings, a byte order mark, lines to skip, words for null, a last line without end."""
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode(form.get("encoding", "utf-8")))
    assert rows(FileSource(url=str(path), format={"kind": "csv", **form})) == [
        {"id": "1", "name": "Größe"}, {"id": "2", "name": None},
    ]  # fmt: skip


def test_csv_with_escapes_or_without_quoting(tmp_path: Path) -> None:
    """A backslash takes the next character literally; without quoting a quote is a character."""
    path = tmp_path / "rows.csv"
    path.write_text('id,name\n1,"a\\"b"\n2,c\\,d\n')
    source = FileSource(url=str(path), format={"kind": "csv", "escape": "\\"})
    assert [r["name"] for r in rows(source)] == ['a"b', "c,d"]
    path.write_text('id,name\n1,5" pipe\n2,"half\n')
    source = FileSource(url=str(path), format={"kind": "csv", "quote": ""})
    assert [r["name"] for r in rows(source)] == ['5" pipe', '"half']


def test_text_is_parsed_only_where_it_is_declared(tmp_path: Path) -> None:
    """Declared parse rules give exact values; a value that does not parse is said, or carried."""
    path = write_csv(
        tmp_path / "rows.csv",
        [
            {"id": "9007199254740993", "amount": "12.50", "day": "2024-02-29", "code": "007"},
            {"id": "2", "amount": "1e3", "day": "", "code": "01"},
        ],
    )
    fields: dict[str, Any] = {
        "id": {"type": "int", "parse": True}, "amount": {"type": "decimal(12,2)", "parse": True},
        "day": {"type": "date", "parse": True}, "code": "text",
    }  # fmt: skip
    assert rows(FileSource(url=str(path), fields=fields)) == [
        {"id": 9_007_199_254_740_993, "amount": Decimal("12.50"), "day": date(2024, 2, 29), "code": "007"},
        {"id": 2, "amount": Decimal("1000.00"), "day": None, "code": "01"},
    ]
    fields["code"] = {"type": "int", "parse": True}
    with pytest.raises(PermanentError, match='record 1: code is "007", which is not int'):
        rows(FileSource(url=str(path), fields=fields))
    carried = rows(FileSource(url=str(path), fields=fields, unfit="carry"))
    assert [(r["code"], r["_unfit"]) for r in carried] == [
        (None, '{"code": "007"}'),
        (None, '{"code": "01"}'),
    ]
    with pytest.raises(PermanentError, match="undeclared: day"):
        rows(FileSource(url=str(path), fields={"id": "text", "amount": "text", "code": "text"}))


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), st.integers(16, 300))
def test_any_csv_that_python_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], block: int
) -> None:
    """Whatever is in the values, and wherever the blocks are cut: the same rows come back, in order."""
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("a", "b"), *cells])
    source = FileSource(url=str(path), block_bytes=block, format={"kind": "csv", "null": []})
    assert [(r["a"], r["b"]) for r in rows(source)] == cells


@pytest.mark.parametrize(
    ("text", "message", "kind"),
    [
        (b'{"id": 1}\n{"id": 2\n{"id": 3}\n', "line 2: the line is not JSON", PermanentError),
        (b'{"id": 1}\n{"id": 2, "na', "line 2: the last line is not whole", WindowIncomplete),
        (b'{"id": 1}\n[2]\n', "line 2: the line is no object but list", PermanentError),
        (b'{"id": 1}\n{"id": "\xff"}\n', "line 2, byte 9", PermanentError),
        (b'{"id": 1}\n{"id": "x"}\n', "not of one type", PermanentError),
    ],
)
def test_jsonl_faults_have_their_line(
    tmp_path: Path, text: bytes, message: str, kind: type[FerryError]
) -> None:
    """A line that is no JSON object, or is cut off, is said with its number."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text)
    with pytest.raises(kind, match=message):
        rows(FileSource(url=str(path)))


def test_jsonl_keeps_every_digit(tmp_path: Path) -> None:
    """Ids beyond 2**53 and amounts with trailing zeros keep their digits; objects are JSON."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 9007199254740993, "amount": 12.50, "at": {"x": [1.10]}}\n\n')
    assert rows(FileSource(url=str(path))) == [
        {"id": 9007199254740993, "amount": "12.50", "at": '{"x": [1.10]}'}
    ]


def test_fixed_width(tmp_path: Path) -> None:
    """Columns at their places; blanks are null; a line that is too short is a fault with its number."""
    path = tmp_path / "rows.txt"
    form = {"kind": "fixed", "columns": {"id": [1, 4], "name": [5, 10]}, "skip": 1, "encoding": "latin-1"}
    path.write_bytes("a header\n   1Größe \n   2      \r\n".encode("latin-1"))
    assert rows(FileSource(url=str(path), format=form)) == [
        {"id": "1", "name": "Größe"},
        {"id": "2", "name": None},
    ]
    path.write_bytes(b"a header\n   1Gross \n   2\n")
    with pytest.raises(PermanentError, match="line 3: the line has 4 characters, and its columns need 10"):
        rows(FileSource(url=str(path), format=form))


def workbook(path: Path, cells: list[list[Any]]) -> Path:
    """A workbook with one sheet of these cells."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in cells:
        sheet.append(row)
    book.save(path)
    return path


def test_excel(tmp_path: Path) -> None:
    """Numbers, texts, dates and empty cells of a sheet; a number is its shortest text, not a float's noise."""
    header = ["id", "amount", "at", "name"]
    cells = [header, [1, 12.5, datetime(2024, 2, 29, 12), "ä"], [2, 0.1, None, None], [None] * 4]
    path = workbook(tmp_path / "rows.xlsx", cells)
    fields = {"id": "int", "amount": "decimal(12,2)", "at": "datetime", "name": "text"}
    assert rows(FileSource(url=str(path), fields=fields)) == [
        {"id": 1, "amount": Decimal("12.50"), "at": datetime(2024, 2, 29, 12), "name": "ä"},
        {"id": 2, "amount": Decimal("0.10"), "at": None, "name": None},
    ]


@pytest.mark.parametrize(
    ("cells", "given", "message"),
    [
        ([["id", "sum"], [1, "=1+1"]], {}, "row 2: cell B2 is a formula whose value was not saved"),
        ([["id", "id"], [1, 2]], {}, "row 1: the header has an empty or repeated name"),
        ([["id"], [1, 2]], {}, "row 2: the row has values beyond its 1 columns"),
        ([["id"], [1]], {"format": {"kind": "excel", "sheet": "Other"}}, "no sheet 'Other'. It has: Sheet"),
        ([["id"], ["#N/A"]], {}, "row 2: cell A2 is the error #N/A"),
    ],
)
def test_excel_faults_have_their_row(
    tmp_path: Path, cells: list[list[Any]], given: dict[str, Any], message: str
) -> None:
    """What a sheet cannot say is said with sheet and row."""
    with pytest.raises(PermanentError, match=message):
        rows(FileSource(url=str(workbook(tmp_path / "rows.xlsx", cells)), **given))


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    """Types come as the file has them, views as plain strings; another declared type is refused."""
    table = pa.table({"id": pa.array([1, 2]), "name": pa.array(["a", None], pa.string_view())})
    path = tmp_path / "rows.parquet"
    parquet.write_table(table, path)
    source = FileSource(url=str(path), fields={"id": "int", "name": "text"})
    assert rows(source) == [{"id": 1, "name": "a"}, {"id": 2, "name": None}]
    with pytest.raises(PermanentError, match=r"column id is int64, and string is declared"):
        rows(FileSource(url=str(path), fields={"id": "text", "name": "text"}))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv.gz", "rows.csv.zst", "rows.xlsx"])
def test_a_truncated_file_fails_the_window(tmp_path: Path, name: str) -> None:
    """A packed file, a Parquet file or a workbook that ends early is incomplete, not short."""
    path = tmp_path / name
    if name == "rows.parquet":
        parquet.write_table(pa.table({"id": list(range(5000))}), path)
    elif name == "rows.xlsx":
        workbook(path, [["id"], *([n] for n in range(500))])
    else:
        noise = [{"id": os.urandom(16).hex()} for _ in range(5000)]
        write_csv(path, noise, gzip.compress if name.endswith("gz") else zstd)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = FileSource(url=str(path))
    with pytest.raises(WindowIncomplete):
        rows(source)
    assert source.completeness is None


def test_a_decompression_bomb_is_left(tmp_path: Path) -> None:
    """A file that unfolds to more than its measure is refused, and memory stays flat on the way."""
    path = tmp_path / "rows.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(b"id\n")
        for _ in range(70):
            out.write((b"0" * 999 + b"\n") * 1000)
    with pytest.raises(PermanentError, match="unfolds to more than 10 times its size"):
        for _ in FileSource(url=str(path), max_expansion=10).read(None, None):
            pass


MEMORY = """
import json, sys
import pyarrow as pa
from ferry.memory import peak_mib
from ferry.sources.files import FileSource
given = json.loads(sys.argv[1])
pa.array(["x"])
for name in given.pop("names"):
    before = peak_mib()
    try:
        source = FileSource(**given | {"url": f"{given['url']}/{name}"}, max_line_bytes=4_000_000, block_bytes=2**20)
        n = sum(p.batch.num_rows for p in source.read(None, None))
    except Exception as error:
        n = type(error).__name__ + ": " + str(error)
    print(round(peak_mib() - before), n, sep="|")
"""


def memory_of_reading(connection: dict[str, Any], *names: str) -> list[tuple[int, str]]:
    """Read files one after the other in a process of its own: MiB by which its peak grew, and what was told."""
    given = json.dumps(connection | {"names": names})
    ran = subprocess.run([sys.executable, "-c", MEMORY, given], capture_output=True, text=True, check=True)
    told = [line.split("|") for line in ran.stdout.splitlines()]
    return [(int(megabytes), what) for megabytes, what in told]


@pytest.mark.parametrize("kind", [Folder, S3, SftpServer])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: Any) -> None:
    """After a file of 8 MB one of 64 MB, in blocks of 1 MiB, takes hardly more memory, wherever it lies."""
    with kind() if kind is S3 else kind(tmp_path / "files") as store:
        for name, lines in (("small.csv", 400_000), ("large.csv", 3_200_000)):
            store.put(name, b"id,name\n" + b"12345678,abcdefghij\n" * lines)
        (_, first), (more, second) = memory_of_reading(store.connection, "small.csv", "large.csv")
    assert (first, second) == ("400000", "3200000")
    assert more < 40


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    """Of 10 GiB without a line break no more is read than a line may have."""
    with (tmp_path / "rows.csv").open("wb") as out:
        out.write(b"id,name\n")
        out.truncate(10 * 2**30)  # a hole takes no room on the disk
    ((megabytes, told),) = memory_of_reading({"url": str(tmp_path)}, "rows.csv")
    assert "line 2: a record is longer than 4,000,000 bytes" in told
    assert megabytes < 150


def test_globs_are_partitions(tmp_path: Path) -> None:
    """Each file that matches is a partition of its own; a file that comes later is a new one."""
    for name in ("2024/orders-01.csv", "2024/orders-02.csv", "2025/orders-01.csv", "2025/other.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"id\n{name}\n")
    source = FileSource(url=f"{tmp_path}/**/orders-*.csv")
    names = [f.name for f in source.files()]
    assert names == ["2024/orders-01.csv", "2024/orders-02.csv", "2025/orders-01.csv"]
    assert rows(source, source.partition_window(names[1])) == [{"id": "2024/orders-02.csv"}]
    assert [r["id"] for r in rows(source)] == names
    (tmp_path / "2024/orders-03.csv").write_text("id\nnew\n")
    assert len(source.files()) == 4
    assert [f.name for f in FileSource(url=f"{tmp_path}/*/orders-01.csv").files()] == [names[0], names[2]]


@pytest.mark.parametrize(
    ("pattern", "place", "values"),
    [
        ("orders-{month}.csv", "month", ["2024-01", "2024-02"]),
        ("**/orders-{month}.csv", "month", ["2024-01", "2024-02", "2024-03"]),
        ("{region}/orders-{month}.csv", "region", ["north", "south [old]"]),
        ("{region}/*.csv", "file", ["north/orders-2024-01.csv", "south [old]/orders-2024-03.csv"]),
        ("{region}/{region}-*.csv", "region", []),
    ],
)
def test_a_place_in_a_name_tells_partitions_apart(
    tmp_path: Path, pattern: str, place: str, values: list[str]
) -> None:
    """`{month}` in the pattern stands for what a partition is; its files are those that have the value there."""
    for name in ("orders-2024-01", "orders-2024-02", "north/orders-2024-01", "south [old]/orders-2024-03"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.csv").write_text(f"id\n{name}\n")
    source = FileSource(url=f"{tmp_path}/{pattern}")
    assert source.values(place) == values
    everything = sorted(r["id"] for r in rows(source)) if values else []
    parts = [r["id"] for v in values for r in rows(source, source.partition_window(v, place))]
    assert sorted(parts) == everything
    if values:
        with pytest.raises(DeclarationError, match=r"no place \{year\}"):
            source.values("year")


def test_a_file_that_is_replaced_while_it_is_read_fails_the_window(tmp_path: Path) -> None:
    """What was read is half of one file and half of another, though both are of one size."""
    path = write_csv(tmp_path / "rows.csv", [{"id": f"{n:05}"} for n in range(4000)])
    source = FileSource(url=str(path), block_bytes=SMALL)
    pages = source.read(None, None)
    next(pages)
    os.utime(path, (1, 1))
    with pytest.raises(WindowIncomplete, match="changed since the reading began"):
        list(pages)


def test_a_file_that_changes_between_two_pages_is_noticed(tmp_path: Path) -> None:
    """A checkpoint inside a file that is no longer the same is not gone on from."""
    path = write_csv(tmp_path / "rows.csv", ROWS * 30)
    source = FileSource(url=str(path), block_bytes=SMALL)
    page = next(iter(source.read(None, None)))
    write_csv(path, ROWS * 31)
    with pytest.raises(WindowIncomplete, match="changed since the reading began"):
        rows(FileSource(url=str(path), block_bytes=SMALL), None, page.checkpoint)


def test_preflight_says_what_is_not_there(tmp_path: Path) -> None:
    """No file, no format, and a declaration with a wrong word are said before anything is read."""
    with pytest.raises(PermanentError, match="no file matches"):
        FileSource(url=f"{tmp_path}/*.csv").preflight()
    (tmp_path / "rows.dat").write_text("x")
    with pytest.raises(DeclarationError, match="tells no format"):
        FileSource(url=f"{tmp_path}/rows.dat").preflight()
    with pytest.raises(DeclarationError, match="delimeter"):
        FileSource(url="x.csv", format={"kind": "csv", "delimeter": ";"})


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A store that speaks S3 over HTTP."""
    with S3() as store:
        yield store


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[SftpServer]:
    """An SFTP server over a real socket."""
    with SftpServer(tmp_path / "served") as server:
        yield server


def test_s3(tmp_path: Path, s3: S3) -> None:
    """The same files on an S3-like store: globbed, packed, gone on from, and a change noticed by its tag."""
    packed = write_csv(tmp_path / "rows.csv.gz", pack=gzip.compress).read_bytes()
    for name in ("in/a.csv.gz", "in/b.csv.gz", "in/skip.txt"):
        s3.put(name, packed)
    given: dict[str, Any] = s3.connection | {"url": "s3://files/in/*.csv.gz", "block_bytes": SMALL}
    source = FileSource(**given)
    source.preflight()
    assert [f.name for f in source.files()] == ["a.csv.gz", "b.csv.gz"]
    pages = list(source.read(None, None))
    assert sum(p.batch.num_rows for p in pages) == 6000
    rest = rows(FileSource(**given), None, pages[0].checkpoint)
    assert pages[0].batch.num_rows + len(rest) == 6000
    s3.put("in/a.csv.gz", gzip.compress(b"id\n1\n"))
    with pytest.raises(WindowIncomplete, match="changed"):
        rows(FileSource(**given), None, pages[0].checkpoint)


def test_s3_says_who_it_refuses(s3: S3) -> None:
    """Wrong credentials are no passing error, and are not shown."""
    with s3.guarded(), pytest.raises(PermanentError, match="the file system refuses") as raised:
        FileSource(
            **s3.connection | {"url": "s3://files/in/*.csv", "secrets": {"secret": "hunter2"}}
        ).preflight()
    assert "hunter2" not in str(raised.value)


def test_sftp(sftp: SftpServer) -> None:
    """The same over SFTP: files are listed, read in blocks, and gone on from."""
    sftp.put("out/rows.csv", b"")
    write_csv(sftp.root / "out" / "rows.csv", ROWS * 10)
    given: dict[str, Any] = sftp.connection | {"url": "sftp://127.0.0.1/out/*.csv", "block_bytes": 200_000}
    source = FileSource(**given)
    assert [f.name for f in source.files()] == ["rows.csv"]
    pages = list(source.read(None, None))
    assert len(pages) > 1
    rest = rows(FileSource(**given), None, pages[0].checkpoint)
    assert pages[0].batch.to_pylist() + rest == ROWS * 10


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"options": {"host_key": ""}}, PermanentError, "shows a key that is not known .SHA256:"),
        ({"options": {"host_key": "other"}}, PermanentError, "not the key that this server is known by"),
        ({"options": {"host_key": "nonsense"}}, DeclarationError, "no public key of a server"),
        ({"secrets": {"password": "hunter2"}}, PermanentError, "the file system refuses"),
        ({"options": {"port": 1}}, TransientError, "the file system failed"),
    ],
)
def test_an_sftp_server_is_the_one_it_should_be(
    sftp: SftpServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changed: dict[str, Any],
    error: type[FerryError],
    message: str,
) -> None:
    """A key that nobody vouched for gets no password; the message has the key, to compare it, and no secret."""
    monkeypatch.setenv("HOME", str(tmp_path))
    reached = sftp.connection
    if changed.get("options", {}).get("host_key") == "other":
        other = paramiko.ECDSAKey.generate()
        changed = {"options": {"host_key": f"[127.0.0.1]:22 {other.get_name()} {other.get_base64()}"}}
    given: dict[str, Any] = {part: reached[part] | changed.get(part, {}) for part in ("options", "secrets")}
    with pytest.raises(error, match=message) as raised:
        FileSource(url="sftp://127.0.0.1/out/*.csv", **given)
    assert "pass-word" not in str(raised.value)
    assert "hunter2" not in str(raised.value)
    if changed == {"options": {"host_key": ""}}:
        assert reached["options"]["host_key"] in str(raised.value)

"""`ferry map`: the new key of one old key, or the whole map in a file."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ferry.cli import main
from ferry.rollback import roll_back
from shop.demo.databases import create_database, drop_database
from shop.demo.server import EmbeddedServer
from small import Small


@pytest.fixture(scope="module")
def small(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Three places, one of them taken back, and nothing of another entity yet; the tests here only look at them."""
    databases: list[str] = []

    def new_database() -> str:
        databases.append(f"map_export_{len(databases)}")
        create_database(server, databases[-1])
        return server.url(databases[-1])

    made = Small(new_database, tmp_path_factory.mktemp("map_export"))
    made.source(
        'create table places (country text, "the ""code""" int, half text, primary key (country, "the ""code"""))',
        "insert into places values ('at', 1, 'a'), ('be', 2, 'b'), ('a, b', 3, 'a')",
        "create table empty (id int primary key)",
    )
    made.target(
        "create table places (new_id bigint generated always as identity primary key, half text)",
        "create table empty (new_id bigint generated always as identity primary key)",
    )
    key = ["country", 'the "code"']
    made.declare("places", "half: str", key=key, partition={"by": "half", "values": ["a", "b"]})
    made.declare("empty", "id: int")
    made.migrating.load("places")
    roll_back(made.migrating.plans(), made.migrating.settings, ("places",), ("b",))
    yield made
    for name in databases:
        drop_database(server, name)


@dataclass
class Said:
    """What the command said, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ferry(
    small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """The command, run in this process, which knows it already."""

    def run(*words: str) -> Said:
        for name, value in small.migrating.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["ferry", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_whole_map_is_written_with_status_and_partition(
    small: Small, ferry: Callable[..., Said], tmp_path: Path, ending: str
) -> None:
    """Every entry, tombstones too, in place of what stood there; nothing else is left in the folder."""
    file = tmp_path / "out" / f"places.{ending}"
    file.parent.mkdir()
    file.write_text("what was there before")
    done = ferry("map", "places", "--export", str(file))
    assert done.returncode == 0, done.stderr
    assert f"3 entries written to {file}" in done.stdout
    table: pa.Table = pq.read_table(file) if ending == "parquet" else pyarrow.csv.read_csv(file)
    assert table.to_pylist() == [
        dict(zip(("old_country", 'old_the "code"', "new_new_id", "status", "partition"), row, strict=True))
        for row in small.rows("select *, status::text from ferry.id_map_places order by 1, 2")
        for row in [(*row[:3], row[-1], row[4])]
    ]
    assert {row["status"] for row in table.to_pylist()} == {"inserted", "tombstone"}
    assert list(file.parent.iterdir()) == [file]


def test_one_old_key_is_looked_up_part_by_part(small: Small) -> None:
    """Both parts of the key are given as they read; the answer is JSON. The command is a process of its own here."""
    done = small.migrating.ferry("map", "places", "a, b", "3")
    found = json.loads(done.stdout)
    assert (found["old_country"], found["status"], found["partition"]) == ("a, b", "inserted", "a")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("places", "--export", "map.xlsx"), "a map cannot be written as '.xlsx'"),
        (("places", "--export", "nowhere/map.csv"), "there is no such folder"),
        (("places", "at"), "the old key of places has 2 parts, and 1 are given"),
        (("places", "at", "2"), "places has no row with the old key at, 2"),
        (("places",), "either one old key or `--export` is needed"),
        (("empty", "1"), "nothing of empty was ever loaded"),
        (("places", "--export", "/proc/map.csv"), "the map cannot be written"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    ferry: Callable[..., Said], words: tuple[str, ...], said: str
) -> None:
    """Another ending, a folder that is not there, too few parts of a key, a key of no row, no place to write."""
    done = ferry("map", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1

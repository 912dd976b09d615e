"""Files in a folder, on an S3-like store and over SFTP, through the whole pipeline: their names are the partitions."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ferry.declaration import read_migration
from ferry.extract import open_source
from ferry.known_keys import discover
from ferry.partition import OTHERS
from ferry.settle import settle
from ferry.stage import Stage
from file_stores import S3, Folder, SftpServer
from small import Small

FIELDS = {"id": {"type": "int", "parse": True}, "name": "text"}


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """A migration of this test's own, with a table for the files' rows."""
    small = Small(new_database, tmp_path)
    small.target(
        "create table items (new_id bigint generated always as identity primary key, id bigint unique, name text)"
    )
    return small


@pytest.fixture(params=["folder", "s3", "sftp"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder | S3]:
    """Each kind of place in turn."""
    made = {"folder": Folder, "sftp": SftpServer}.get(request.param)
    with made(tmp_path / "files") if made else S3() as opened:
        yield opened


def from_store(small: Small, store: Folder | S3, files: str, **attributes: Any) -> None:
    """Declare the rows of some files of a store."""
    small.migrating.connections["exports"] = store.connection
    source = {"connection": "exports", "files": files, "key": "id", "fields": FIELDS}
    small.declare("items", "id: int; name: str", source=source, columns={"id": "id"}, **attributes)


def csv(*ids: int, name: str = "item") -> bytes:
    """A file of these rows."""
    return "\n".join(["id,name", *(f"{n},{name} {n}" for n in ids), ""]).encode()


def seen(small: Small) -> dict[str, tuple[int | None, str]]:
    """What the source says of each partition."""
    migration = discover(read_migration(small.migrating.folder), small.migrating.settings)
    with closing(open_source(migration, "items", small.migrating.settings)) as source:
        return source.fingerprints("items")


def staged(small: Small, partition: str) -> str:
    """The id of a partition's stage."""
    manifest = Stage(small.migrating.settings.stage_root, "items", partition).manifest()
    assert manifest is not None
    return manifest.stage_id


def test_what_stands_in_the_names_is_the_partitions(small: Small, store: Folder | S3) -> None:
    """A folder a month is a partition a month: a new one is found, a changed one read again, and nothing else is.

    A row that is in no file any more is removed; a month whose files are gone fails by its name, and its rows stay.
    """
    cut = {"by": "month", "values": "discovered"}
    from_store(small, store, "{month}/items-*.csv*", partition=cut, on_vanished="delete")
    store.put("2024-01/items-1.csv.gz", gzip.compress(csv(1, 2)))
    store.put("2024-01/items-2.csv.zst", pa.compress(csv(3), "zstd", asbytes=True))
    store.put("2024-02/items-1.csv", csv(4, 7))
    store.put("2024-02/other.txt", b"nothing of ours")
    before = seen(small)
    assert list(before) == [OTHERS, "2024-01", "2024-02"]
    went = small.migrating.load("items")
    assert not went.failed
    assert small.rows("select partition, rows::int from ferry.partitions order by 1") == [
        (OTHERS, 0), ("2024-01", 3), ("2024-02", 2),
    ]  # fmt: skip
    kept = {month: staged(small, month) for month in ("2024-01", "2024-02")}

    store.put("2024-02/items-1.csv", csv(4, name="changed"))
    store.put("2024-03/items-1.csv", csv(5))
    after = seen(small)
    assert {key for key in after if after[key] != before.get(key)} == {"2024-02", "2024-03"}
    went = small.migrating.load("items")
    assert not went.failed
    assert (went.outcomes.inserted, went.outcomes.updated, went.different) == (1, 1, 0)
    assert staged(small, "2024-01") == kept["2024-01"]
    assert staged(small, "2024-02") != kept["2024-02"]
    assert small.rows("select id, name from items order by id") == [
        (1, "item 1"), (2, "item 2"), (3, "item 3"), (4, "changed 4"), (5, "item 5"), (7, "item 7"),
    ]  # fmt: skip

    (settled,) = settle(small.migrating.plans(), small.migrating.settings)
    assert (settled.removed, settled.vanished) == (1, 0)
    assert small.rows("select id from items order by id") == [(1,), (2,), (3,), (4,), (5,)]

    store.remove("2024-03/items-1.csv")
    went = small.migrating.load("items")
    assert list(went.failed) == ["2024-03"]
    assert "no file matches" in went.failed["2024-03"]
    (settled,) = settle(small.migrating.plans(), small.migrating.settings)
    assert settled.removed == 0
    assert small.rows("select count(*) from items") == [(5,)]


def test_a_bucket_is_listed_once_for_all_partitions(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    """As the store's log has it: one request for the names, however many partitions are cut from them."""
    months = ["2024-01", "2024-02", "2024-03"]
    with S3() as store:
        from_store(small, store, "items-{month}-*.csv", partition={"by": "month", "values": months})
        for number, month in enumerate(months):
            store.put(f"items-{month}-a.csv", csv(2 * number))
            store.put(f"items-{month}-b.csv", csv(2 * number + 1))
        with caplog.at_level("INFO", "werkzeug"):
            assert small.migrating.load("items").outcomes.inserted == 6
    asked = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    assert len([one for one in asked if "list-type=2" in one]) == 1


def test_each_file_is_a_partition(small: Small, tmp_path: Path) -> None:
    """Cut `by: file` a pattern makes a partition of each name; one that can be no key comes with the others."""
    store = Folder(tmp_path / "files")
    from_store(small, store, "**/*.csv", partition={"by": "file", "values": "discovered"})
    for name, id_ in (("items[1].csv", 1), ("north/items {a}.csv", 2), ("north/items... .csv", 3)):
        store.put(name, csv(id_))
    seen(small)
    assert not small.migrating.load("items").failed
    assert small.rows("select partition, rows::int from ferry.partitions order by 1") == [
        (OTHERS, 1), ("items[1].csv", 1), ("north/items {a}.csv", 1),
    ]  # fmt: skip
    assert small.rows("select id from items order by 1") == [(1,), (2,), (3,)]


def test_a_connection_that_breaks_is_gone_on_from(small: Small, tmp_path: Path) -> None:
    """The server goes away in the second of three files: the next run reads that one and the third."""
    with SftpServer(tmp_path / "files") as server:
        from_store(small, server, "out/items-*.csv")
        for number in (1, 2, 3):
            server.put(f"out/items-{number}.csv", csv(number))
        server.cut_at = "out/items-2.csv"
        assert "the file system failed" in small.migrating.load("items").failed["all"]
        assert small.rows("select count(*) from items") == [(0,)]
        server.cut_at = ""
        server.opened.clear()
        assert not small.migrating.load("items").failed
        # The first is opened to see that it can be, and not read again.
        assert server.opened == [f"out/items-{number}.csv" for number in (1, 2, 3)]
        assert small.rows("select id from items order by 1") == [(1,), (2,), (3,)]


def test_refused_credentials_are_one_message(small: Small, tmp_path: Path) -> None:
    """It names the place and what to check, is not tried again, and has no secret in it."""
    with SftpServer(tmp_path / "files") as server:
        from_store(small, server, "out/items-*.csv")
        small.migrating.connections["exports"] = server.connection | {"secrets": {"password": "hunter2"}}
        failed = small.migrating.load("items").failed["all"]
    assert "the file system refuses" in failed
    assert "sftp://127.0.0.1/out/items-*.csv" in failed
    assert "hunter2" not in failed

"""APIs and files as sources of a whole migration: what they hold is what the target has, whatever happens."""

import gzip
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emulators.hostile_rest import make_items
from emulators.running import Emulator
from ferry.cutover import Terms, cut_over
from ferry.errors import DeclarationError, PermanentError
from ferry.extract import open_source
from ferry.pipeline import PartitionFailed, Staged, carry
from ferry.settle import settle
from ferry.stage import Stage
from small import Small

ITEMS = 1000
QUICK = {"attempts": 4, "patience": 20, "first_wait": 0.02, "longest_wait": 0.2, "timeout": 3}
REST = {
    "path": "/items/cursor",
    "records": "data.items",
    "paging": {"by": "cursor", "param": "cursor", "next": "meta.next", "size": 100, "size_param": "limit"},
    "count": {"path": "/count", "value": "data.count"},
    "window": {"start": "created_min", "end": "created_before"},
    "fields": {
        "id": "int", "name": "text", "email": "text", "amount": "decimal(12,2)", "active": "bool",
        "created_at": "timestamp", "updated_at": "timestamp",
    },
    "ignore": ["*"],
    "retries": QUICK,
}  # fmt: skip
WHOLE = REST["fields"] | {"made": "int", "owner": "json", "lines": "json"}
ROW = (
    "id: int; name: str; email: str | None; amount: decimal.Decimal; active: bool;"
    " created_at: datetime.datetime; updated_at: datetime.datetime"
)
TABLE = (
    "create table if not exists items (new_id bigint generated always as identity primary key, id bigint unique,"
    " name text, email text, amount numeric(12, 2), active boolean, created_at timestamptz, updated_at timestamptz)"
)


@pytest.fixture(scope="module")
def api_server() -> Iterator[Emulator]:
    """One API for all tests of this module."""
    with Emulator("hostile_rest", "--items", str(ITEMS)) as emulator:
        yield emulator


@pytest.fixture
def api(api_server: Emulator) -> Emulator:
    """The same, as new."""
    api_server.control(reset=True)
    return api_server


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """A migration of this test's own."""
    return Small(new_database, tmp_path)


def from_api(small: Small, api: Emulator, rest: dict[str, Any] | None = None, **attributes: Any) -> None:
    """Declare the API's items, with changes of the resource and of the declaration."""
    small.migrating.connections["api"] = api.url
    source = {"connection": "api", "rest": REST | (rest or {}), "key": "id", "updated_at": "updated_at"}
    given = attributes.pop("source", {})
    drop = [name for name in ("made", "owner", "lines") if name in ((rest or {}).get("fields") or {})]
    small.declare("items", ROW, source=source | given, columns={"id": "id"}, drop=drop, **attributes)
    small.target(TABLE)


def loaded(small: Small) -> list[tuple[Any, ...]]:
    """What the target has, in the order of the old keys."""
    return small.rows("select id, name, email, amount, active, created_at from items order by id")


def there(count: int = ITEMS) -> list[tuple[Any, ...]]:
    """What the API has, in the same order; times as PostgreSQL hands them over."""
    return [
        (i["id"], i["name"], i["email"], Decimal(i["amount"]), i["active"], i["created_at"])
        for i in make_items(count)
    ]


def as_text(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same with times as the API writes them."""
    return [
        (*row[:-1], row[-1].strftime("%Y-%m-%dT%H:%M:%SZ") if hasattr(row[-1], "strftime") else row[-1])
        for row in rows
    ]


def staged(small: Small, partition: str = "all") -> Any:
    """The manifest of a partition."""
    return Stage(small.migrating.settings.stage_root, "items", partition).manifest()


def test_every_object_of_an_api_is_in_the_target_once(small: Small, api: Emulator) -> None:
    """Row for row what the API holds; what it counted, what arrived and the requests stand in the manifest."""
    from_api(small, api)
    went = small.migrating.load("items")
    assert not went.failed
    assert went.different == 0
    assert as_text(loaded(small)) == there()
    said = staged(small).said
    assert (said["stated"], said["arrived"]) == (ITEMS, ITEMS)
    assert said["requests"] >= 10


def test_windows_of_time_become_the_apis_own_filters(small: Small, api: Emulator) -> None:
    """Each partition asks for its own days, no row is asked for twice, and together they are all."""
    partition = {"by": "created_at", "every": "day", "start": "2023-01-02", "end": "2023-01-05"}
    from_api(small, api, partition=partition)
    plans = small.migrating.plans()
    assert len(plans["items"].scheme.keys) == 4
    went = small.migrating.load("items")
    assert not went.failed
    assert went.outcomes.extracted == went.outcomes.inserted == ITEMS
    assert as_text(loaded(small)) == there()


LOAD = """
import sys; from pathlib import Path
from ferry.declaration import read_migration
from ferry.pipeline import carry
from ferry.plan import plan_migration
from ferry.settings import settings
list(carry(plan_migration(read_migration(Path(sys.argv[1])), settings()), "items", ("all",), settings()))
"""


def killed_at(small: Small, api: Emulator, page: int) -> None:
    """Load the entity in a process of its own and kill it as soon as the API has served so many pages."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(small.migrating.folder)],
        env={**os.environ, **small.migrating.environment},
    )
    until = monotonic() + 60
    while api.tell()["pages"] < page:
        assert process.poll() is None, "it ended before it could be killed"
        assert monotonic() < until
        sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_after_a_kill_only_what_is_missing_is_asked_for(small: Small, api: Emulator) -> None:
    """A process killed after five pages leaves the next one five or six to ask for, and the target whole."""
    from_api(small, api)
    api.control(latency=0.15)
    killed_at(small, api, 6)
    api.control(latency=0)
    before = api.tell()["pages"]
    went = small.migrating.load("items")
    assert not went.failed
    # Ten pages in all, and one request to see that the credentials are right; the page in flight is asked for again.
    assert api.tell()["pages"] - before <= 10 - (before - 1) + 2
    assert as_text(loaded(small)) == there()
    assert not Stage(small.migrating.settings.stage_root, "items", "all").arrived.exists()


def test_a_kill_between_the_last_page_and_the_target_asks_for_nothing(small: Small, api: Emulator) -> None:
    """Pages that are whole stay until they are loaded: a run that was killed while it loaded needs no API."""
    from_api(small, api)
    plans = small.migrating.plans()
    for event in carry(plans, "items", ("all",), small.migrating.settings):
        if isinstance(event, Staged):
            break
    before = api.tell()["total"]
    assert Stage(small.migrating.settings.stage_root, "items", "all").arrived.exists()
    assert not small.migrating.load("items").failed
    assert api.tell()["total"] == before
    assert as_text(loaded(small)) == there()


def test_a_page_that_is_short_fails_the_window_and_leaves_nothing(small: Small, api: Emulator) -> None:
    """The API's count disagrees: no row is loaded, its checkpoint is gone, and the next run brings everything."""
    from_api(small, api)
    api.control(short_page=3)
    went = small.migrating.load("items")
    assert "950 objects arrived" in went.failed["all"]
    assert loaded(small) == []
    assert staged(small) is None
    assert not Stage(small.migrating.settings.stage_root, "items", "all").arrived.exists()
    api.control(reset=True)
    assert not small.migrating.load("items").failed
    assert as_text(loaded(small)) == there()


def test_a_retry_never_falls_back_on_what_an_earlier_run_staged(small: Small, api: Emulator) -> None:
    """A window that fails each time fails the run, though the stage of last week is still there."""
    from_api(small, api)
    assert not small.migrating.load("items").failed
    api.control(short_page=3)
    settings = small.migrating.settings.model_copy(update={"retries": 2, "retry_seconds": 0})
    events = list(carry(small.migrating.plans(), "items", ("all",), settings))
    assert [type(event) for event in events if not hasattr(event, "rows")] == [PartitionFailed]


def test_a_schema_that_changes_between_pages_stops_and_goes_on(small: Small, api: Emulator) -> None:
    """The message names the field; once the API is as declared again, reading goes on at that page."""
    from_api(small, api)
    api.control(rename_after=4)
    assert "email" in small.migrating.load("items").failed["all"]
    assert loaded(small) == []
    api.control(reset=True)
    assert not small.migrating.load("items").failed
    assert api.tell()["pages"] <= 7
    assert as_text(loaded(small)) == there()


def test_a_source_that_moves_while_it_is_read_keeps_the_newest(small: Small, api: Emulator) -> None:
    """A row that appears between two pages is there, and none is there twice."""
    paging = {
        "by": "offset",
        "param": "offset",
        "size": 100,
        "size_param": "limit",
        "total": "meta.total",
    }
    from_api(small, api, {"path": "/items/offset", "paging": paging, "changes": {"since": "updated_min"}})
    api.control(shift_after=3)
    went = small.migrating.load("items")
    assert not went.failed
    assert went.outcomes.rejected == 0
    assert small.rows("select count(*), count(distinct id), min(id) from items") == [
        (ITEMS + 1, ITEMS + 1, 5)
    ]


def test_a_value_of_another_type_rejects_its_row_alone(small: Small, api: Emulator) -> None:
    """The row is kept with column, rule and value; every other row is loaded; `unfit: fail` fails the window."""
    fields = REST["fields"] | {"name": {"type": "int", "path": "email", "parse": True}}
    from_api(small, api, {"fields": fields | {"email": "text"}})
    (small.migrating.folder / "items" / "contract.py").write_text(
        (small.migrating.folder / "items" / "contract.py")
        .read_text()
        .replace("name: str", "name: int | None")
    )
    small.target("alter table items alter name type bigint using null")
    went = small.migrating.load("items")
    assert not went.failed
    assert went.outcomes.inserted == len([i for i in make_items(ITEMS) if i["email"] is None])
    assert went.outcomes.inserted + went.outcomes.rejected == ITEMS
    found = small.rows("select reason, errors from ferry.rejected_rows order by key limit 1")[0]
    assert found[0] == "contract"
    assert "i1@example.com" in str(found[1])


def test_credentials_that_are_incomplete_name_the_variable(small: Small, api: Emulator) -> None:
    """A connection with a part too many or too few says which variable, which part, and shows no value."""
    from_api(small, api)
    small.migrating.connections["api"] = {"url": api.url, "auth": {"kind": "basic", "password": "hunter2"}}
    failed = small.migrating.load("items").failed["all"]
    assert "FERRY_CONNECTIONS__API" in failed
    assert "auth.basic.user" in failed
    assert "hunter2" not in failed


def test_an_api_without_declared_fields_is_refused_by_the_plan(small: Small, api: Emulator) -> None:
    """The plan needs columns, and an API has no catalogue to ask."""
    from_api(small, api, {"fields": None})
    with pytest.raises(DeclarationError, match="does not say what its columns are"):
        small.migrating.plans()


UNCHANGED: dict[str, dict[str, Any]] = {
    "count and newest": {
        "unchanged": {
            "by": "newest", "params": {"sort": "-updated_at", "limit": 1}, "value": "data.items.0.updated_at",
        },
    },
    "a tag": {"path": "/items/single", "paging": {"by": "none"}, "unchanged": {"by": "etag"}},
}  # fmt: skip


@pytest.mark.parametrize("how", UNCHANGED)
def test_a_window_that_did_not_change_is_not_read_again(small: Small, api: Emulator, how: str) -> None:
    """A look at the API shows it; a row that is new shows as well, and `reread` reads whatever the look says."""
    from_api(small, api, UNCHANGED[how])
    plans = small.migrating.plans()
    assert small.migrating.load("items", plans=plans).outcomes.inserted == ITEMS
    first = staged(small)
    before = api.tell()["pages"]
    went = small.migrating.load("items", plans=plans)
    assert not went.failed
    assert went.outcomes.unchanged == ITEMS
    # The credentials were looked at, and then the window; ten pages would have been read.
    assert api.tell()["pages"] - before == 2
    assert staged(small).stage_id == first.stage_id
    anew = small.migrating.settings.model_copy(update={"reread": True})
    list(carry(plans, "items", ("all",), anew))
    assert staged(small).stage_id != first.stage_id
    with closing(open_source(plans.migration, "items", small.migrating.settings)) as source:
        was = source.fingerprints("items")
        assert was == source.fingerprints("items")
        api.control(shift_after=api.tell()["pages"] + 1)
        source.fingerprints("items")
        assert was != source.fingerprints("items")
    assert small.migrating.load("items", plans=plans).outcomes.inserted == 1
    assert staged(small).rows == ITEMS + 1


def test_a_cutover_sees_whether_an_api_stands_still(small: Small, api: Emulator) -> None:
    """A row that comes between the two looks is noticed, nothing is signed; after that the record has what was seen."""
    from_api(small, api, UNCHANGED["count and newest"])
    plans, settings = small.migrating.plans(), small.migrating.settings
    assert not small.migrating.load("items", plans=plans).failed
    # The first pass looks twice (the credentials, the window), and so do both looks at what stands still.
    api.control(shift_after=api.tell()["pages"] + 5)
    with pytest.raises(PermanentError, match="does not stand still"):
        cut_over(plans, settings, Terms(by="me", quiet_seconds=0))
    assert small.rows("select to_regclass('ferry.signed_off')") == [(None,)]
    done = cut_over(plans, settings, Terms(by="me", quiet_seconds=0))
    assert [one.changed for one in done.passes] == [1, 0]
    (document,) = small.rows("select document from ferry.signed_off")[0]
    assert document["source"]["all"][0] == ITEMS + 1


CSV = {"connection": "exports", "files": "items-*.csv", "key": "id", "updated_at": "updated_at",
       "fields": {"id": {"type": "int", "parse": True}, "name": "text",
                  "updated_at": {"type": "timestamp", "parse": True}}}  # fmt: skip


def from_files(small: Small, folder: Path, source: dict[str, Any] | None = None, **attributes: Any) -> None:
    """Declare files of three columns."""
    folder.mkdir(exist_ok=True)
    small.migrating.connections["exports"] = str(folder)
    row = "id: int; name: str; updated_at: datetime.datetime"
    small.declare("items", row, source=CSV | (source or {}), columns={"id": "id"}, **attributes)
    small.target(TABLE)


def test_files_become_rows_and_a_partition_is_a_name(small: Small, tmp_path: Path) -> None:
    """`{partition}` in the pattern stands for the key of the month; each month reads its own file, packed or not."""
    months = {"by": "updated_at", "every": "month", "start": "2024-01-01", "end": "2024-02-28"}
    from_files(small, tmp_path / "exports", {"files": "items-{partition}.csv*"}, partition=months)
    head = "id,name,updated_at\n"
    (tmp_path / "exports" / "items-2024-01.csv").write_text(head + "1,one,2024-01-05T00:00:00Z\n")
    body = (head + '2,"two, and ""more""",2024-02-05T00:00:00Z\n').encode()
    (tmp_path / "exports" / "items-2024-02.csv.gz").write_bytes(gzip.compress(body))
    went = small.migrating.load("items")
    assert not went.failed
    assert small.rows("select id, name from items order by id") == [(1, "one"), (2, 'two, and "more"')]
    assert staged(small, "2024-02").said["stated"] == 1


def _jsonl(path: Path) -> None:
    path.write_text(
        '{"id": 1, "name": "one", "updated_at": "2024-01-01T00:00:00Z"}\n'
        '{"id": 2, "name": "two", "updated_at": "2024-01-02T00:00:00Z"}\n'
    )


def _parquet(path: Path) -> None:
    at = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)]
    table = pa.table(
        {
            "id": pa.array([1, 2], pa.int32()),
            "name": pa.array(["one", "two"]).dictionary_encode(),
            "updated_at": pa.array(at, pa.timestamp("ms", "UTC")),
        }
    )
    pq.write_table(table, path)


def _fixed(path: Path) -> None:
    path.write_text("001one  2024-01-01T00:00:00Z\n002two  2024-01-02T00:00:00Z\n")


def _excel(path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (
        ["id", "name", "updated_at"],
        [1, "one", "2024-01-01T00:00:00Z"],
        [2, "two", "2024-01-02T00:00:00Z"],
    ):
        sheet.append(row)
    book.save(path)


PLAIN = {"id": "int", "name": "text", "updated_at": "timestamp"}
PARSED = {
    "id": {"type": "int", "parse": True},
    "name": "text",
    "updated_at": {"type": "timestamp", "parse": True},
}
WIDTHS = {"kind": "fixed", "columns": {"id": [1, 3], "name": [4, 8], "updated_at": [9, 28]}}
FORMATS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "items.jsonl": (_jsonl, {"fields": PLAIN}),
    "items.parquet": (_parquet, {"fields": PLAIN}),
    "items.xlsx": (_excel, {"fields": PLAIN}),
    "items.txt": (_fixed, {"fields": PARSED, "format": WIDTHS}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_brings_the_same_rows(small: Small, tmp_path: Path, name: str) -> None:
    """JSON lines, Parquet with narrower types, a workbook and columns at fixed places: the target is the same."""
    write, declared = FORMATS[name]
    if name == "items.txt":
        declared = declared | {"fields": {**PARSED, "id": {"type": "text", "path": "id"}}}
    from_files(small, tmp_path / "exports", {"files": name, **declared})
    if name == "items.txt":
        contract = small.migrating.folder / "items" / "contract.py"
        contract.write_text(contract.read_text().replace("id: int", "id: str"))
        small.target("alter table items alter id type text")
    write(tmp_path / "exports" / name)
    went = small.migrating.load("items")
    assert not went.failed
    keys = ("001", "002") if name == "items.txt" else (1, 2)
    found = small.rows("select id, name, updated_at::date::text from items order by id")
    assert found == [(keys[0], "one", "2024-01-01"), (keys[1], "two", "2024-01-02")]


def test_a_key_that_two_files_have_is_a_duplicate(small: Small, tmp_path: Path) -> None:
    """Both rows are rejected; with `keep_latest` the newer one stays."""
    folder = tmp_path / "exports"
    from_files(small, folder)
    head = "id,name,updated_at\n"
    (folder / "items-1.csv").write_text(head + "1,old,2024-01-01T00:00:00Z\n2,two,2024-01-01T00:00:00Z\n")
    (folder / "items-2.csv").write_text(head + "1,new,2024-01-02T00:00:00Z\n")
    assert small.migrating.load("items").outcomes.rejected == 2
    assert small.rows("select name from items") == [("two",)]
    assert small.rows("select distinct reason from ferry.rejected_rows") == [("duplicate_key",)]
    small.declare("items", "id: int; name: str; updated_at: datetime.datetime", source=CSV, columns={"id": "id"},
                  duplicates="keep_latest")  # fmt: skip
    small.migrating.load("items")
    assert small.rows("select name from items order by id") == [("new",), ("two",)]


def test_a_packed_file_that_ends_early_fails_its_window(small: Small, tmp_path: Path) -> None:
    """Nothing of it is loaded, and the message names it."""
    folder = tmp_path / "exports"
    from_files(small, folder, {"files": "items-*.csv.gz"})
    lines = "".join(f"{n},name {n},2024-01-01T00:00:00Z\n" for n in range(5000))
    body = gzip.compress(f"id,name,updated_at\n{lines}".encode())
    (folder / "items-1.csv.gz").write_bytes(body[: len(body) // 2])
    failed = small.migrating.load("items").failed["all"]
    assert "items-1.csv.gz" in failed
    assert small.rows("select count(*) from items") == [(0,)]


def test_what_an_api_no_longer_has_anywhere_is_removed(small: Small, api: Emulator) -> None:
    """With `on_vanished: delete`, once every window is as it was read: not while one may have what another lost.

    Without a look that shows changes the plan refuses it.
    """
    partition = {"by": "created_at", "every": "day", "start": "2023-01-02", "end": "2023-01-05"}
    from_api(small, api, partition=partition, on_vanished="delete")
    with pytest.raises(DeclarationError, match="nowhere in the source"):
        small.migrating.plans()
    from_api(small, api, UNCHANGED["count and newest"], partition=partition, on_vanished="delete")
    plans = small.migrating.plans()
    assert small.migrating.load("items", plans=plans).outcomes.inserted == ITEMS
    gone = [make_items(ITEMS)[at]["id"] for at in (7, 500)]
    api.control(remove=gone)
    ends = []
    for partitions in (plans["items"].scheme.keys[:1], ()):
        assert not small.migrating.load("items", partitions, plans=plans).failed
        (settled,) = settle(plans, small.migrating.settings)
        ends.append((settled.removed, settled.vanished))
    assert ends == [(0, 1), (2, 0)]
    assert [row[0] for row in loaded(small)] == [i["id"] for i in make_items(ITEMS) if i["id"] not in gone]


def test_a_cursor_that_expired_meanwhile_is_given_up(small: Small, api: Emulator) -> None:
    """What a run left behind cannot be gone on from: the window begins anew by itself, and nothing is there twice."""
    from_api(small, api)
    api.control(rename_after=4)
    assert small.migrating.load("items").failed
    api.control(reset=True)
    api.control(cursors=1)
    assert not small.migrating.load("items").failed
    assert as_text(loaded(small)) == there()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a cursor that goes back": ({"repeat_cursor_after": 4}, ""),
    "a page twice": ({"repeat_page": 4}, "twice|second time"),
    "a page left out": ({"skip_page": 4}, "arrived"),
    "a field more": ({"add_after": 4}, "surprise"),
    "another host": ({"other_host": True}, "another host"),
    "an error with 200": ({"error_with_200": True}, "no list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_an_api_does_is_one_message_and_the_next_run_is_whole(
    small: Small, api: Emulator, fault: str
) -> None:
    """Nothing is loaded of a window that is in doubt; the message has the request; mended, every row arrives once."""
    behaviour, said = FAULTS[fault]
    way = "next_url" if "other_host" in behaviour else "cursor"
    paging = {"by": way, "param": "cursor", "next": "meta.next", "size": 100, "size_param": "limit"}
    from_api(small, api, {"path": f"/items/{way}", "paging": paging, "ignore": []} | {"fields": WHOLE})
    api.control(**behaviour)
    failed = small.migrating.load("items").failed["all"]
    assert re.search(said, failed), failed
    assert api.url.split("//")[1] in failed
    assert loaded(small) == []
    api.control(reset=True)
    assert not small.migrating.load("items").failed
    assert as_text(loaded(small)) == there()

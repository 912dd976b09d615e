"""A row that several files bring, in several versions: whatever is loaded first, the newest is in the target."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from asking import wait_for
from ferry import ledger
from ferry.errors import TransientError
from ferry.loader import Loader
from ferry.loading import close
from ferry.pipeline import hold
from ferry.rollback import roll_back
from ferry.stage import Stage
from migrating import Went
from small import Small

MONTHS = ("2024-01", "2024-02", "2024-03")
ROW = "id: int; name: str; group_id: int; updated_at: datetime.datetime | None"
FIELDS = {
    "id": {"type": "int", "parse": True}, "name": "text", "group_id": {"type": "int", "parse": True},
    "updated_at": {"type": "timestamp", "parse": True},
}  # fmt: skip
Files = dict[str, dict[int, tuple[int, int | None]]]
"""Month → id → the group that it belongs to, and the day of its version."""


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Items that come in a file a month, and the groups that they belong to, which a database has."""
    small = Small(new_database, tmp_path)
    small.migrating.connections["exports"] = str(tmp_path)
    small.source(
        "create table groups (id int primary key, title text not null)",
        "insert into groups select n, 'group ' || n from generate_series(1, 2) n",
    )
    small.target(
        "create table groups (new_id bigint generated always as identity primary key, title text)",
        "create table items (new_id bigint generated always as identity primary key, id bigint unique, name text,"
        " group_id bigint not null references groups, updated_at timestamptz)",
    )
    small.declare("groups", "id: int; title: str", drop=["id"])
    return small


def declare(small: Small, updated_at: str | None, on_missing: str = "reject", mode: str = "upsert") -> None:
    """Items with or without a column that tells their versions."""
    source = {"connection": "exports", "files": "items-{partition}.csv", "key": "id", "fields": FIELDS}
    small.declare(
        "items", ROW, source=source | ({"updated_at": updated_at} if updated_at else {}), columns={"id": "id"},
        partition={"by": "updated_at", "every": "month", "start": "2024-01-01", "end": "2024-03-31"},
        references=[{"column": "group_id", "to": "groups", "on_missing": on_missing}], mode=mode,
    )  # fmt: skip


def write(small: Small, files: Files) -> None:
    """The files; a row's name says which version of it this is."""
    for month, items in files.items():
        lines = [
            f"{id_},{id_} of {month} at {day},{group},{f'2024-01-{day:02}T00:00:00Z' if day else ''}"
            for id_, (group, day) in items.items()
        ]
        body = "\n".join(["id,name,group_id,updated_at", *lines, ""])
        (Path(small.migrating.connections["exports"]) / f"items-{month}.csv").write_text(body)


def newest(files: Files, *, by_version: bool) -> list[tuple[str, str]]:
    """The name and the group of each row as it was last, in plain Python: by its version, then by the file's name."""
    last: dict[int, tuple[int, str]] = {}
    for month, items in sorted(files.items()):
        for id_, (group, day) in items.items():
            rank = (day or 0) if by_version else 0
            if id_ not in last or rank >= last[id_][0]:
                last[id_] = (rank, f"{id_} of {month} at {day}|group {group}")
    return [tuple(row.split("|")) for _, (_, row) in sorted(last.items())]  # type: ignore[misc]


versions = st.tuples(st.integers(1, 2), st.none() | st.integers(1, 3))
drawn = st.fixed_dictionaries({m: st.dictionaries(st.integers(1, 4), versions, max_size=4) for m in MONTHS})
LATE: Files = {"2024-01": {1: (1, 3)}, "2024-02": {1: (2, 2)}, "2024-03": {1: (1, 1)}}


@pytest.mark.parametrize("updated_at", ["updated_at", None])
@settings(
    max_examples=3, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@example(files=LATE, order=["2024-01", "2024-02", "groups", "2024-03"], again=[])
@example(files=LATE, order=["groups", "2024-03", "2024-02", "2024-01"], again=["2024-03", "2024-02"])
@given(
    files=drawn,
    order=st.permutations(["groups", *MONTHS]),
    again=st.lists(st.sampled_from(MONTHS), max_size=2),
)
def test_the_newest_version_of_a_row_stays_in_any_order_of_files(
    small: Small, updated_at: str | None, files: Files, order: list[str], again: list[str]
) -> None:
    """Months in any order, some twice, parents in between: the target has each row as it was last, and is reconciled.

    Without a version, or with the same one twice, the file whose name comes last counts.
    """
    small.target("drop schema if exists ferry cascade", "truncate items, groups")
    declare(small, updated_at)
    write(small, files)
    plans = small.migrating.plans()
    for one in [*order, *again]:
        name, keys = ("groups", ("all",)) if one == "groups" else ("items", (one,))
        went = small.migrating.load(name, keys, plans)
        assert not went.failed
        assert went.different == 0
    small.migrating.settle()
    found = small.rows(
        "select i.name, g.title from items i join groups g on g.new_id = i.group_id order by i.id"
    )
    assert found == newest(files, by_version=updated_at is not None)
    assert small.outcomes("items").get("extracted", 0) == sum(len(items) for items in files.values())
    assert small.migrating.load("items", plans=plans).different == 0


@pytest.mark.parametrize(("newer", "older"), [(2, 1), (1, 2)])
def test_an_older_version_leaves_the_reference_of_the_newer_one_alone(
    small: Small, newer: int, older: int
) -> None:
    """Group 2 comes last, whether the newer version waits for it or the older one would have."""
    small.source("delete from groups where id = 2")
    small.target("alter table items alter group_id drop not null")
    declare(small, "updated_at", on_missing="set_null")
    write(small, {"2024-01": {1: (older, 1)}, "2024-02": {1: (newer, 2)}, "2024-03": {}})
    plans = small.migrating.plans()
    small.migrating.load("groups", plans=plans)
    for month in ("2024-02", "2024-01"):
        assert not small.migrating.load("items", (month,), plans).failed
        small.migrating.settle()
    small.source("insert into groups values (2, 'group 2')")
    small.migrating.load("groups", plans=plans)
    small.migrating.settle()
    query = "select g.title from items i left join groups g on g.new_id = i.group_id"
    assert small.rows(query) == [(f"group {newer}",)]


@pytest.mark.parametrize("how", ["rollback", "replace_partition"])
def test_a_row_whose_newest_version_goes_comes_back_from_the_file_that_still_has_it(
    small: Small, how: str
) -> None:
    """The later month is rolled back, or comes without the row: that the row is missing is told of the earlier month.

    It is no longer complete and its next load brings the row under the key it had; a month without the row stays as
    it is.
    """
    declare(small, "updated_at", mode="upsert" if how == "rollback" else how)
    write(
        small, {"2024-01": {1: (1, 1), 2: (1, 1)}, "2024-02": {1: (2, 2), 3: (1, 2)}, "2024-03": {4: (1, 3)}}
    )
    small.migrating.load_all()
    key = small.migrating.new_key("items", 1)
    if how == "rollback":
        roll_back(small.migrating.plans(), small.migrating.settings, ("items",), ("2024-02",))
    else:
        write(small, {"2024-02": {3: (1, 2)}})
        small.migrating.load("items", ("2024-02",))
    assert small.rows("select name from items where id = 1") == []
    complete = small.rows("select partition from ferry.partitions where entity = 'items' order by 1")
    assert complete == ([("2024-03",)] if how == "rollback" else [("2024-02",), ("2024-03",)])
    plans = small.migrating.plans()
    found = dict.fromkeys(MONTHS, 0) | {
        one.partition: one.different for _, one in hold(plans, ("items",), small.migrating.settings)
    }
    assert (found["2024-01"], found["2024-03"]) == (1, 0)
    went = small.migrating.load("items", ("2024-01", "2024-03"), plans)
    assert (went.outcomes.inserted, went.different, went.skipped_chunks) == (1, 0, 1)
    assert small.rows("select name, new_id from items where id = 1") == [("1 of 2024-01 at 1", key)]


class AtOnce:
    """Loads of some months beside each other, each by a thread with connections of its own."""

    def __init__(self, small: Small) -> None:
        """Args: the migration."""
        self.small, self.threads, self.went = small, list[threading.Thread](), dict[str, Went]()

    def start(self, month: str) -> None:
        """Start a load, and come back when all that were started wait for a lock, or this one has ended."""
        plans = self.small.migrating.plans()

        def load() -> None:
            self.went[month] = self.small.migrating.load("items", (month,), plans)

        self.threads.append(threading.Thread(target=load))
        self.threads[-1].start()
        waiting = (
            "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        wait_for(
            "all wait, or this one ended",
            lambda: not self.threads[-1].is_alive() or len(self.small.rows(waiting)) == len(self.threads),
            120,
            pause=0.02,
        )

    def end(self) -> dict[str, Went]:
        """Wait for all of them."""
        for thread in self.threads:
            thread.join()
        return self.went


def test_a_row_that_is_taken_away_while_another_month_relies_on_it_is_not_lost(small: Small) -> None:
    """January has just seen that February's version is newer, and has not committed; February is replaced without it.

    January is not complete then, and its next load brings the row; if that happens before its end, it does not come
    to an end.
    """
    small.migrating.chunk_rows = 1
    declare(small, "updated_at", mode="replace_partition")
    write(small, {"2024-01": {2: (1, 1)}, "2024-02": {1: (2, 2), 3: (1, 2)}, "2024-03": {}})
    small.migrating.load_all()
    write(small, {"2024-01": {2: (1, 1), 1: (1, 1)}, "2024-02": {3: (1, 2)}})
    at_once = AtOnce(small)
    with psycopg.connect(small.migrating.target_url) as holder:
        holder.execute(
            "insert into ferry.ledger select entity, partition, 1, stage_id, '', '', 0, 0, 0, 0, 0, 0, 0"
            " from ferry.ledger where entity = 'items' and partition = '2024-01'"
        )
        at_once.start("2024-01")
        at_once.start("2024-02")
        holder.rollback()
        assert at_once.end()["2024-02"].failed == {}
    complete = small.rows("select partition from ferry.partitions where entity = 'items' order by 1")
    assert complete == [("2024-02",), ("2024-03",)]
    assert small.migrating.load("items", ("2024-01",)).failed == {}
    assert small.rows("select name from items order by id") == [
        ("1 of 2024-01 at 1",), ("2 of 2024-01 at 1",), ("3 of 2024-02 at 2",),
    ]  # fmt: skip
    stage = Stage(small.migrating.settings.stage_root, "items", "2024-01")
    with Loader(small.migrating.plans(), "items", small.migrating.settings) as loader:
        ledger.doubt(loader.connection, "items", "2024-01")
        manifest = stage.manifest()
        assert manifest
        with pytest.raises(TransientError, match="rows of it may be gone"):
            close(loader, manifest, "2024-01")


def test_of_two_months_at_once_the_newer_version_stays(small: Small) -> None:
    """March writes the row and has not committed when February, which is older, comes to it."""
    declare(small, "updated_at")
    write(small, {"2024-01": {1: (1, 1)}, "2024-02": {}, "2024-03": {}})
    small.migrating.load_all()
    write(small, {"2024-02": {1: (1, 2)}, "2024-03": {1: (2, 3)}})
    at_once = AtOnce(small)
    with psycopg.connect(small.migrating.target_url) as holder:
        holder.execute("select from items for update")
        at_once.start("2024-03")
        at_once.start("2024-02")
        holder.rollback()
        assert [one.failed for one in at_once.end().values()] == [{}, {}]
    assert small.rows("select name from items") == [("1 of 2024-03 at 3",)]
    assert small.rows("select partition from ferry.id_map_items") == [("2024-03",)]


def test_a_row_that_was_there_before_is_given_back_and_follows_the_versions_that_stay(small: Small) -> None:
    """March, the newest, is taken back: the older month that came after it, and changed nothing then, does so now."""
    declare(small, "updated_at")
    declared = small.migrating.folder / "items" / "defs.yaml"
    document = json.loads(declared.read_text())
    document["attributes"]["match"] = {"on": ["id"], "then": "update"}
    declared.write_text(json.dumps(document))
    small.target(
        "insert into groups (title) values ('theirs')",
        "insert into items (id, name, group_id) select 1, 'theirs', new_id from groups",
    )
    write(small, {"2024-01": {}, "2024-02": {1: (1, 2)}, "2024-03": {1: (2, 3)}})
    plans = small.migrating.plans()
    small.migrating.load("groups", plans=plans)
    small.migrating.load("items", ("2024-01", "2024-03", "2024-02"), plans)
    name = "select name from items"
    assert small.rows(name) == [("1 of 2024-03 at 3",)]
    roll_back(plans, small.migrating.settings, ("items",), ("2024-03",))
    assert small.rows(name) == [("theirs",)]
    assert [one.different for _, one in hold(plans, ("items",), small.migrating.settings)] == [0, 1, 0]
    went = small.migrating.load("items", ("2024-01", "2024-02"), plans)
    assert (went.outcomes.updated, went.different) == (1, 0)
    assert small.rows(name) == [("1 of 2024-02 at 2",)]
    small.migrating.load("items", ("2024-03",), plans)
    for month, left in (("2024-02", "1 of 2024-03 at 3"), ("2024-03", "theirs")):
        roll_back(plans, small.migrating.settings, ("items",), (month,))
        assert small.rows(name) == [(left,)]

"""Files that arrive: which partitions are asked for, when, and that nothing is skipped or asked for twice."""

import os
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from ferry.components import FerryResource, arrival_sensors
from ferry.components.entity import entity_assets
from ferry.declaration import migration_in
from small import Small


class Arrivals:
    """An entity cut by month that reads the files of a folder, and the sensor over it."""

    def __init__(self, small: Small, folder: Path) -> None:
        self.small, self.folder = small, folder
        self.cursor: str | None = None

    def write(self, name: str, *rows: str) -> None:
        """A file with these rows, written a moment after whatever was there before."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text("\n".join(["id,day", *rows]) + "\n")
        os.utime(path, ns=(before + 10**9, before + 10**9))

    def tick(self, instance: dg.DagsterInstance) -> tuple[list[str], str]:
        """Look once, with definitions that are made anew: the partitions asked for, or what the tick says."""
        migration = migration_in(self.small.migrating.folder)
        repository = dg.Definitions.merge(
            arrival_sensors(self.small.migrating.folder),
            dg.Definitions(
                assets=[entity_assets(migration, migration["orders"])], resources={"ferry": FerryResource()}
            ),
        ).get_repository_def()
        sensor = repository.get_sensor_def("files_of_orders")
        with dg.build_sensor_context(
            instance, cursor=self.cursor, repository_def=repository, resources={"ferry": FerryResource()}
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        asked = [str(request.partition_key) for request in data.run_requests or ()]
        known = repository.get_job("load_files_of_orders").partitions_def
        assert known is not None
        assert set(asked) <= set(known.get_partition_keys())
        keys = [request.run_key for request in data.run_requests or ()]
        assert len(set(keys) | self.keys_before) == len(keys) + len(self.keys_before)
        self.keys_before |= set(keys)
        return asked, data.skip_message or ""

    @property
    def keys_before(self) -> set[str | None]:
        """Keys of all runs that were asked for: Dagster starts no second run with the key of another."""
        return self.__dict__.setdefault("_keys", set())

    @keys_before.setter
    def keys_before(self, keys: set[str | None]) -> None:
        self.__dict__["_keys"] = keys


@pytest.fixture
def arrivals(new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    """Three months, of which none has a file yet."""
    small, folder = Small(new_database, tmp_path), tmp_path / "files"
    folder.mkdir()
    small.migrating.connections["drop"] = {"url": str(folder)}
    small.target("create table orders (id bigint primary key, day date)")
    small.declare(
        "orders", "id: int; day: datetime.date", made="natural", new_key="id", columns={"id": "id"},
        partition={"by": "day", "every": "month", "start": "2024-01-01", "end": "2024-03-31"},
        source={"connection": "drop", "files": "{partition}/*.csv", "key": "id", "fields": {
            "id": {"type": "int", "parse": True}, "day": {"type": "date", "parse": True}}},
    )  # fmt: skip
    for name, value in small.migrating.environment.items():
        monkeypatch.setenv(name, value)
    return Arrivals(small, folder)


def test_new_and_changed_files_ask_for_exactly_their_partitions(arrivals: Arrivals) -> None:
    """A file is asked for when it has stood still from one tick to the next, once; changed, or a second one beside it,
    again; put back as it was, too; taken away, not. A folder that cannot be read leaves the cursor where it is."""
    with dg.DagsterInstance.ephemeral() as instance:
        assert arrivals.tick(instance) == ([], "No new file")
        arrivals.write("2024-01/orders.csv", "1,2024-01-05")
        arrivals.write("2024-02/orders.csv", "2,2024-02-05")
        assert arrivals.tick(instance) == ([], "2 partitions have files that may still grow")
        arrivals.write("2024-02/orders.csv", "2,2024-02-05", "3,2024-02-06")
        assert arrivals.tick(instance)[0] == ["2024-01"]
        assert arrivals.tick(instance)[0] == ["2024-02"]
        assert arrivals.tick(instance) == ([], "No new file")

        first = (arrivals.folder / "2024-01/orders.csv").stat()
        arrivals.write("2024-01/orders.csv", "1,2024-01-06")
        arrivals.write("2024-02/again.csv", "4,2024-02-07")
        arrivals.tick(instance)
        assert arrivals.tick(instance)[0] == ["2024-01", "2024-02"]
        arrivals.write("2024-01/orders.csv", "1,2024-01-05")
        os.utime(arrivals.folder / "2024-01/orders.csv", ns=(first.st_mtime_ns, first.st_mtime_ns))
        arrivals.tick(instance)
        assert arrivals.tick(instance)[0] == ["2024-01"]

        (arrivals.folder / "2024-01/orders.csv").unlink()
        arrivals.write("2024-03/orders.csv", "5,2024-03-07")
        arrivals.tick(instance)
        before = arrivals.cursor
        away = arrivals.folder.rename(arrivals.folder.with_name("away"))
        arrivals.folder.write_text("a file where the folder should be")
        asked, said = arrivals.tick(instance)
        assert asked == []
        assert said
        arrivals.folder.unlink()
        away.rename(arrivals.folder)
        arrivals.cursor = before
        assert arrivals.tick(instance)[0] == ["2024-03"]

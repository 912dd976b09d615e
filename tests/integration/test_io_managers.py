"""Tables of the user's own: what an asset may return, what an input may ask for, and what a run replaces."""

import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ferry.components import FerryResource
from ferry.io_managers import DatabaseIOManager, Frames, ParquetIOManager, Relation
from file_stores import S3

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2024-01-01", end_date="2024-04-01")
REGIONS = dg.StaticPartitionsDefinition(["north", "south"])


@pytest.fixture
def url(new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, the connection `crm` of this process."""
    made = new_database()
    monkeypatch.setenv("FERRY_CONNECTIONS__CRM", made)
    return made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A real instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as own:
        yield own


def database() -> DatabaseIOManager:
    """The manager over `crm`."""
    return DatabaseIOManager(connection="crm", ferry=FerryResource())


def make(
    assets: list[dg.AssetsDefinition],
    manager: dg.ConfigurableIOManager,
    instance: dg.DagsterInstance,
    *,
    keys: tuple[str, str] | str | None = None,
    only: list[dg.AssetsDefinition] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialize assets, over one partition or a range of them in one run."""
    tags = {}
    if isinstance(keys, tuple):
        tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[1]}
    return dg.materialize(
        assets, instance=instance, resources={"io_manager": manager}, tags=tags, selection=only,
        partition_key=keys if isinstance(keys, str) else None, raise_on_error=False,
    )  # fmt: skip


def said(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step says."""
    data = next(e for e in result.all_events if e.is_step_failure).step_failure_data
    assert data.user_failure_data is not None, data.error
    return data.user_failure_data.description or ""


def told(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    """The metadata of an asset's materialization."""
    event = result.asset_materializations_for_node(name)[-1]
    return {key: value.value for key, value in event.metadata.items()}


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """What the database answers."""
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


FRAME = pd.DataFrame({"id": [1, 2, 3], "amount": [Decimal("1.50"), Decimal("2.25"), None], "at": pd.to_datetime(
    ["2024-01-31 23:59:59", "2024-02-01 00:00:00", None])})  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        FRAME,
        Frames(FRAME.iloc[n : n + 1] for n in range(3)),
        pa.Table.from_pandas(FRAME),
        pa.Table.from_pandas(FRAME).to_reader(max_chunksize=1),
    ],
    ids=["frame", "frames", "table", "reader"],
)
def test_a_table_comes_back_in_whatever_shape_is_asked_for(
    url: str, instance: dg.DagsterInstance, value: object
) -> None:
    """Whole or in pieces, pandas or Arrow: the same rows, exact, as each of the five annotations gets them."""
    seen: dict[str, Any] = {}

    @dg.asset
    def report():
        return value

    @dg.asset
    def reads(report: pd.DataFrame) -> None:
        seen["frame"] = report

    @dg.asset(ins={"report": dg.AssetIn("report")})
    def pieces(report: Frames) -> None:
        seen["frames"] = pd.concat(list(report))

    @dg.asset(ins={"report": dg.AssetIn("report")})
    def table(report: pa.Table) -> None:
        seen["table"] = report.to_pandas()

    @dg.asset(ins={"report": dg.AssetIn("report")})
    def reader(report: pa.RecordBatchReader) -> None:
        seen["reader"] = report.read_all().to_pandas()

    @dg.asset(ins={"report": dg.AssetIn("report")})
    def relation(report: Relation) -> None:
        seen["relation"] = report.to_pandas()
        seen["sum"] = report.query("select sum(amount) as total from relation")["total"][0]

    result = make([report, reads, pieces, table, reader, relation], database(), instance)
    assert result.success
    assert seen.pop("sum") == Decimal("3.75")
    assert set(seen) == {"frame", "frames", "table", "reader", "relation"}
    for one in seen.values():
        assert list(one["id"]) == [1, 2, 3]
        assert list(one["amount"]) == [Decimal("1.50"), Decimal("2.25"), None]
        assert one["at"][1] == pd.Timestamp("2024-02-01")
    metadata = told(result, "report")
    assert metadata["dagster/row_count"] == 3
    assert metadata["dagster/table_name"] == "public.report"
    assert [column.name for column in metadata["dagster/column_schema"].columns] == ["id", "amount", "at"]
    assert {"bytes", "seconds", "rows per second", "peak MiB", "preview", "dagster/storage_kind"} <= set(
        metadata
    )


def monthly(frames: dict[str, pd.DataFrame], **metadata: Any) -> dg.AssetsDefinition:
    """An asset with a row a day of its month, whatever `frames` says instead."""

    @dg.asset(partitions_def=MONTHS, metadata={"partition_expr": "day", **metadata}, name="days",
              backfill_policy=dg.BackfillPolicy.single_run())  # fmt: skip
    def days(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.concat([frames[key] for key in context.partition_keys])

    return days


def month(start: str, count: int, value: int) -> pd.DataFrame:
    """`count` days from `start`, each with a value."""
    return pd.DataFrame({"day": pd.date_range(start, periods=count), "value": [value] * count})


def test_a_run_replaces_exactly_its_partitions(url: str, instance: dg.DagsterInstance) -> None:
    """Three months in one run, then one again with other rows: the others keep theirs, none is there twice."""
    frames = {f"2024-0{n}-01": month(f"2024-0{n}-01", 20 + n, n) for n in (1, 2, 3)}
    asset = monthly(frames)
    assert make([asset], database(), instance, keys=("2024-01-01", "2024-03-01")).success
    before = rows(url, "select ctid::text, xmin::text from days where value <> 2 order by 1")
    frames["2024-02-01"] = month("2024-02-01", 5, 20)
    result = make([asset], database(), instance, keys="2024-02-01")
    assert result.success
    assert told(result, "days")["dagster/partition_row_count"] == 5
    counted = rows(
        url, "select date_trunc('month', day)::date, value, count(*) from days group by 1, 2 order by 1"
    )
    date = datetime.date
    assert counted == [(date(2024, 1, 1), 1, 21), (date(2024, 2, 1), 20, 5), (date(2024, 3, 1), 3, 23)]
    assert rows(url, "select ctid::text, xmin::text from days where value <> 20 order by 1") == before


def test_a_row_of_another_partition_is_refused_and_nothing_changes(
    url: str, instance: dg.DagsterInstance
) -> None:
    """A day of March in February's run would be there twice one day: the run fails with the condition in words."""
    frames = {"2024-02-01": month("2024-02-01", 3, 2)}
    asset = monthly(frames)
    assert make([asset], database(), instance, keys="2024-02-01").success
    frames["2024-02-01"] = month("2024-02-28", 3, 9)
    message = said(make([asset], database(), instance, keys="2024-02-01"))
    assert message.startswith("days: 1 rows do not belong to the partition")
    assert rows(url, "select value, count(*) from days group by 1") == [(2, 3)]


def test_partitions_of_two_dimensions_are_cut_by_two_columns(url: str, instance: dg.DagsterInstance) -> None:
    """Month × region: a run of one pair replaces that pair, and a reader of the pair gets its rows alone."""
    both = dg.MultiPartitionsDefinition({"month": MONTHS, "region": REGIONS})
    seen: list[pd.DataFrame] = []

    @dg.asset(partitions_def=both, metadata={"partition_expr": {"month": "day", "region": "region"}})
    def sales(context: dg.AssetExecutionContext) -> pd.DataFrame:
        keys = context.partition_key.keys_by_dimension  # type: ignore[attr-defined]
        return month(keys["month"], 2, 1).assign(region=keys["region"])

    @dg.asset(partitions_def=both)
    def reads(sales: pd.DataFrame) -> None:
        seen.append(sales)

    for region in ("north", "south", "north"):
        key = dg.MultiPartitionKey({"month": "2024-02-01", "region": region})
        assert make([sales, reads], database(), instance, keys=key).success
    assert rows(url, "select region, count(*) from sales group by 1 order by 1") == [
        ("north", 2),
        ("south", 2),
    ]
    assert [set(frame["region"]) for frame in seen] == [{"north"}, {"south"}, {"north"}]


NUMBERS = dg.StaticPartitionsDefinition(["0", "100", "200"])
DISCOVERED = dg.DynamicPartitionsDefinition(name="areas")


@pytest.mark.parametrize(
    ("definition", "expr", "keys"),
    [
        (NUMBERS, {"column": "number", "ranges": True, "every_row": True},
         {"0": [None, -5, 99], "100": [100, 199], "200": [200, 7000]}),
        (DISCOVERED, {"column": "area", "every_row": True},
         {"(others)": [None, "elsewhere"], "north": ["north"], "south, far": ["south, far"]}),
        (MONTHS, {"column": "day", "every_row": True},
         {"2024-01-01": [None, "2023-12-31", "2024-01-31"], "2024-02-01": ["2024-02-01"],
          "2024-03-01": ["2024-03-01", "2025-01-01"]}),
    ],
    ids=["integer ranges", "discovered", "months"],
)  # fmt: skip
@pytest.mark.parametrize("kept", ["database", "file"])
def test_whatever_cuts_it_each_row_has_one_partition_and_a_run_replaces_that(
    url: str, instance: dg.DagsterInstance, tmp_path: Path, definition: dg.PartitionsDefinition, expr: dict[str, Any],
    keys: dict[str, list[Any]], kept: str,
) -> None:  # fmt: skip
    """NULL, what lies beyond the ends and what has no key belong to a partition as in an entity. All in one run, then
    one again, empty: the others keep their rows, and readers get them; a row of another one is refused."""
    instance.add_dynamic_partitions("areas", ["(others)", "north", "south, far"])
    held, seen = dict(keys), dict[str, list[Any]]()

    @dg.asset(partitions_def=definition, metadata={"partition_expr": expr},
              backfill_policy=dg.BackfillPolicy.single_run())  # fmt: skip
    def cut(context: dg.AssetExecutionContext) -> pa.Table:
        values = [value for key in context.partition_keys for value in held[key]]
        made = pa.array(values, pa.int64() if expr["column"] == "number" else pa.string())
        return pa.table({expr["column"]: made.cast(pa.timestamp("us")) if expr["column"] == "day" else made})

    @dg.asset(partitions_def=definition)
    def reads(context: dg.AssetExecutionContext, cut: pa.Table) -> None:
        seen[context.partition_key] = sorted(map(str, cut.column(0).to_pylist()))

    manager = database() if kept == "database" else ParquetIOManager(base_uri=str(tmp_path))
    first, second, last = keys
    result = make([cut], manager, instance, keys=(first, last))
    assert result.success
    held[second] = []
    assert make([cut], manager, instance, keys=second).success
    for key in keys:
        assert make([cut, reads], manager, instance, keys=key, only=[reads]).success
    lengths = {key: 0 if key == second else len(values) for key, values in keys.items()}
    assert {key: len(values) for key, values in seen.items()} == lengths
    assert seen[first] == sorted(
        str(pd.Timestamp(v)) if expr["column"] == "day" and v else str(v) for v in keys[first]
    )
    held[second] = keys[last]
    again = make([cut], manager, instance, keys=(first, second))
    assert "belong" in said(again)


def test_ranges_of_what_is_no_number_are_refused(url: str, instance: dg.DagsterInstance) -> None:
    """And so are a last range without an end, and a word that `partition_expr` does not know."""
    for definition, expr, words in (
        (REGIONS, {"ranges": True}, "ranges begin at whole numbers"),
        (NUMBERS, {"ranges": True}, "nothing says where the last range, from 200, ends"),
        (NUMBERS, {"range": True}, "its partition_expr is not understood"),
    ):

        @dg.asset(partitions_def=definition, metadata={"partition_expr": {"column": "n", **expr}})
        def cut() -> pa.Table:
            return pa.table({"n": [1]})

        assert words in said(make([cut], database(), instance, keys=definition.get_partition_keys()[-1]))


def test_a_partitioned_asset_that_names_no_column_is_told_how(url: str, instance: dg.DagsterInstance) -> None:
    """Without `partition_expr` a run would not know what to replace."""
    asset = monthly({"2024-02-01": month("2024-02-01", 3, 2)}, partition_expr=None)
    message = said(make([asset], database(), instance, keys="2024-02-01"))
    assert "nothing says by which column" in message
    assert 'metadata={"partition_expr": "the_column"}' in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="amount"), "nothing comes for the column 'amount'"),
        (lambda f: f.assign(extra=1), "there is no column for 'extra'"),
        (lambda f: f.assign(amount=0.1), "column 'amount' comes as double and is kept as decimal128"),
        (lambda f: f.assign(id=[1.5, 2, 3]), "column 'id' holds a value that int64 cannot carry exactly"),
        (lambda f: f.assign(amount=[Decimal("1.505")] * 3), "cannot carry exactly"),
        (lambda f: f.assign(id=["1", "2", "3"]), "column 'id' comes as string and is kept as int64"),
    ],
    ids=[
        "missing",
        "extra",
        "float for a decimal",
        "fraction for an integer",
        "more digits",
        "text for a number",
    ],
)
def test_rows_that_do_not_fit_are_refused_and_the_old_ones_stay(
    url: str, instance: dg.DagsterInstance, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    """What would be cut, rounded, turned or left out is one message that names the column."""
    held = [FRAME]

    @dg.asset
    def report() -> pd.DataFrame:
        return held[0]

    assert make([report], database(), instance).success
    held[0] = change(FRAME)
    message = said(make([report], database(), instance))
    assert message.startswith("report: ")
    assert words in message
    assert rows(url, "select id, amount from report order by 1") == [
        (1, Decimal("1.50")), (2, Decimal("2.25")), (3, None)]  # fmt: skip


def test_a_generator_that_fails_half_way_leaves_what_was_there(
    url: str, instance: dg.DagsterInstance
) -> None:
    """The pieces that came before the error are not kept, in the database nor in a file."""
    broken = False

    def pieces() -> Iterator[pd.DataFrame]:
        yield FRAME
        if broken:
            raise RuntimeError("the third-party API hung up")
        yield FRAME

    @dg.asset
    def report() -> Frames:
        return Frames(pieces())

    assert make([report], database(), instance).success
    broken = True
    assert not make([report], database(), instance).success
    assert rows(url, "select count(*) from report") == [(6,)]


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    """A store that speaks S3 over HTTP, with an empty bucket."""
    with S3() as opened:
        yield opened


@pytest.fixture(params=["folder", "store"])
def files(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ParquetIOManager:
    """A folder, and a prefix in an S3 bucket."""
    if request.param == "folder":
        return ParquetIOManager(base_uri=str(tmp_path / "exports"))
    for name, value in request.getfixturevalue("store").environment.items():
        monkeypatch.setenv(name, value)
    return ParquetIOManager(base_uri=f"s3://files/{tmp_path.name}")


def test_a_batch_of_partitions_gives_a_file_each(
    files: ParquetIOManager, instance: dg.DagsterInstance
) -> None:
    """Three months in one run, told apart by a column or as a mapping; a reader of two months gets these."""
    frames = {f"2024-0{n}-01": month(f"2024-0{n}-01", 20 + n, n) for n in (1, 2, 3)}
    seen: list[pd.DataFrame] = []

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
    def mapped(context: dg.AssetExecutionContext):
        return {key: frames[key] for key in context.partition_keys}

    @dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
    def reads(days: pd.DataFrame, mapped: pd.DataFrame) -> None:
        pd.testing.assert_frame_equal(days, mapped)
        seen.append(days)

    days = monthly(frames)
    result = make([days, mapped, reads], files, instance, keys=("2024-01-01", "2024-02-01"))
    assert result.success
    assert len(seen[0]) == 43
    kept = files.path(dg.AssetKey("days"), "2024-02-01")
    with kept.open("rb") as body:
        assert pq.read_table(body).num_rows == 22
    assert sorted(path.name for path in kept.parent.iterdir()) == ["2024-01-01.parquet", "2024-02-01.parquet"]
    assert told(result, "days")["rows of the run"] == 43


def test_a_file_that_is_not_finished_is_not_there(
    files: ParquetIOManager, instance: dg.DagsterInstance
) -> None:
    """Half a file never shows under its name, and nothing of it is left."""

    def pieces() -> Iterator[pd.DataFrame]:
        yield FRAME
        raise RuntimeError("the third-party API hung up")

    @dg.asset
    def report() -> Frames:
        return Frames(pieces())

    assert not make([report], files, instance).success
    kept = files.path(dg.AssetKey("report"), None)
    assert not kept.exists()
    assert not kept.parent.exists() or list(kept.parent.iterdir()) == []


def test_a_missing_file_says_what_to_materialize(
    files: ParquetIOManager, instance: dg.DagsterInstance
) -> None:
    """A reader of a partition that was never made is told which file is missing."""
    days = monthly({})

    @dg.asset(partitions_def=MONTHS)
    def reads(days: pd.DataFrame) -> None:
        """Never called."""

    message = said(make([days, reads], files, instance, keys="2024-02-01", only=[reads]))
    assert message.startswith("days: 1 of 1 files are not there")
    assert "2024-02-01.parquet" in message


def test_personal_columns_are_masked_in_the_preview(url: str, instance: dg.DagsterInstance) -> None:
    """The asset names them; the UI shows that there is a value, not which."""

    @dg.asset(metadata={"personal": ["email"]})
    def people() -> pd.DataFrame:
        return pd.DataFrame({"id": [1], "email": ["somebody@example.org"]})

    result = make([people], database(), instance)
    assert result.success
    (event,) = result.asset_materializations_for_node("people")
    preview = event.metadata["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    (shown,) = preview.records
    assert dict(shown.data) == {"id": "1", "email": "***"}


STREAM = """
import sys
import dagster as dg, numpy as np, pandas as pd
from ferry.components import FerryResource
from ferry.memory import peak_mib
from ferry.io_managers import DatabaseIOManager, Frames, ParquetIOManager

ROWS = 20_000

def made(pieces):
    for start in range(0, pieces * ROWS, ROWS):
        yield pd.DataFrame({"id": np.arange(start, start + ROWS), **{
            f"value_{c}": np.arange(start, start + ROWS) * (c + 7) for c in range(12)}})

def stream(pieces, manager):
    @dg.asset
    def report() -> Frames:
        return Frames(made(pieces))

    @dg.asset
    def read_again(report: Frames) -> pd.DataFrame:
        return pd.DataFrame({"rows": [sum(len(frame) for frame in report)]})

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([report, read_again], instance=instance, resources={"io_manager": manager},
                       run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}})
    print(round(peak_mib()))

database, parquet = DatabaseIOManager(connection="crm", ferry=FerryResource()), ParquetIOManager(base_uri=sys.argv[1])
for pieces, manager in ((4, database), (4, parquet), (30, database), (300, parquet)):
    stream(pieces, manager)
"""


def test_what_streams_takes_the_same_memory_however_much_it_is(url: str, tmp_path: Path) -> None:
    """62 MB into the database and 624 MB into a file, and read again, in pieces: as much memory as for 8 MB."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    small, _, database, parquet = map(int, done.stdout.split())
    assert parquet < 512
    assert database < small + 60
    assert parquet < small + 90
    assert rows(url, "select count(*) from report") == [(30 * 20_000,)]

"""`ParquetIOManager`: an asset is a folder of Parquet files, one for each partition."""

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from upath import UPath

from ferry.errors import FerryError, PermanentError
from ferry.frames import BATCH_ROWS, fit, tables_of
from ferry.io_managers.database import definition_of, of_reader, row_count
from ferry.io_managers.kept import Meter
from ferry.io_managers.slices import positions
from ferry.settings import read_settings
from ferry.stage import file_name


class ParquetIOManager(dg.ConfigurableIOManager):
    """Keeps each asset as `<base_uri>/<asset>.parquet`, or `<base_uri>/<asset>/<partition>.parquet`.

    Values and annotations are those of `DatabaseIOManager` (all but `Relation`). A file is written in pieces under
    another name and appears whole. A run of several partitions writes a file for each: the asset returns
    `{partition: rows}`, or names the column that tells them apart in its metadata (`partition_expr`).
    """

    base_uri: str | None = Field(
        default=None,
        description="a folder, or a URI such as s3://bucket/prefix; `exports` in FERRY_STAGE_URI if unset",
    )

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write the file, or one for each partition of the run."""
        if obj is None:
            return
        where, meter = context.asset_key.to_user_string(), Meter()
        try:
            files = self._write(context, obj, meter, where)
        except FerryError as error:
            raise dg.Failure(str(error), allow_retries=error.retryable) from None
        schema = next(iter(files.values())).schema
        personal = [str(name) for name in definition_of(context).get("personal") or ()]
        told: dict[str, Any] = {
            **row_count(context, meter.rows),
            "dagster/uri": str(next(iter(files)) if len(files) == 1 else next(iter(files)).parent),
            "dagster/storage_kind": "parquet",
            "dagster/column_schema": dg.TableSchema([dg.TableColumn(f.name, str(f.type)) for f in schema]),
            "files": len(files),
            "bytes in files": sum(path.stat().st_size for path in files),
            **meter.metadata(personal),
        }
        context.add_output_metadata(told)

    def load_input(self, context: dg.InputContext) -> object:
        """The rows of all partitions that the run needs, as the input's annotation asks."""
        asked = context.dagster_type.typing_type
        keys: list[str | None] = (
            list(context.asset_partition_keys) if context.has_asset_partitions else [None]
        )
        paths = [self.path(context.asset_key, key) for key in keys]
        try:
            missing = [path for path in paths if not path.exists()]
            if missing:
                raise PermanentError(
                    f"{len(missing)} of {len(paths)} files are not there",
                    where=context.asset_key.to_user_string(),
                    why=f"the first is {missing[0]}",
                    next="Materialize the asset, or those of its partitions, first",
                )
            return of_reader(_read(paths, context.asset_key.to_user_string()), asked)
        except FerryError as error:
            raise dg.Failure(str(error), allow_retries=error.retryable) from None

    def path(self, key: dg.AssetKey, partition: str | None) -> UPath:
        """The file of an asset or of one of its partitions."""
        folder = UPath(self.base_uri or f"{read_settings().stage_root}/exports").joinpath(*key.path[:-1])
        if partition is None:
            return folder / f"{key.path[-1]}.parquet"
        return folder / key.path[-1] / f"{file_name(partition)}.parquet"

    def _write(
        self, context: dg.OutputContext, obj: object, meter: Meter, where: str
    ) -> dict[UPath, "_File"]:
        keys: list[str | None] = (
            list(context.asset_partition_keys) if context.has_asset_partitions else [None]
        )
        files = {key: _File(self.path(context.asset_key, key), where) for key in keys}
        with contextlib.ExitStack() as open_files:
            for file in files.values():
                open_files.enter_context(file)
            for key, table in _by_partition(context, obj, keys, where):
                for counted in meter.over([table]):
                    files[key].write(counted)
            for file in files.values():
                file.finish()
        return {file.path: file for file in files.values()}


def _by_partition(
    context: dg.OutputContext, obj: object, keys: list[str | None], where: str
) -> Iterator[tuple[str | None, pa.Table]]:
    """Each piece with the partition that it belongs to."""
    if isinstance(obj, Mapping):
        if set(obj) != set(keys):
            raise PermanentError(
                "the partitions that came are not those of the run",
                where=where,
                why=f"came {', '.join(map(str, obj))}; the run makes {', '.join(map(str, keys))}",
                next="Return one entry for each of context.partition_keys",
            )
        for key, value in obj.items():
            for table in tables_of(value, where):
                yield key, table
        return
    if len(keys) == 1:
        for table in tables_of(obj, where):
            yield keys[0], table
        return
    column = definition_of(context).get("partition_expr")
    for table in tables_of(obj, where):
        wanted = [str(key) for key in keys]
        found = positions(
            table, context.asset_partitions_def, wanted, column, where, context.step_context.instance
        )
        outside = int((found < 0).sum())
        if outside:
            raise PermanentError(
                f"{outside:,} rows belong to none of the partitions that are made",
                where=where,
                next="Return the rows of these partitions only; nothing was changed",
            )
        for number, key in enumerate(keys):
            yield key, table.filter(pa.array(found == number))


class _File:
    """One Parquet file that is written in pieces and appears under its name when it is whole."""

    def __init__(self, path: UPath, where: str) -> None:
        self.path, self._where = path, where
        self.schema = pa.schema([])
        self._writer: pq.ParquetWriter | None = None
        self._local = path.protocol in ("", "file", "local")
        self._hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")

    def __enter__(self) -> "_File":
        return self

    def write(self, table: pa.Table) -> None:
        """Add rows; the first ones say which columns there are."""
        if self._writer is None:
            self.schema = table.schema
            if self._local:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._sink = self._hidden.open("wb")
            else:
                # An object appears when its upload is committed.
                self._sink = self.path.fs.open(self.path.path, "wb", autocommit=False)
            self._writer = pq.ParquetWriter(self._sink, self.schema, compression="zstd")
        if table.num_rows:
            self._writer.write_table(fit(table, self.schema, self._where), row_group_size=BATCH_ROWS)

    def finish(self) -> None:
        """Close the file and give it its name."""
        if self._writer is None:
            raise PermanentError("no rows came, not even their columns", where=self._where)
        self._writer.close()
        self._sink.close()
        if self._local:
            self._hidden.rename(self.path)
        else:
            self._sink.commit()  # type: ignore[union-attr]
        self._writer = None

    def __exit__(self, *_: object) -> None:
        """Leave nothing of a file that was not finished."""
        if self._writer is None:
            return
        with contextlib.suppress(Exception):
            self._writer.close()
        with contextlib.suppress(Exception):
            if self._local:
                self._sink.close()
                self._hidden.unlink()
            else:
                self._sink.discard()  # type: ignore[union-attr]


def _read(paths: Iterable[UPath], where: str) -> pa.RecordBatchReader:
    """The rows of some files, in pieces, with the columns of the first."""
    listed = list(paths)
    with listed[0].open("rb") as first:
        schema = pq.read_schema(first).remove_metadata()

    def batches() -> Iterator[pa.RecordBatch]:
        for path in listed:
            with path.open("rb") as body:
                file = pq.ParquetFile(body)
                # One row group at a time: an iterator over batches reads ahead without a bound.
                for group in range(file.num_row_groups):
                    yield from fit(file.read_row_group(group), schema, where).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())

"""`DatabaseIOManager`: an asset is a table, a partition is some of its rows."""

from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from ferry.components.resources import FerryResource
from ferry.errors import FerryError
from ferry.frames import Frames, tables_of
from ferry.io_managers.kept import Meter
from ferry.io_managers.slices import condition_of
from ferry.targets.table import Place, Relation, put


class DatabaseIOManager(dg.ConfigurableIOManager):
    """Keeps each asset in a table of a connection, `<schema_name>.<asset>`; a run replaces exactly its partitions.

    An asset may return a DataFrame, `Frames` (several, in bounded memory), an Arrow table or RecordBatchReader. An
    input gets what its annotation says: a DataFrame, `Frames`, an Arrow table or RecordBatchReader, or a `Relation`
    to be queried where it is. The asset's metadata may name another table (`dagster/table_name`), the column that
    tells partitions apart (`partition_expr`, see `slices.Expr`) and columns that are not to be shown (`personal`).
    """

    connection: str = Field(description="the connection's name; its URL is FERRY_CONNECTIONS__<NAME>")
    schema_name: str = Field(default="public", description="where tables are that do not name their schema")
    ferry: dg.ResourceDependency[FerryResource]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Replace the table, or the rows of the run's partitions, in one transaction."""
        if obj is None:
            return
        where, meter = context.asset_key.to_user_string(), Meter()
        try:
            table = put(self._place(context), meter.over(tables_of(obj, where)), where)
        except FerryError as error:
            raise dg.Failure(str(error), allow_retries=error.retryable) from None
        context.add_output_metadata(
            {
                **row_count(context, meter.rows),
                "dagster/table_name": table.label,
                "dagster/storage_kind": "postgresql",
                "dagster/column_schema": dg.TableSchema(
                    [
                        dg.TableColumn(
                            column.name,
                            column.type,
                            constraints=dg.TableColumnConstraints(nullable=not column.not_null),
                            tags={"personal": ""} if column.name in _personal(context) else None,
                        )
                        for column in table.columns.values()
                    ]
                ),
                "connection": self.connection,
                **meter.metadata(_personal(context)),
            }
        )

    def load_input(self, context: dg.InputContext) -> object:
        """The table, or the rows of the partitions that the run needs, as the input's annotation asks."""
        asked = context.dagster_type.typing_type
        try:
            relation = Relation(self._place(context), context.asset_key.to_user_string())
            return relation if asked is Relation else of_reader(relation.reader(), asked)
        except FerryError as error:
            raise dg.Failure(str(error), allow_retries=error.retryable) from None

    def _place(self, context: dg.OutputContext | dg.InputContext) -> Place:
        told = definition_of(context)
        name = str(told.get("dagster/table_name") or f"{self.schema_name}.{context.asset_key.path[-1]}")
        keys = partitions_asked(context)
        condition = None
        if keys is not None:
            condition = condition_of(
                context.asset_partitions_def,
                keys,
                told.get("partition_expr"),
                context.asset_key.to_user_string(),
                context.instance if isinstance(context, dg.InputContext) else context.step_context.instance,
            )
        settings = self.ferry.settings()
        return Place(settings.url(self.connection), self.connection, name, condition)


def of_reader(reader: pa.RecordBatchReader, asked: object) -> object:
    """A stream of batches in the shape that an annotation asks for; a DataFrame if it says nothing."""
    if asked is pa.RecordBatchReader:
        return reader
    if asked is Frames:
        return Frames(batch.to_pandas() for batch in reader)
    table = reader.read_all()
    return table if asked is pa.Table else table.to_pandas()


def definition_of(context: dg.OutputContext | dg.InputContext) -> dict[str, Any]:
    """The metadata of the asset's definition, for an input that of the asset upstream."""
    if isinstance(context, dg.InputContext):
        upstream = context.upstream_output
        return dict(upstream.definition_metadata or {}) if upstream else {}
    return dict(context.definition_metadata or {})


def row_count(context: dg.OutputContext, rows: int) -> dict[str, int]:
    """The rows under Dagster's own name; of several partitions together under another, as each would show the sum."""
    if not context.has_asset_partitions:
        return {"dagster/row_count": rows}
    several = len(context.asset_partition_keys)
    if several == 1:
        return {"dagster/partition_row_count": rows}
    return {"rows of the run": rows, "partitions of the run": several}


def partitions_asked(context: dg.OutputContext | dg.InputContext) -> list[str] | None:
    """The partitions that a run writes or reads; None if the asset has none, or if all of them are read."""
    if not context.has_asset_partitions:
        return None
    keys = list(context.asset_partition_keys)
    if isinstance(context, dg.InputContext):
        every = context.asset_partitions_def.get_partition_keys(dynamic_partitions_store=context.instance)
        # Rows that belong to no partition, such as those without a date, come with the whole.
        return None if set(every) == set(keys) else keys
    return keys


def _personal(context: dg.OutputContext) -> list[str]:
    return [str(name) for name in definition_of(context).get("personal") or ()]

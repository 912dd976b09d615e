"""Which rows of a table belong to a partition: by the columns that the asset names under `partition_expr`.

@dg.asset(partitions_def=months, metadata={"partition_expr": "ordered_on"})
@dg.asset(partitions_def=months_and_regions, metadata={"partition_expr": {"month": "ordered_on", "region": "area"}})
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from psycopg import sql

from ferry.errors import DeclarationError


@dataclass(frozen=True)
class Term:
    """One column of a partition: a value, or a half-open range of moments (UTC)."""

    column: str
    value: str | None = None
    low: datetime.datetime | None = None
    high: datetime.datetime | None = None

    def as_sql(self) -> sql.Composable:
        """The same as a condition; the database turns the moment into the column's type."""
        column = sql.Identifier(self.column)
        if self.value is not None:
            return sql.SQL("{}::text = {}").format(column, sql.Literal(self.value))
        low, high = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (self.low, self.high))
        return sql.SQL("({0} >= {1} and {0} < {2})").format(column, sql.Literal(low), sql.Literal(high))

    def holds(self, table: pl.DataFrame, where: str) -> pl.Expr:
        """The same as an expression over the columns of a DataFrame."""
        if self.column not in table.columns:
            raise DeclarationError(
                f"there is no column {self.column!r}, which tells the partitions apart",
                where=f"{where}: metadata partition_expr",
                next=f"Its columns are {', '.join(table.columns)}",
            )
        column = pl.col(self.column)
        if self.value is not None:
            return (column.cast(pl.String) == self.value).fill_null(False)
        zone = getattr(table.schema[self.column], "time_zone", None)
        low, high = (pl.lit(moment).cast(pl.Datetime("us", zone)) for moment in (self.low, self.high))
        moments = column.cast(pl.Datetime("us", zone))
        return moments.is_between(low, high, closed="left").fill_null(False)


def terms_of(definition: dg.PartitionsDefinition, key: str, columns: object, where: str) -> tuple[Term, ...]:
    """The terms of one partition.

    Args:
        definition: the asset's partitions.
        key: the partition.
        columns: the metadata `partition_expr`: a column, or dimension → column for partitions of two dimensions.
        where: the asset, for errors.
    """
    if isinstance(definition, dg.MultiPartitionsDefinition):
        named = columns if isinstance(columns, Mapping) else {}
        parts = definition.get_partition_key_from_str(key).keys_by_dimension
        return tuple(
            term
            for dimension in definition.partitions_defs
            for term in terms_of(
                dimension.partitions_def,
                parts[dimension.name],
                named.get(dimension.name),
                f"{where}, dimension {dimension.name}",
            )
        )
    if not isinstance(columns, str):
        raise DeclarationError(
            "it is partitioned, and nothing says by which column",
            where=where,
            next='Give the asset metadata={"partition_expr": "the_column"}; a mapping for each dimension of two',
        )
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        window = definition.time_window_for_partition_key(key)
        low, high = (_utc(moment) for moment in (window.start, window.end))
        return (Term(columns, low=low, high=high),)
    return (Term(columns, value=key),)


def condition_of(
    definition: dg.PartitionsDefinition, keys: Sequence[str], columns: object, where: str
) -> sql.Composable:
    """The SQL condition that the rows of some partitions meet."""
    each = [
        sql.SQL("({})").format(sql.SQL(" and ").join(term.as_sql() for term in terms))
        for terms in (terms_of(definition, key, columns, where) for key in keys)
    ]
    return sql.SQL("({})").format(sql.SQL(" or ").join(each))


def positions(
    rows: pa.Table, definition: dg.PartitionsDefinition, keys: Sequence[str], columns: object, where: str
) -> np.ndarray:
    """For each row the number of the partition (in `keys`) that it belongs to, -1 for none."""
    table = pl.DataFrame(rows)
    found = pl.lit(-1)
    for number, key in enumerate(keys):
        terms = [term.holds(table, where) for term in terms_of(definition, key, columns, where)]
        found = pl.when(pl.all_horizontal(terms)).then(pl.lit(number)).otherwise(found)
    return table.select(found.alias("number"))["number"].to_numpy()


def _utc(moment: datetime.datetime) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment.timestamp(), datetime.UTC)

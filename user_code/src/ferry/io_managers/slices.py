"""Which rows of a table belong to a partition: by the columns that the asset names under `partition_expr`.

@dg.asset(partitions_def=months, metadata={"partition_expr": "ordered_on"})
@dg.asset(partitions_def=months_and_regions, metadata={"partition_expr": {"month": "ordered_on", "region": "area"}})
@dg.asset(partitions_def=thousands, metadata={"partition_expr": {"column": "number", "ranges": True}})
"""

import datetime
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from psycopg import sql
from pydantic import BaseModel, ConfigDict, ValidationError

from ferry.errors import DeclarationError
from ferry.partition import OTHERS


@dataclass(frozen=True)
class Term:
    """One column of a partition: a value; or whatever is none of `others`; or a half-open range, None being open.

    Moments of a range are UTC. NULL belongs to it with `or_null`.
    """

    column: str
    value: str | None = None
    others: tuple[str, ...] | None = None
    low: datetime.datetime | int | None = None
    high: datetime.datetime | int | None = None
    or_null: bool = False

    def as_sql(self) -> sql.Composable:
        """The same as a condition; the database turns a moment into the column's type."""
        column = sql.Identifier(self.column)
        if self.value is not None:
            condition = sql.SQL("{}::text = {}").format(column, sql.Literal(self.value))
        elif self.others is not None:
            condition = sql.SQL("{}::text <> all({}::text[])").format(column, sql.Literal(list(self.others)))
        else:
            ends = [
                comparison.format(column, sql.Literal(_plain(end)))
                for comparison, end in ((sql.SQL("{} >= {}"), self.low), (sql.SQL("{} < {}"), self.high))
                if end is not None
            ]
            condition = sql.SQL(" and ").join(ends) if ends else sql.SQL("{} is not null").format(column)
        or_null = sql.SQL(" or {} is null").format(column) if self.or_null else sql.SQL("")
        return sql.SQL("({}{})").format(condition, or_null)

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
            found = column.cast(pl.String) == self.value
        elif self.others is not None:
            found = ~column.cast(pl.String).is_in(self.others)
        else:
            zone = getattr(table.schema[self.column], "time_zone", None)
            moments = any(isinstance(end, datetime.datetime) for end in (self.low, self.high))
            as_it_is, found = column.cast(pl.Datetime("us", zone)) if moments else column, pl.lit(True)
            for end, compare in ((self.low, operator.ge), (self.high, operator.lt)):
                if end is not None:
                    limit = pl.lit(end)
                    found &= compare(as_it_is, limit.cast(pl.Datetime("us", zone)) if moments else limit)
            found = pl.when(column.is_not_null()).then(found)
        return found.fill_null(self.or_null)


def _plain(end: datetime.datetime | int) -> str | int:
    return end if isinstance(end, int) else f"{end:%Y-%m-%d %H:%M:%S}"


class Expr(BaseModel):
    """What `partition_expr` says of one column; its name alone is short for the rest as it is.

    Attributes:
        column: the column.
        ranges: the partitions' keys are whole numbers, each where a range begins; the next one ends it.
        every_row: as in an entity, every row belongs somewhere. What lies before the first range, and NULL, is the
            first partition's, what lies behind the last one the last's; a value that is no key is the first's, or that
            of `(others)` if there is such a partition.
    """

    model_config = ConfigDict(extra="forbid")
    column: str
    ranges: bool = False
    every_row: bool = False


def terms_of(
    definition: dg.PartitionsDefinition,
    key: str,
    columns: object,
    where: str,
    instance: dg.DagsterInstance | None = None,
) -> tuple[Term, ...]:
    """The terms of one partition.

    Args:
        definition: the asset's partitions.
        key: the partition.
        columns: the metadata `partition_expr`: a column or `Expr`; for two dimensions, dimension → such.
        where: the asset, for errors.
        instance: who knows the keys of dynamic partitions.
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
                instance,
            )
        )
    expr = _expr(columns, where)
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        window = definition.time_window_for_partition_key(key)
        first = expr.every_row and key == definition.get_first_partition_key()
        last = expr.every_row and key == definition.get_last_partition_key()
        low, high = (None if first else _utc(window.start)), (None if last else _utc(window.end))
        return (Term(expr.column, low=low, high=high, or_null=first),)
    keys = list(definition.get_partition_keys(dynamic_partitions_store=instance))
    if expr.ranges:
        return (_range(keys, key, expr, where),)
    if expr.every_row and key == (OTHERS if OTHERS in keys else keys[0]):
        return (Term(expr.column, others=tuple(one for one in keys if one != key), or_null=True),)
    return (Term(expr.column, value=key),)


def _expr(columns: object, where: str) -> Expr:
    if isinstance(columns, str):
        return Expr(column=columns)
    if not isinstance(columns, Mapping):
        raise DeclarationError(
            "it is partitioned, and nothing says by which column",
            where=where,
            next='Give the asset metadata={"partition_expr": "the_column"}; a mapping for each dimension of two',
        )
    try:
        return Expr.model_validate(dict(columns))
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise DeclarationError(
            "its partition_expr is not understood",
            where=where,
            why=said,
            next='Write "the_column", or {"column": …, "ranges": …, "every_row": …}',
        ) from None


def _range(keys: list[str], key: str, expr: Expr, where: str) -> Term:
    """Of keys that are whole numbers, from this one to the next greater one."""
    try:
        starts = sorted(int(one) for one in keys)
    except ValueError as error:
        raise DeclarationError(
            "ranges begin at whole numbers, and a partition's key is none",
            where=f"{where}: metadata partition_expr",
            why=str(error),
            next="Leave `ranges` out if a key is the value itself",
        ) from None
    start = int(key)
    after = next((one for one in starts if one > start), None)
    if after is None and not expr.every_row:
        raise DeclarationError(
            f"nothing says where the last range, from {start}, ends",
            where=f"{where}: metadata partition_expr",
            next="Add `every_row: True` if it has no end, or a partition that begins where it ends",
        )
    first = expr.every_row and start == starts[0]
    return Term(expr.column, low=None if first else start, high=after, or_null=first)


def condition_of(
    definition: dg.PartitionsDefinition,
    keys: Sequence[str],
    columns: object,
    where: str,
    instance: dg.DagsterInstance | None = None,
) -> sql.Composable:
    """The SQL condition that the rows of some partitions meet; the arguments are those of `terms_of`."""
    each = [
        sql.SQL("({})").format(sql.SQL(" and ").join(term.as_sql() for term in terms))
        for terms in (terms_of(definition, key, columns, where, instance) for key in keys)
    ]
    return sql.SQL("({})").format(sql.SQL(" or ").join(each))


def positions(
    rows: pa.Table,
    definition: dg.PartitionsDefinition,
    keys: Sequence[str],
    columns: object,
    where: str,
    instance: dg.DagsterInstance | None = None,
) -> np.ndarray:
    """For each row the number of the partition (in `keys`) that it belongs to, -1 for none."""
    table = pl.DataFrame(rows)
    found = pl.lit(-1)
    for number, key in enumerate(keys):
        terms = [term.holds(table, where) for term in terms_of(definition, key, columns, where, instance)]
        found = pl.when(pl.all_horizontal(terms)).then(pl.lit(number)).otherwise(found)
    return table.select(found.alias("number"))["number"].to_numpy()


def _utc(moment: datetime.datetime) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment.timestamp(), datetime.UTC)

# pyright: reportAttributeAccessIssue=false
"""The verdict over staged rows: which are accepted, which are rejected, and why, by row number.

Reasons come in a fixed order, and the first that applies is the row's: a key that occurs more than once, then the
contract. (What the target's columns refuse, and references, are judged while loading.) Nothing here changes a value.
"""

import io
import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
import pyarrow.parquet as pq

from ferry.contract import CompiledContract, compile_contract
from ferry.contract.verdict import MASK
from ferry.plan import EntityPlan, not_null_targets
from ferry.sources.shape import UNFIT

ERRORS = pa.schema(
    [
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("column", pa.string()),
        ("rule", pa.string()),
        ("value", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True)
class PartVerdict:
    """The verdict over one part: `errors` (see `ERRORS`, several a row possible), and how many rows are rejected."""

    rows: int
    errors: pa.Table

    @property
    def rejected(self) -> np.ndarray:
        """Numbers of the rejected rows, sorted, each once (int64)."""
        return np.unique(self.errors.column("row").to_numpy())

    def accepted(self) -> np.ndarray:
        """A mask over the rows: True for those that go on."""
        mask = np.ones(self.rows, dtype=bool)
        mask[self.rejected] = False
        return mask

    def to_bytes(self) -> bytes:
        """As a small Parquet file that lies beside the part."""
        sink = io.BytesIO()
        pq.write_table(
            self.errors.replace_schema_metadata({"rows": str(self.rows)}), sink, compression="zstd"
        )
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, body: bytes) -> "PartVerdict":
        """Read what `to_bytes` wrote."""
        table = pq.read_table(pa.BufferReader(body))
        return cls(int((table.schema.metadata or {})[b"rows"]), table.cast(ERRORS))


@dataclass
class Tally:
    """The verdict over a partition in numbers: accepted, rejected and, by `reason: column: rule`, how often."""

    accepted: int = 0
    rejected: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, verdict: PartVerdict, most_examples: int = 10) -> None:
        """Count a part's verdict; each row counts once, for its first error."""
        rejected = len(verdict.rejected)
        self.accepted += verdict.rows - rejected
        self.rejected += rejected
        if not rejected:
            return
        first = pl.from_arrow(verdict.errors).unique(subset="row", keep="first", maintain_order=True)  # type: ignore[union-attr]
        for row in first.iter_rows(named=True):  # type: ignore[union-attr]
            rule = row["reason"] if not row["rule"] else f"{row['reason']}: {row['column']}: {row['rule']}"
            self.rules[rule] = self.rules.get(rule, 0) + 1
            if len(self.examples) < most_examples:
                self.examples.append(row)


class Judge:
    """Judges the parts of one entity: repeated keys, keys that are NULL, the contract, and what the target refuses."""

    def __init__(self, plan: EntityPlan) -> None:
        """Compile the contract and collect what the target's catalogue asks for."""
        self._plan = plan
        self.contract: CompiledContract = compile_contract(plan.entity.contract)
        self._fits = not_null_targets(plan)
        asked = self.contract.kinds()
        self._as = {
            f.name: _SHOWN[(f.metadata or {})[b"pg_type"].decode().partition("(")[0]]
            for f in plan.schema
            if pa.types.is_string(f.type)
            and (f.metadata or {}).get(b"pg_type", b"").decode().partition("(")[0] in asked.get(f.name, ())
        }

    def judge(self, table: pa.Table, duplicates: pa.Table | None) -> PartVerdict:
        """The verdict over one part.

        Args:
            table: the part's rows as staged.
            duplicates: the keys that occur more than once, as `Extraction.duplicates` gives them.
        """
        found = [
            self._repeated(table, duplicates),
            _unfit(table),
            self._null_keys(table),
            *self._contract(table),
        ]
        taken: set[int] = set()
        kept: list[pa.Table] = []
        for errors in (*found, self._refused(table)):
            if errors is None or not errors.num_rows:
                continue
            if taken:
                fresh = ~np.isin(errors.column("row").to_numpy(), np.fromiter(taken, dtype=np.int64))
                errors = errors.filter(pa.array(fresh))
            kept.append(errors)
            taken.update(errors.column("row").to_pylist())
        return PartVerdict(table.num_rows, pa.concat_tables(kept) if kept else ERRORS.empty_table())

    def _repeated(self, table: pa.Table, duplicates: pa.Table | None) -> pa.Table | None:
        if duplicates is None or not duplicates.num_rows:
            return None
        key, personal = list(self._plan.source_key), self._plan.personal
        rows = pl.from_arrow(table.select([*key, *self._updated_at()])).with_row_index("#row")  # type: ignore[union-attr]
        hits = rows.join(pl.from_arrow(duplicates), on=key, how="inner", nulls_equal=True)  # type: ignore[union-attr, arg-type]
        if "latest" in duplicates.column_names:
            # The newest row of a key stays; where two are the newest, none of them can be told to be it.
            updated = self._updated_at()[0]
            hits = hits.filter(pl.col("latest").is_null() | (pl.col(updated) != pl.col("latest")))
        return _errors(
            hits["#row"].cast(pl.Int64).to_list(),
            "duplicate_key",
            ", ".join(key),
            "",
            [
                ", ".join(MASK if n in personal else str(v) for n, v in zip(key, values, strict=True))
                for values in hits.select(key).iter_rows()
            ],
            "the key occurs more than once in the source",
        )

    def _updated_at(self) -> list[str]:
        name = self._plan.declaration.source.updated_at
        return [name] if name and self._plan.declaration.duplicates == "keep_latest" else []

    def _null_keys(self, table: pa.Table) -> pa.Table | None:
        found = []
        for name in self._plan.source_key:
            column = table.column(name)
            if column.null_count:
                rows = np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False)).tolist()
                found.append(_errors(rows, "contract", name, "null_key", None, "a key may not be NULL"))
        return pa.concat_tables(found) if found else None

    def _contract(self, table: pa.Table) -> list[pa.Table]:
        offset, found = 0, []
        for batch in self._shown(table).to_batches():
            errors = self.contract.judge(batch).errors
            if errors.num_rows:
                columns = {name: errors.column(name) for name in ("column", "rule", "value", "message")}
                rows = pc.add(errors.column("row"), offset)
                reason = pa.array(["contract"] * errors.num_rows, pa.string())
                found.append(pa.table({"row": rows, "reason": reason, **columns}).cast(ERRORS))
            offset += batch.num_rows
        return [pa.concat_tables(found)] if found else []

    def _shown(self, table: pa.Table) -> pa.Table:
        """The rows as the contract sees them: a `numeric` and a `uuid` that travel as text are what they were."""
        for name, of in self._as.items():
            table = table.set_column(table.column_names.index(name), name, of(table.column(name)))
        return table

    def _refused(self, table: pa.Table) -> pa.Table | None:
        """NULL where the target says NOT NULL, and text longer than its column: known without asking the target."""
        parts = []
        for source, column in self._fits:
            if table.column(source).null_count:
                rows = np.flatnonzero(
                    pc.is_null(table.column(source)).to_numpy(zero_copy_only=False)
                ).tolist()
                message = f"{self._plan.target.label}.{column.name} is NOT NULL"
                parts.append(_errors(rows, "target_refused", source, "not_null", None, message))
        for planned in self._plan.columns:
            length = self._plan.target.columns[planned.target].length
            values = table.column(planned.source)
            if length and pa.types.is_string(values.type):
                long = (
                    pc.greater(pc.utf8_length(values), length).fill_null(False).to_numpy(zero_copy_only=False)
                )
                if long.any():
                    message = f"{self._plan.target.label}.{planned.target} holds {length} characters"
                    parts.append(
                        _errors(
                            np.flatnonzero(long).tolist(),
                            "target_refused",
                            planned.source,
                            "too_long",
                            None,
                            message,
                        )
                    )
        return pa.concat_tables(parts) if parts else None


def _numeric(column: pa.ChunkedArray) -> pa.ChunkedArray:
    type_ = pa.opaque(pa.string(), "numeric", "PostgreSQL")
    return pa.chunked_array([pa.ExtensionArray.from_storage(type_, chunk) for chunk in column.chunks], type_)


def _uuid(column: pa.ChunkedArray) -> pa.ChunkedArray:
    digits = pl.from_arrow(pc.replace_substring(column, "-", "")).str.decode("hex")  # type: ignore[union-attr]
    storage = digits.to_arrow().cast(pa.binary()).cast(pa.binary(16))
    return pa.chunked_array([pa.ExtensionArray.from_storage(pa.uuid(), storage)])


_SHOWN = {"numeric": _numeric, "uuid": _uuid}
"""How a contract sees text that is a value of this PostgreSQL type, if it asks for such values."""


def _unfit(table: pa.Table) -> pa.Table | None:
    """Values that are not of their field's type: the source carried them beside their row."""
    if UNFIT not in table.column_names or table.column(UNFIT).null_count == table.num_rows:
        return None
    parts = []
    for row, text in enumerate(table.column(UNFIT).to_pylist()):
        for column, value in json.loads(text or "{}", parse_float=Decimal).items():
            message = "the value is not of the type that is declared for its field"
            parts.append(_errors([row], "contract", column, "type", [str(value)], message))
    return pa.concat_tables(parts)


def _errors(
    rows: list[int], reason: str, column: str, rule: str, values: list[str] | None, message: str
) -> pa.Table:
    count = len(rows)
    return pa.table(
        [
            rows, [reason] * count, [column] * count, [rule] * count, values if values is not None else [None] * count,
            [message] * count,
        ],
        schema=ERRORS,
    )  # fmt: skip

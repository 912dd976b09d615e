# pyright: reportAttributeAccessIssue=false
"""The verdict over staged rows: which are accepted, which are rejected, and why, by row number.

Reasons come in a fixed order, and the first that applies is the row's: a key that occurs more than once, a value
that no partition lists, then the contract. (What the target's columns refuse, and references, are judged while
loading.) Nothing here changes a value.
"""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
import pyarrow.parquet as pq

from ferry.arrow import array_of, constant, empty, numbers_of, texts
from ferry.contract import CompiledContract, compile_contract
from ferry.contract.carried import python_values, shown
from ferry.contract.verdict import MASK, withheld
from ferry.declaration import fingerprint
from ferry.fits import listed_values, not_null_targets
from ferry.mapping import Failures, MappedColumn, map_rows
from ferry.parse import Parser
from ferry.plan import EntityPlan
from ferry.sources.shape import UNFIT
from ferry.value_rules import ParseRule

ERRORS = pa.schema(
    [
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("column", pa.string()),
        ("rule", pa.string()),
        ("value", pa.string()),
        ("message", pa.string()),
        ("path", pa.string()),
    ]
)
MOST_VALUES = 1_000
"""Distinct values that are counted for one rule of one partition; a value beyond that is not counted by itself."""


@dataclass(frozen=True)
class PartVerdict:
    """The verdict over one part: `errors` (see `ERRORS`, several a row possible), and how many rows are rejected.

    `sent` are the rows as they are loaded, with what `parse` read and `mapping` made; None where both do nothing.
    """

    rows: int
    errors: pa.Table
    sent: pa.Table | None = None

    @property
    def rejected(self) -> np.ndarray:
        """Numbers of the rejected rows, sorted, each once (int64)."""
        return np.unique(numbers_of(self.errors.column("row")))

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
        table = pq.ParquetFile(pa.BufferReader(body)).read()
        rows = int((table.schema.metadata or {})[b"rows"])
        if "path" not in table.column_names:  # as earlier versions wrote it
            table = table.append_column("path", pa.nulls(table.num_rows, pa.string()))
        return cls(rows, table.cast(ERRORS))

    def listed(self) -> list[dict[str, Any]]:
        """The errors as dictionaries; `path` only where it says something."""
        rows = self.errors.to_pylist()
        return [{k: v for k, v in row.items() if k != "path" or v is not None} for row in rows]


@dataclass
class Tally:
    """The verdict over a partition in numbers: accepted, rejected and, by `reason: column: rule`, how often."""

    accepted: int = 0
    rejected: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    """By the same names, how often each value broke the rule (as errors show it: masked where it is personal)."""

    def add(self, verdict: PartVerdict, most_examples: int = 10) -> None:
        """Count a part's verdict; each row counts once, for its first error."""
        rejected = len(verdict.rejected)
        self.accepted += verdict.rows - rejected
        self.rejected += rejected
        if not rejected:
            return
        first = pl.DataFrame(pl.from_arrow(verdict.errors)).unique(
            subset="row", keep="first", maintain_order=True
        )
        wanted = most_examples - len(self.examples)
        self.examples += first.head(max(wanted, 0)).drop("path").to_dicts()
        counted = first.group_by("reason", "column", "rule", "value", maintain_order=True).len()
        for reason, column, rule, value, count in counted.iter_rows():
            name = f"{reason}: {column}: {rule}" if rule else reason
            self.rules[name] = self.rules.get(name, 0) + count
            seen = self.values.setdefault(name, Counter())
            if value is not None and (value in seen or len(seen) < MOST_VALUES):
                seen[value] += count

    def top(self, rule: str, most: int = 5) -> str:
        """The values that break a rule most often, for people: `abc (12), (3)`."""
        return ", ".join(f"{value} ({count})" for value, count in self.values[rule].most_common(most))


class Judge:
    """Judges the parts of one entity: repeated keys, keys that are NULL, the contract, and what the target refuses."""

    def __init__(self, plan: EntityPlan) -> None:
        """Compile the contract and collect what the target's catalogue asks for."""
        self._plan = plan
        self.contract: CompiledContract = compile_contract(plan.entity.contract)
        self._fits = not_null_targets(plan)
        self._parser = Parser(plan.schema, plan.parsed, plan.declaration.parse, str(plan.entity.path))
        self._personal = {column.name for column in self.contract.fields if column.personal}
        asked = self.contract.kinds()
        self._listed = listed_values(plan)
        self._as = {
            f.name: _SHOWN[(f.metadata or {})[b"pg_type"].decode().partition("(")[0]]
            for f in self._parser.schema
            if pa.types.is_string(f.type)
            and (f.metadata or {}).get(b"pg_type", b"").decode().partition("(")[0] in asked.get(f.name, ())
        }

    def fingerprint(self) -> str:
        """Changes when this judge may say something else of the same rows, as far as the declaration goes."""
        rules, contract = self._plan.declaration.parse, self.contract.fingerprint()
        if self._listed:
            contract = fingerprint([contract, self._listed])
        if not self._plan.changes:
            return contract
        made = {one.target: one.code for one in self._plan.mapped}
        return fingerprint([contract, {name: rule.model_dump() for name, rule in rules.items()}, made])

    def unsatisfiable(self) -> dict[str, str]:
        """Columns of which no value can pass the contract, going by their types alone: column → why not."""
        # What travels as text is shown as what the contract asks for.
        return self.contract.unsatisfiable(
            pa.schema([f for f in self._parser.schema if f.name not in self._as])
        )

    def judge(self, table: pa.Table, duplicates: pa.Table | None) -> PartVerdict:
        """The verdict over one part.

        Args:
            table: the part's rows as staged.
            duplicates: the keys that occur more than once, as `Extraction.duplicates` gives them.
        """
        read, unread = self._parser.parse(table)
        unfit, known = self._unfit(table), [(name, rows) for name, rows, _ in unread]
        if unfit is not None:
            at, names = unfit.column("row").to_numpy(), unfit.column("column").to_numpy()
            known += [(name, at[names == name]) for name in set(names)]
        judged = [*([unfit] if unfit else []), *self._unread(table, unread), *self._contract(read, known)]
        outside = self._outside(table)
        errors = _first_reason(
            [self._repeated(table, duplicates), self._null_keys(read), *outside, _by_row(judged)]
        )
        sent, failed = self._map(read, PartVerdict(table.num_rows, errors).accepted())
        errors = _first_reason([errors, *failed, self._refused(sent)])
        return PartVerdict(table.num_rows, errors, sent if self._plan.changes else None)

    def judge_changed(self, table: pa.Table, was: np.ndarray, body: bytes) -> PartVerdict:
        """The verdict over a part of which only some rows are other than when its verdict was kept.

        Args:
            table: the part's rows.
            was: the place of each row in the part that the kept verdict is over; -1 for those that are to be judged.
            body: that verdict.
        """
        if self._plan.changes:
            return self.judge(table, None)
        # What was rejected is judged again: the target, which some reasons come from, may be another one by now.
        again = was < 0
        again[~again] = ~PartVerdict.from_bytes(body).accepted()[was[~again]]
        other = np.flatnonzero(again)
        errors = self.judge(table.take(array_of(other)), None).errors
        rows = array_of(other[numbers_of(errors.column("row"))])
        return PartVerdict(table.num_rows, errors.set_column(0, ERRORS.field(0), rows))

    def recall(self, body: bytes, table: pa.Table) -> PartVerdict:
        """A verdict that was kept as bytes, with its rows made ready again."""
        kept = PartVerdict.from_bytes(body)
        if not self._plan.changes:
            return kept
        return replace(kept, sent=self._map(self._parser.parse(table)[0], kept.accepted())[0])

    def _map(self, table: pa.Table, accepted: np.ndarray) -> tuple[pa.Table, list[pa.Table]]:
        """The rows with the columns that `mapping` makes; those of rows that are rejected are NULL."""
        mapped = self._plan.mapped
        if not mapped:
            return table, []
        numbers = np.flatnonzero(accepted)
        some = table if len(numbers) == table.num_rows else table.take(array_of(numbers))
        made, failed = map_rows(mapped, some)
        errors = [self._unmade(one, failures, some, numbers) for one, failures in failed]
        if len(numbers) == table.num_rows:
            return made, errors
        places = np.full(table.num_rows, -1, dtype=np.int64)
        places[numbers] = np.arange(len(numbers))
        back = pa.array(places, mask=places < 0)
        for one in mapped:
            table = table.append_column(one.field, pc.take(made.column(one.name), back))
        return table, errors

    def _unmade(self, one: MappedColumn, failures: Failures, rows: pa.Table, numbers: np.ndarray) -> pa.Table:
        personal = bool(self._personal & set(one.sources))
        given = python_values(
            rows.select(one.sources).take(pa.array(list(failures))).to_struct_array().combine_chunks()
        )
        values = [
            MASK if personal else shown(next(iter(row.values())) if len(one.sources) == 1 else row)
            for row in given
        ]
        told = [withheld("") if personal and rule in _REPEATING else why for rule, why in failures.values()]
        return pa.table(
            [
                [int(numbers[row]) for row in failures], ["mapping"] * len(given), [one.target] * len(given),
                [rule for rule, _ in failures.values()], values, told, [None] * len(given),
            ],
            schema=ERRORS,
        )  # fmt: skip

    def _unfit(self, table: pa.Table) -> pa.Table | None:
        """Values that are not of their field's type: the source carried them beside their row."""
        if UNFIT not in table.column_names or table.column(UNFIT).null_count == table.num_rows:
            return None
        parts = []
        message = "the value is not of the type that is declared for its field"
        for row in np.flatnonzero(numbers_of(table.column(UNFIT).is_valid())).tolist():
            found = json.loads(table.column(UNFIT)[row].as_py(), parse_float=Decimal)
            for column, value in found.items():
                text = MASK if column in self._personal else shown(str(value))
                parts.append(_errors([row], "contract", column, "type", [text], message))
        return pa.concat_tables(parts)

    def _unread(self, table: pa.Table, unread: list[tuple[str, np.ndarray, ParseRule]]) -> list[pa.Table]:
        """Texts that their rule cannot read, as they were."""
        return [
            _errors(
                rows.tolist(),
                "parse",
                name,
                rule.type,
                [
                    MASK if name in self._personal else shown(v)
                    for v in python_values(table.column(name).take(pa.array(rows)).combine_chunks())
                ],
                f"the text is no {rule.type} as declared under parse",
            )
            for name, rows, rule in unread
        ]

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
                rows = np.flatnonzero(numbers_of(pc.is_null(column))).tolist()
                found.append(_errors(rows, "contract", name, "null_key", None, "a key may not be NULL"))
        return pa.concat_tables(found) if found else None

    def _outside(self, table: pa.Table) -> list[pa.Table]:
        """Values of a column that is cut by listed ones, and are not listed: their rows came with the first."""
        found = []
        for name, listed in self._listed.items():
            values = table.column(name).cast(pa.string())
            if self._plan.source.columns[name].base_type == "bpchar":
                values = pc.utf8_rtrim(values, characters=" ")
            known = pc.or_kleene(pc.is_in(values, pa.array(listed)), pc.is_null(values))
            rows = np.flatnonzero(~known.to_numpy())
            if len(rows):
                told = values.take(pa.array(rows)).to_pylist()
                shows = [MASK if name in self._personal else shown(value) for value in told]
                message = f"the value is none of those that partition.values lists: {', '.join(listed[:10])}"
                message += ", …" if len(listed) > 10 else ""
                found.append(_errors(rows.tolist(), "outside_partitions", name, "listed", shows, message))
        return found

    def _contract(self, table: pa.Table, unread: list[tuple[str, np.ndarray]]) -> list[pa.Table]:
        offset, found = 0, []
        for batch in self._shown(table).to_batches():
            errors = self.contract.judge(batch).errors
            if errors.num_rows:
                columns = {
                    name: errors.column(name) for name in ("column", "rule", "value", "message", "path")
                }
                rows = pc.add(errors.column("row"), constant(offset, pa.int64()))
                reason = texts(["contract"] * errors.num_rows, pa.string())
                found.append(pa.table({"row": rows, "reason": reason, **columns}).cast(ERRORS))
            offset += batch.num_rows
        errors = pa.concat_tables(found) if found else empty(ERRORS)
        for name, rows in unread:  # the contract saw NULL there, which says nothing of the source
            there = array_of(np.isin(numbers_of(errors.column("row")), rows))
            named = pc.equal(errors.column("column"), constant(name, pa.string()))
            errors = errors.filter(pc.invert(pc.and_(there, named)))
        return [errors]

    def _shown(self, table: pa.Table) -> pa.Table:
        """The rows as the contract sees them: a `numeric` and a `uuid` that travel as text are what they were."""
        if UNFIT in table.column_names:
            table = table.drop_columns([UNFIT])
        for name, of in self._as.items():
            table = table.set_column(table.column_names.index(name), name, of(table.column(name)))
        return table

    def _refused(self, table: pa.Table) -> pa.Table | None:
        """NULL where the target says NOT NULL, and text longer than its column: known without asking the target."""
        parts = []
        for source, column in self._fits:
            if table.column(source).null_count:
                rows = np.flatnonzero(numbers_of(pc.is_null(table.column(source)))).tolist()
                message = f"{self._plan.target.label}.{column.name} is NOT NULL"
                parts.append(_errors(rows, "target_refused", source, "not_null", None, message))
        for planned in self._plan.columns:
            length = self._plan.target.columns[planned.target].length
            values = table.column(planned.source)
            if length and pa.types.is_string(values.type):
                longer = pc.greater(pc.utf8_length(values), constant(length, pa.int32()))
                long = numbers_of(pc.fill_null(longer, constant(False, pa.bool_())))
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


# Rules whose message may repeat the value that they failed on.
_REPEATING = ("expression", "python", "json")


def _by_row(tables: list[pa.Table]) -> pa.Table:
    """Errors of several kinds as one, ordered by row."""
    return pa.concat_tables(tables).sort_by("row") if len(tables) > 1 else tables[0]


def _first_reason(found: list[pa.Table | None]) -> pa.Table:
    """The errors of each row for the first reason that applies to it."""
    taken: set[int] = set()
    kept: list[pa.Table] = []
    for errors in found:
        if errors is None or not errors.num_rows:
            continue
        if taken:
            fresh = ~np.isin(numbers_of(errors.column("row")), np.fromiter(taken, dtype=np.int64))
            errors = errors.filter(array_of(fresh))
        kept.append(errors)
        taken.update(errors.column("row").to_pylist())
    return pa.concat_tables(kept) if kept else empty(ERRORS)


def _numeric(column: pa.ChunkedArray) -> pa.ChunkedArray:
    type_ = pa.opaque(pa.string(), "numeric", "PostgreSQL")
    return pa.chunked_array([pa.ExtensionArray.from_storage(type_, chunk) for chunk in column.chunks], type_)


def _uuid(column: pa.ChunkedArray) -> pa.ChunkedArray:
    digits = pl.from_arrow(pc.replace_substring(column, "-", "")).str.decode("hex")  # type: ignore[union-attr]
    storage = digits.to_arrow().cast(pa.binary()).cast(pa.binary(16))
    return pa.chunked_array([pa.ExtensionArray.from_storage(pa.uuid(), storage)])


_SHOWN = {"numeric": _numeric, "uuid": _uuid}
"""How a contract sees text that is a value of this PostgreSQL type, if it asks for such values."""


def _errors(
    rows: list[int], reason: str, column: str, rule: str, values: Sequence[str | None] | None, message: str
) -> pa.Table:
    told = (reason, column, rule, None, message, None)
    columns = [texts([one] * len(rows), pa.string()) for one in told]
    if values is not None:
        columns[3] = texts(values, pa.string())
    return pa.Table.from_arrays([array_of(np.array(rows, np.int64)), *columns], schema=ERRORS)

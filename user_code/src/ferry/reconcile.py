"""Reconcile: does the target hold what was staged? Compared row by row through the id map, inside the database.

The first hop, source against stage, is made when a stage is sealed (`Stage.seal`). This is the second: stage against
target. Every run makes do with the look that `ferry.digest` takes, as long as that finds nothing. `compare` sends the
staged rows again and names each key and column that differs.
"""

from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from ferry.aside import kept_in_target
from ferry.drift import check_stage
from ferry.loader import Loader
from ferry.stage import Manifest, Stage
from ferry.targets.postgres.classify import resolved
from ferry.targets.postgres.hashes import comparable, row_hash
from ferry.verdict import Judge

MOST_EXAMPLES = 20


@dataclass
class Difference:
    """One row that is not as it should be: its old key, the column (empty if the row is missing), both values."""

    key: str
    column: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        """For people: `key 17: total_amount is 10.00, should be 11.00`."""
        if not self.column:
            return f"key {self.key}: {self.found}"
        return f"key {self.key}: {self.column} is {self.found!r}, should be {self.expected!r}"


@dataclass
class Reconciliation:
    """The result for one partition: rows compared, rows that differ, those that differed until they were put right.

    `differences` are the first of them.
    """

    partition: str
    compared: int = 0
    different: int = 0
    repaired: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def reconciled(self) -> bool:
        """Whether every row is as it should be."""
        return self.different == 0


def compare(loader: Loader, stage: Stage, manifest: Manifest, judge: Judge) -> Reconciliation:
    """Send the staged rows of a partition again and compare each accepted one with the target, column by column.

    Nothing is written. Rows that wait, or that the target or a reference refused, are left out: the ledger has them.
    """
    plan = loader.plan
    result = Reconciliation(stage.partition)
    check_stage(plan, manifest)
    duplicates = stage.duplicates(manifest)
    for part in manifest.parts:
        table = stage.read(manifest, part)
        verdict = judge.judge(table, duplicates)
        numbers = kept_in_target(loader, stage.partition, part.number, verdict.accepted())
        sent = table if verdict.sent is None else verdict.sent
        if not len(numbers):
            continue
        with loader.connection.transaction(force_rollback=True):
            loader.fill(sent, numbers)
            _compare_part(loader, result)
    return result


def _compare_part(loader: Loader, result: Reconciliation) -> None:
    """Compare the incoming rows; one that another partition has brought in a newer version is compared with that.

    Unless it is gone from there: then it is missing here.
    """
    plan = loader.plan
    columns = list(plan.written)
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
        for name in plan.target_key
    )
    differs = sql.SQL("t.{} is null or {} <> c.hash").format(
        sql.Identifier(plan.target_key[0]), row_hash(plan, "t")
    )
    preserved = sql.SQL("c.outcome <> 'preserved'")
    if plan.may_meet:
        taken = sql.SQL(" and (coalesce(c.known_partition, {0}) = {0} or not c.is_ours)").format(
            sql.Literal(result.partition.replace("{", "{{").replace("}", "}}"))
        )
        preserved = sql.Composed([preserved, taken])
    query = sql.SQL("with c as materialized ({}) select {{}} from c left join {} t on {} where {}").format(
        resolved(plan), plan.target.identifier, on, preserved
    )
    text = query.as_string(loader.connection)
    counted = loader.connection.execute(
        text.format(
            sql.SQL("count(*), count(*) filter (where {})").format(differs).as_string(loader.connection)
        )  # type: ignore[arg-type]
    ).fetchone()
    assert counted is not None
    result.compared += counted[0]
    result.different += counted[1]
    if not counted[1] or len(result.differences) >= MOST_EXAMPLES:
        return
    key = sql.SQL("concat_ws(', ', {})").format(
        sql.SQL(", ").join(sql.Identifier("c", f"k{n}") for n in range(len(plan.source_key)))
    )
    present = sql.SQL("t.{} is not null").format(sql.Identifier(plan.target_key[0]))
    # Which columns differ is the database's to say: as text, 0.07 and 0.0700 would.
    pairs = sql.SQL(", ").join(
        sql.SQL("case when {} is distinct from {} then '1' end, {}::text, {}::text").format(
            comparable(plan, "c", name),
            comparable(plan, "t", name),
            sql.Identifier("c", f"c_{name}"),
            sql.Identifier("t", name),
        )
        for name in columns
    )
    listed = sql.SQL("{}, {}, array[{}]").format(key, present, pairs).as_string(loader.connection)
    tail = (
        sql.SQL(" and ({}) limit {}").format(differs, sql.Literal(MOST_EXAMPLES)).as_string(loader.connection)
    )
    for shown, there, values in loader.connection.execute(text.format(listed) + tail):  # type: ignore[arg-type]
        if not there:
            result.differences.append(Difference(shown, "", "the row", "it is not in the target"))
            continue
        for position, name in enumerate(columns):
            differ, expected, found = values[3 * position : 3 * position + 3]
            if differ:
                result.differences.append(Difference(shown, name, expected, found))

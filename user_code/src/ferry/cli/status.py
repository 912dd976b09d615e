"""The command `ferry status`: what the ledger says of each entity."""

from psycopg import Connection, sql

from ferry import constraints, id_map, ledger
from ferry.cli.migration import each_target, known_names, migration_of
from ferry.cli.options import Defs, Entities, Json, Partition
from ferry.cli.output import console, number_tables, print_json
from ferry.errors import DeclarationError
from ferry.ledger import Outcomes
from ferry.plan import EntityPlan, MigrationPlan, plan_migration
from ferry.settings import read_settings


def status(
    entities: Entities = None,
    partition: Partition = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Show what the ledger says: rows by outcome, partitions complete, rows that wait."""
    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings, only=tuple(entities or ()))
    shown = []
    asked = _asked(plans, known_names(plans, entities), partition)
    for name, connection in each_target(plans, settings, list(asked)):
        keys, prepared = asked[name], ledger.is_prepared(connection)
        # Without `--partition` also what was loaded under a declaration that cut otherwise.
        totals = ledger.totals(connection, name, keys if partition else None) if prepared else Outcomes()
        complete = ledger.complete_partitions(connection, name) if prepared else set()
        different = ledger.unreconciled(connection, name) if prepared else {}
        there = _rejected_but_there(connection, plans[name], keys if partition else None) if prepared else 0
        aside = [f"{one.kind} {one.name}" for one in constraints.waiting(connection) if one.entity == name]
        shown.append(
            {
                "entity": name,
                **totals.as_dict(),
                "complete": len(complete & set(keys)),
                "partitions": len(keys),
                "rejected_but_there": there,
                "set_aside": aside,
                "not_as_staged": different,
            }
        )
    if as_json:
        return print_json(shown)
    cells = {
        row["entity"]: {
            **{end: f"{row[end]:,}" for end in Outcomes().as_dict()},
            "complete": f"{row['complete']}/{row['partitions']}",
        }
        for row in shown
    }
    for table in number_tables("Ledger", cells, console.width):
        console.print(table)
    for row in shown:
        if row["rejected_but_there"]:
            console.print(
                f"{row['entity']}: {row['rejected_but_there']:,} rows that are rejected now were loaded before, and the"
                " target has them as they were; see `ferry rejects`",
                soft_wrap=True,
            )
        if row["set_aside"]:
            aside = ", ".join(row["set_aside"])
            console.print(f"{row['entity']}: set aside until `ferry settle`: {aside}")
        for key, rows in row["not_as_staged"].items():
            console.print(
                f"{row['entity']}, {key}: {rows:,} rows were not as staged; what refers to this partition waits"
                " until `ferry reconcile --repair`"
            )
    return None


def _asked(plans: MigrationPlan, named: tuple[str, ...], partition: str | None) -> dict[str, tuple[str, ...]]:
    """The partitions of each entity that was asked for; if none is named, of those that have them."""
    if partition is None:
        return {name: plans[name].scheme.keys for name in named or plans.order}
    found: dict[str, tuple[str, ...]] = {}
    missed: DeclarationError | None = None
    for name in named or plans.order:
        try:
            found[name] = plans[name].scheme.chosen(partition, name)
        except DeclarationError as error:
            if named:
                raise
            if missed is None or plans[name].scheme.cuts:
                missed = error
    if not found and missed:
        raise missed
    return found


def _rejected_but_there(connection: Connection, plan: EntityPlan, partitions: tuple[str, ...] | None) -> int:
    row = connection.execute(
        sql.SQL(
            "select count(distinct r.key) from ferry.rejected_rows r where entity = %s"
            " and (%s::text[] is null or partition = any(%s)) and {}"
        ).format(id_map.has_rejected(connection, plan)),
        (plan.name, list(partitions) if partitions else None, list(partitions or ())),
    ).fetchone()
    return row[0] if row else 0

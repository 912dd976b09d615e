"""Whether a plan fits both databases: every name, key, type and NOT NULL, told with its place and the way out."""

import difflib
from typing import TYPE_CHECKING

from ferry.catalogue import Column, Table, arrow_field, column_of
from ferry.declaration import Entity, Migration, nearest
from ferry.edges import AHEAD, EdgePlan
from ferry.errors import DeclarationError
from ferry.targets.types import comparable

if TYPE_CHECKING:
    from ferry.plan import EntityPlan

LISTABLE = ("text", "varchar", "bpchar", "int2", "int4", "int8", "uuid")
MOST_COLUMNS = 1_550
"""Columns of one entity that a load can hold."""
MOST_BYTES = 63
"""Of a name in PostgreSQL; what is longer is cut without a word."""


def unknown_columns(entity: Entity, source: Table) -> list[str]:
    """Columns that the contract names and the source lacks.

    A field with a default may be absent; but one that is nearly a column which the contract does not name is a slip.
    """
    fields = {str(f.validation_alias or f.alias or n): f for n, f in entity.contract.model_fields.items()}
    unnamed = [column for column in source.columns if column not in fields]
    return [
        name
        for name, field in fields.items()
        if name not in source.columns
        and (field.is_required() or difflib.get_close_matches(name, unnamed, n=1, cutoff=0.75))
    ]


def check_names(entity: Entity, source: Table, target: Table) -> None:
    """Every column that a declaration names is there."""
    declaration = entity.declaration
    path = entity.path
    for column in declaration.source.key:
        column_of(source, column, f"{path}: source.key")
    if declaration.source.updated_at:
        column_of(source, declaration.source.updated_at, f"{path}: source.updated_at")
    # Files are cut by what stands in their names.
    cuts = declaration.partition.cuts if declaration.partition and declaration.source.kind != "files" else ()
    for cut in cuts:
        column = column_of(source, cut.by or "", f"{path}: partition.by")
        if cut.values is not None and declaration.source.kind == "table":
            _check_listable(column, f"{path}: partition.values")
    for name, into in declaration.columns.items():
        column_of(source, name, f"{path}: columns")
        column_of(target, into, f"{path}: columns.{name}")
    for name in declaration.drop:
        column_of(source, name, f"{path}: drop")
    for name in declaration.target.key.column:
        column_of(target, name, f"{path}: target.key.column")
    for position, reference in enumerate(declaration.references):
        for name in reference.column:
            column_of(source, name, f"{path}: references[{position}].column")
    if declaration.match:
        for name in declaration.match.on:
            column_of(source, name, f"{path}: match.on")
            column_of(target, declaration.target_column(name), f"{path}: match.on")
    if declaration.duplicates == "keep_latest" and not declaration.source.updated_at:
        raise DeclarationError(
            "`keep_latest` needs to know which row is the latest",
            where=f"{path}: duplicates",
            next="Name the column in source.updated_at",
        )


def _check_listable(column: Column, where: str) -> None:
    """The text of a value has to be the same here and in the source."""
    if column.base_type not in LISTABLE and column.category != "e":
        raise DeclarationError(
            f"the values of {column.name} cannot be listed",
            where=where,
            why=f"its type is {column.type}, and one value may be written in several ways",
            next="Cut by a column of text or whole numbers, by ranges (`every`), or read the table through a view",
        )


def listed_values(plan: "EntityPlan") -> dict[str, tuple[str, ...]]:
    """Column → the values that its declaration lists as partitions; files are told apart by their names instead."""
    declared = plan.declaration
    if declared.partition is None or declared.source.kind != "table":
        return {}
    return {cut.by or "": cut.values for cut in declared.partition.cuts if isinstance(cut.values, tuple)}


def check_lengths(plan: "EntityPlan") -> None:
    """PostgreSQL cuts a name after 63 bytes, and ours begin with a few more: none may be another one's then."""
    if long := next((name for name in plan.schema.names if len(name.encode()) > MOST_BYTES), None):
        raise DeclarationError(
            f"the column {long!r} has a longer name than PostgreSQL can keep a rejected row under ({MOST_BYTES} bytes)",
            where=str(plan.entity.path),
            next="Read it under a shorter one: `fields: {short: {type: …, path: <its name>}}`, or through a view",
        )
    written = dict.fromkeys((*plan.target_key, *plan.written))
    for prefix, names in (("old_", plan.source_key), ("new_", plan.target_key), ("c_", written)):
        seen: dict[bytes, str] = {}
        for name in names:
            if (other := seen.setdefault(f"{prefix}{name}".encode()[:MOST_BYTES], name)) != name:
                raise DeclarationError(
                    f"the columns {other!r} and {name!r} differ in their last characters only",
                    where=f"{plan.entity.path}: columns",
                    why=f"Ferry calls them {prefix}…, and PostgreSQL cuts a name after {MOST_BYTES} bytes",
                    next="Name one of them otherwise, through a view or in the target",
                )


def check_possible(plan: "EntityPlan") -> None:
    """Refuse what the declaration allows and this target, or this combination, does not."""
    declaration, target, path = plan.declaration, plan.target, plan.entity.path
    if target.row_security:
        raise DeclarationError(
            f"row-level security hides rows of {target.label} from this user",
            where=f"{path}: target.table",
            why="rows that are not seen would be loaded twice, and counts would be wrong",
            next="Load as the table's owner, or as a role with BYPASSRLS",
        )
    if target.kind not in ("r", "p"):
        raise DeclarationError(
            f"{target.label} is no table that rows can be loaded into", where=f"{path}: target.table"
        )
    if target.encoding != "UTF8":
        raise DeclarationError(
            f"the target database is encoded in {target.encoding}",
            where=f"{path}: target.connection",
            why="a row with a character that it lacks could not even be kept among the rejected ones",
            next="Make the database anew with encoding UTF8",
        )
    touched = {*plan.source_key, *plan.target_key, *plan.written, *(c.source for c in plan.columns)}
    if (width := len({*plan.source_key, *plan.written})) > MOST_COLUMNS:
        raise DeclarationError(
            f"{width} columns are more than can be loaded",
            where=f"{path}: columns",
            why=f"PostgreSQL's tables end at 1600, and a load needs some of its own: {MOST_COLUMNS} are left",
            next="Drop the others here, and load them through a second entity over the same table",
        )
    for one in plan.mapped:
        if any(one.target in edge.target_columns for edge in plan.edges) or (
            one.target in plan.target_key and declaration.target.key.source != "natural"
        ):
            raise DeclarationError(
                f"{target.label}.{one.target} is filled by a reference or is a key that is made",
                where=f"{path}: mapping.{one.target}",
                next="Map another column, or remove this rule",
            )
    if marked := sorted(name for name in touched if "%" in name):
        raise DeclarationError(
            f"the column {marked[0]!r} has a percent sign in its name",
            where=f"{path}: columns",
            why="the driver would take it for the place of a value",
            next="Read the table through a view that names it otherwise, or drop the column",
        )
    for key, wanted in (("mode", "upsert"), ("on_vanished", "report")):
        found = getattr(declaration, key)
        if not plan.has_map and found not in (wanted, "insert_only"):
            raise DeclarationError(
                f"`{key}: {found}` has to know which rows of a partition are ours",
                where=f"{path}: {key}",
                why="`id_map: none` keeps no such list",
                next="Remove `id_map: none`",
            )
    if declaration.on_vanished == "delete" and not getattr(declaration.source, "shows_changes", True):
        raise DeclarationError(
            "`on_vanished: delete` has to know that a row is nowhere in the source",
            where=f"{path}: on_vanished",
            why="this source does not show whether its windows are still as they were read",
            next="Leave it at `report`; for a REST API declare `unchanged` and a count, for NetSuite `modified`",
        )
    if plan.ahead and declaration.match:
        raise DeclarationError(
            "`match` does not go with keys that are allocated ahead",
            where=f"{path}: match",
            why=next(edge.why for edge in plan.edges if edge.strategy == AHEAD),
            next="Declare `on_missing: set_null` for a reference that may be NULL first, or leave out `match`",
        )
    if plan.ahead and not plan.has_map:
        raise DeclarationError("keys that are allocated ahead need an id map", where=f"{path}: id_map")


def check_foreign(plan: "EntityPlan", migration: Migration, targets: dict[str, Table]) -> None:
    """A foreign key to the key of a table that is loaded too has its reference: without it a row leads to anybody.

    What a rule of `mapping` makes is its author's business.
    """
    carried = {column.target: column for column in plan.columns}
    for key in plan.target.foreign_keys:
        parent = next(
            (
                name
                for name, table in targets.items()
                if table.label == key.table
                and set(key.to_columns) & set(migration[name].declaration.target.key.column)
                and migration[name].declaration.target.connection == plan.declaration.target.connection
            ),
            None,
        )
        plain = [carried[name] for name in key.columns if name in carried]
        if (
            parent
            and len(plain) == len(key.columns)
            and all(one.source in plan.source.columns for one in plain)
        ):
            columns = [one.source for one in plain]
            raise DeclarationError(
                f"{', '.join(columns)} would be carried as it is, and no reference says that it leads to {parent}",
                where=f"{plan.entity.path}: references",
                why=f"{plan.target.label} has the foreign key {key.name} to {key.table}, which {parent} fills",
                next=f"Declare `references: [{{column: {_listed(columns)}, to: {parent}}}]`; where the keys stay the"
                f" same, {parent} says so with `target.key.from: natural`",
            )


def check_unordered(plan: "EntityPlan", migration: Migration, targets: dict[str, Table]) -> tuple[str, ...]:
    """Foreign keys to unique columns of a loaded table that are not its key: no reference waits for such a parent.

    So whoever loads first would decide what is refused. They are no hindrance where they are checked at the end.

    Returns:
        Their names.
    """
    found = []
    for key in plan.target.foreign_keys:
        parent = next((name for name, table in targets.items() if table.label == key.table), None)
        if parent is None or not set(key.columns) <= set(plan.written):
            continue
        theirs = migration[parent].declaration.target
        if theirs.connection != plan.declaration.target.connection or set(key.to_columns) & set(
            theirs.key.column
        ):
            continue
        found.append(key.name)
        if plan.declaration.target.constraints != "at_end":
            raise DeclarationError(
                f"rows could come before the row of {parent} that {', '.join(key.columns)} leads to",
                where=f"{plan.entity.path}: target",
                why=f"the foreign key {key.name} of {plan.target.label} leads to {', '.join(key.to_columns)} of"
                f" {key.table}, and references wait only for a key ({', '.join(theirs.key.column)})",
                next="Add `constraints: at_end`: the foreign key is set aside and comes back, checked, when all is"
                " settled",
            )
    return tuple(found)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"


def check_comparable(plan: "EntityPlan", position: int, parent: Table) -> None:
    """A reference and the key that it holds have to be of one kind, or no row would ever find its parent."""
    edge = plan.edges[position]
    for name, key in zip(edge.source_columns, edge.parent_key, strict=True):
        mine, theirs = plan.parsed[name], column_of(parent, key, f"{edge.parent}: source.key")
        kinds = {comparable(arrow_field(one).type) for one in (mine, theirs)}
        if len(kinds) > 1:
            raise DeclarationError(
                f"{name} ({mine.type}) can never be equal to {edge.parent}.{key} ({theirs.type})",
                where=f"{plan.entity.path}: references[{position}].column",
                next="Read one of the tables through a view in which both are of one type",
            )


def check_stub(entity: Entity, parent: Entity, edge: EdgePlan, target: Table) -> None:
    """A made-up parent needs a key that can be made of the old one, and a value wherever NULL is not allowed."""
    where = f"{entity.path}: references to {edge.parent}"
    declaration = parent.declaration
    key = declaration.target.key
    for name in edge.reference.stub:
        column_of(target, name, f"{where}: stub")
    natural = {declaration.target_column(name) for name in declaration.source.key}
    if key.source == "uuid5" or (key.source == "natural" and not set(key.column) <= natural):
        raise DeclarationError(
            f"the key of a row made up for {edge.parent} cannot be made of the old key alone",
            where=f"{where}.on_missing",
            why=f"its key is {', '.join(key.column)}, `from: {key.source}`",
            next="Use reject or set_null",
        )
    for name, column in target.columns.items():
        by_itself = column.has_default or column.sequence or column.generated or not column.not_null
        if name not in key.column and name not in edge.reference.stub and not by_itself:
            raise DeclarationError(
                f"a row made up for {edge.parent} has no value for {target.label}.{name}",
                where=f"{where}: stub",
                why="it is NOT NULL and has no default",
                next=f"Add it: stub: {{{name}: …}}",
            )


def check_filled(entity: Entity, target: Table, plan: "EntityPlan") -> None:
    """Something fills each column of the target that may not be NULL and has no default."""
    made = plan.target_key if plan.declaration.target.key.source != "natural" else ()
    for name, column in target.columns.items():
        by_itself = column.has_default or column.sequence or column.generated or not column.not_null
        if name not in plan.written and name not in made and not by_itself:
            raise DeclarationError(
                f"nothing fills {target.label}.{name}",
                where=f"{entity.path}: columns",
                why="it is NOT NULL and has no default",
                next=f"Map a source column to it, or give it a default. {nearest(name, plan.source.columns, 'Source')}",
            )


def check_key(entity: Entity, target: Table, plan: "EntityPlan") -> None:
    """The new key can be made as declared, and the target keeps it unique."""
    key = plan.declaration.target.key
    where = f"{entity.path}: target.key"
    if key.source == "natural":
        missing = [name for name in key.column if name not in plan.written]
        if missing:
            raise DeclarationError(f"nothing fills the key column {missing[0]!r}", where=where)
    elif (key.source == "expression") != bool(key.expression):
        raise DeclarationError(
            "`from: expression` and `expression` belong together", where=where, next="Give both, or neither"
        )
    elif len(key.column) != 1:
        raise DeclarationError(
            f"`from: {key.source}` makes one column, {len(key.column)} are named", where=where
        )
    elif key.source == "identity" and not target.columns[key.column[0]].sequence:
        raise DeclarationError(
            f"{target.label}.{key.column[0]} has no sequence of its own",
            where=f"{where}.from",
            next="Make it an identity or serial column, or use `from: uuid7` or `from: natural`",
        )
    if key.source in ("uuid5", "uuid7") and target.columns[key.column[0]].base_type != "uuid":
        raise DeclarationError(
            f"`from: {key.source}` makes UUIDs, and {key.column[0]} is {target.columns[key.column[0]].type}",
            where=f"{where}.from",
        )
    if key.namespace and key.source != "uuid5":
        raise DeclarationError("`namespace` is for `from: uuid5`", where=f"{where}.namespace")
    if not plan.has_map and key.source != "natural":
        raise DeclarationError(
            "`id_map: none` needs a natural key",
            where=f"{entity.path}: id_map",
            next="Set target.key.from: natural",
        )
    if not target.is_unique(key.column):
        raise DeclarationError(
            f"{', '.join(key.column)} is no unique key of {target.label}",
            where=f"{where}.column",
            next="Give the table a primary key or unique constraint on it, so that no row can be there twice",
        )


def not_null_targets(plan: "EntityPlan") -> list[tuple[str, Column]]:
    """Source columns whose target column refuses NULL, with that column."""
    pairs = [(column.source, plan.target.columns[column.target]) for column in plan.columns]
    for edge in plan.edges:
        if len(edge.source_columns) == len(edge.target_columns):
            pairs += [
                (source, plan.target.columns[target])
                for source, target in zip(edge.source_columns, edge.target_columns, strict=True)
            ]
    return [(source, column) for source, column in pairs if column.not_null]

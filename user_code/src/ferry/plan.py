"""The plan: what will be done, in which order and why, decided before anything is written.

Declarations are held against both catalogues here. Whatever does not fit (a column that goes nowhere, a target
column that nothing fills, a type that cannot be carried exactly, a cycle that no strategy resolves) is refused
with the place and the way out.
"""

import difflib
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from ferry.catalogue import Column, Table, arrow_field, column_of, connect, describe
from ferry.columns import ColumnPlan, plan_columns
from ferry.contract import compile_contract
from ferry.declaration import Entity, EntityDeclaration, Migration, Reference, fingerprint, nearest
from ferry.errors import DeclarationError
from ferry.extract import describe_sources
from ferry.mapping import MappedColumn, plan_mapping
from ferry.parse import check_rules, column_as
from ferry.partition import Scheme, scheme_of
from ferry.settings import Settings
from ferry.sources.shape import UNFIT
from ferry.targets.types import comparable

WAIT = "wait"
NULL_THEN_UPDATE = "null first, then update"
AHEAD = "keys ahead"


@dataclass(frozen=True)
class EdgePlan:
    """One reference: the source columns, the target columns that take the parent's new key, and the strategy."""

    reference: Reference
    parent: str
    source_columns: tuple[str, ...]
    target_columns: tuple[str, ...]
    parent_key: tuple[str, ...]
    parent_new_key: tuple[str, ...]
    strategy: str
    why: str

    @property
    def waits(self) -> bool:
        """Whether a row whose parent has no key yet waits for it."""
        return self.strategy in (WAIT, AHEAD)

    @property
    def links_later(self) -> bool:
        """Whether the reference may be written as NULL and be filled in when the parent comes."""
        return self.strategy == NULL_THEN_UPDATE or self.reference.on_missing == "set_null"


@dataclass(frozen=True)
class EntityPlan:
    """Everything the stages need to know of one entity."""

    name: str
    entity: Entity
    scheme: Scheme
    source: Table
    target: Table
    schema: pa.Schema
    """The columns as they are staged."""
    parsed: dict[str, Column]
    """The same in PostgreSQL's words, once `parse` has read its text: what the contract and `mapping` see."""
    mapped: tuple[MappedColumn, ...]
    columns: tuple[ColumnPlan, ...]
    edges: tuple[EdgePlan, ...]
    plan_hash: str
    # The entities that get their keys together with this one, in the order in which they are inserted.
    ahead: tuple[str, ...] = ()

    @cached_property
    def sent(self) -> pa.Schema:
        """The columns of the rows that are loaded: as staged, unless `parse` reads them, and those that are made."""
        rules = self.declaration.parse
        read = [arrow_field(self.parsed[f.name]) if f.name in rules else f for f in self.schema]
        return pa.schema([*read, *(one.field for one in self.mapped)])

    @property
    def changes(self) -> bool:
        """Whether rows are loaded otherwise than they are staged."""
        return bool(self.declaration.parse or self.mapped)

    @property
    def declaration(self) -> EntityDeclaration:
        """The attributes of its `defs.yaml`."""
        return self.entity.declaration

    @property
    def source_key(self) -> tuple[str, ...]:
        """The columns of the old key."""
        return self.declaration.source.key

    @property
    def target_key(self) -> tuple[str, ...]:
        """The columns of the new key."""
        return self.declaration.target.key.column

    @property
    def personal(self) -> frozenset[str]:
        """The source columns whose values belong to a person and are shown nowhere."""
        fields = compile_contract(self.entity.contract).fields
        return frozenset(name for field in fields if field.personal for name in field.names)

    @property
    def has_map(self) -> bool:
        """Whether old → new pairs are kept for it."""
        return self.declaration.id_map != "none"

    @property
    def later(self) -> tuple[EdgePlan, ...]:
        """The references that may be NULL for a while; they are kept beside the new key."""
        return tuple(edge for edge in self.edges if edge.links_later)

    @property
    def written(self) -> tuple[str, ...]:
        """The target columns that a load writes, the key aside when the target makes it."""
        named = [column.target for column in self.columns]
        named += [name for edge in self.edges for name in edge.target_columns if name not in named]
        return tuple(named)


@dataclass(frozen=True)
class MigrationPlan:
    """The entities in the order in which a run takes them: parents before children where there is no cycle."""

    migration: Migration
    order: tuple[str, ...]
    entities: dict[str, EntityPlan]

    def __getitem__(self, name: str) -> EntityPlan:
        """The plan of one entity."""
        return self.entities[self.migration[name].name]


def plan_migration(migration: Migration, settings: Settings, only: tuple[str, ...] = ()) -> MigrationPlan:
    """Hold all declarations against both catalogues; nothing is written.

    Args:
        migration: the declarations.
        settings: the URLs of the connections.
        only: plan these entities and whatever they refer to; all if empty.

    Raises:
        DeclarationError: the first thing that does not fit, with the way out.
    """
    components = strongly_connected({n: _edges(migration, n) for n in migration.entities})
    wanted = set(migration.entities) if not only else _with_ancestors(migration, only)
    tables = _describe_all(migration, settings, wanted)
    entities: dict[str, EntityPlan] = {}
    for component in components:
        if set(component) <= wanted:
            for circle in _circles(migration, component, tables):
                for name in circle:
                    entities[name] = _plan_entity(migration, name, circle, tables)
    return MigrationPlan(migration, tuple(entities), entities)


def strongly_connected(edges: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Tarjan's algorithm, without recursion: components in dependency order (parents first).

    Args:
        edges: node → the nodes it depends on.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []
    for root in sorted(edges):
        work = [(root, iter(edges[root]))] if root not in index else []
        while work:
            node, rest = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
            child = next((c for c in rest if c not in index or c in stack), None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    cut = stack.index(node)
                    found.append(tuple(sorted(stack[cut:])))
                    del stack[cut:]
            elif child not in index:
                work.append((child, iter(edges[child])))
            else:
                low[node] = min(low[node], index[child])
    return found


def waits_for(plan: EntityPlan) -> tuple[str, ...]:
    """The entities whose keys rows of this one wait for, itself included; parents that are null first are not."""
    return tuple(dict.fromkeys(edge.parent for edge in plan.edges if edge.waits))


def _circles(
    migration: Migration, component: tuple[str, ...], tables: dict[str, tuple[Table, Table]]
) -> list[tuple[str, ...]]:
    """Open a cycle at the references that may be NULL first; what is still circular stays together.

    Returns:
        The entities in the order in which they are loaded, those together whose keys are allocated ahead.
    """
    left = {}
    for name in component:
        declaration, target = migration[name].declaration, tables[name][1]
        left[name] = tuple(
            reference.to
            for reference in declaration.references
            if reference.to in component and not _null_first(declaration, reference, target)
        )
    return [
        _insertable(migration, circle, tables) if len(circle) > 1 else circle
        for circle in strongly_connected(left)
    ]


def _null_first(declaration: EntityDeclaration, reference: Reference, target: Table) -> bool:
    """Whether a circular reference may stand as NULL until its parent comes: allowed to, and nullable."""
    into = _into(declaration, reference)
    nullable = not any(name in target.columns and target.columns[name].not_null for name in into)
    return (
        nullable and reference.on_missing == "set_null" and not set(into) & set(declaration.target.key.column)
    )


def _into(declaration: EntityDeclaration, reference: Reference) -> tuple[str, ...]:
    return reference.into or tuple(declaration.target_column(name) for name in reference.column)


def _insertable(
    migration: Migration, circle: tuple[str, ...], tables: dict[str, tuple[Table, Table]]
) -> tuple[str, ...]:
    """The order in which entities that need each other's keys are inserted in one transaction.

    Raises:
        DeclarationError: a foreign key that is checked at once stands in the way of every order.
    """
    first: dict[str, tuple[str, ...]] = {}
    at_once: dict[tuple[str, str], str] = {}
    for name in circle:
        declaration, target = migration[name].declaration, tables[name][1]
        for reference in declaration.references:
            for key in target.foreign_keys:
                into = _into(declaration, reference)
                if declaration.target.constraints == "at_end":
                    continue
                if reference.to in circle and set(key.columns) == set(into) and not key.deferrable:
                    at_once[name, reference.to] = (
                        f"alter table {target.label} alter constraint {key.name} deferrable"
                    )
        first[name] = tuple(to for child, to in at_once if child == name and to != name)
    order = strongly_connected(first)
    stuck = next((part for part in order if len(part) > 1), None)
    if stuck:
        (child, parent), statement = next(
            (pair, text) for pair, text in at_once.items() if set(pair) <= set(stuck) and pair[0] != pair[1]
        )
        raise DeclarationError(
            f"{' and '.join(stuck)} need each other's key, and neither can be inserted first",
            where=f"{migration[child].path}: references",
            why=f"the foreign key from {child} to {parent} is checked at once",
            next=f"{statement}; or make the column nullable and declare `on_missing: set_null`",
        )
    return tuple(name for part in order for name in part)


def _edges(migration: Migration, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ref.to for ref in migration[name].declaration.references))


def _with_ancestors(migration: Migration, names: tuple[str, ...]) -> set[str]:
    wanted: set[str] = set()
    todo = [migration[name].name for name in names]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += migration.parents(name)
    return wanted


def _describe_all(
    migration: Migration, settings: Settings, names: set[str]
) -> dict[str, tuple[Table, Table]]:
    together: dict[str, list[str]] = {}
    for name in sorted(names):
        entity = migration[name]
        settings.url(entity.declaration.source.connection, f"{entity.path}: source.connection")
        settings.url(entity.declaration.target.connection, f"{entity.path}: target.connection")
        together.setdefault(entity.declaration.target.connection, []).append(name)
    sources, targets = describe_sources(migration, names, settings), {}
    for connection, entities in sorted(together.items()):
        with connect(settings.url(connection), connection) as opened:
            for name in entities:
                place = f"{migration[name].path}: target.table"
                targets[name] = describe(opened, migration[name].declaration.target.table, place)
    return {name: (sources[name], targets[name]) for name in names}


def _plan_entity(
    migration: Migration, name: str, circle: tuple[str, ...], tables: dict[str, tuple[Table, Table]]
) -> EntityPlan:
    entity = migration[name]
    declaration = entity.declaration
    source, target = tables[name]
    _check_names(entity, source, target)
    schema = pa.schema([arrow_field(column) for column in source.columns.values()])
    where = str(entity.path)
    check_rules(declaration.parse, source.columns, source.label, declaration.source.key, where)
    parsed = {
        name: column_as(name, declaration.parse[name].type, f"{where}: parse.{name}", column)
        if name in declaration.parse
        else column
        for name, column in source.columns.items()
    }
    named = {name: column for name, column in parsed.items() if name != UNFIT}
    mapped = plan_mapping(declaration.mapping, named, target, entity.path)
    edges = tuple(
        _plan_edge(migration, entity, position, circle, target)
        for position in range(len(declaration.references))
    )
    columns = plan_columns(
        entity,
        parsed,
        mapped,
        target,
        referring={column for edge in edges for column in edge.source_columns},
        taken={column for edge in edges for column in edge.target_columns},
    )
    compiled = compile_contract(entity.contract)
    plan = EntityPlan(
        name,
        entity,
        scheme_of(migration, name),
        source,
        target,
        schema,
        parsed,
        mapped,
        columns,
        edges,
        fingerprint(
            {
                "declaration": declaration.model_dump(
                    mode="json",
                    by_alias=True,
                    include={
                        "source",
                        "partition",
                        "parse",
                        "target",
                        "columns",
                        "drop",
                        "references",
                        "match",
                        "duplicates",
                        "mode",
                        "id_map",
                        "on_vanished",
                    },
                ),
                "contract": compiled.fingerprint(),
                "mapping": {one.target: (one.code, one.column.type) for one in mapped},
                "source": {column.name: column.type for column in source.columns.values()},
                "types": {c.target: (c.cast, target.columns[c.target].type) for c in columns},
            }
        ),
        circle if any(edge.strategy == AHEAD for edge in edges) else (),
    )
    _check_possible(plan)
    for position, edge in enumerate(edges):
        _check_comparable(plan, position, tables[edge.parent][0])
        if edge.reference.on_missing == "stub":
            _check_stub(entity, migration[edge.parent], edge, tables[edge.parent][1])
    _check_filled(entity, target, plan)
    _check_key(entity, target, plan)
    unknown = _unknown_columns(entity, source)
    if unknown:
        raise DeclarationError(
            f"the contract {declaration.contract} names a column {unknown[0]!r} that {source.label} does not have",
            where=str(entity.path.parent / "contract.py"),
            next=nearest(unknown[0], source.columns, "Its columns are"),
        )
    return plan


def _unknown_columns(entity: Entity, source: Table) -> list[str]:
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


def _check_names(entity: Entity, source: Table, target: Table) -> None:
    declaration = entity.declaration
    path = entity.path
    for column in declaration.source.key:
        column_of(source, column, f"{path}: source.key")
    if declaration.source.updated_at:
        column_of(source, declaration.source.updated_at, f"{path}: source.updated_at")
    if declaration.partition and declaration.partition.by:
        column_of(source, declaration.partition.by, f"{path}: partition.by")
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


def _plan_edge(
    migration: Migration, entity: Entity, position: int, circle: tuple[str, ...], target: Table
) -> EdgePlan:
    reference = entity.declaration.references[position]
    parent = migration[reference.to].declaration
    where = f"{entity.path}: references[{position}]"
    into = _into(entity.declaration, reference)
    columns = [column_of(target, name, where) for name in into]
    new_key = parent.target.key.column
    if len(into) != len(new_key):
        raise DeclarationError(
            f"the new key of {reference.to} has {len(new_key)} column(s), and {len(into)} take it",
            where=where,
            next=f"Name the columns of {target.label} that take {', '.join(new_key)} in `into`",
        )
    if parent.target.connection != entity.declaration.target.connection:
        raise DeclarationError(
            f"{reference.to} is loaded into another connection ({parent.target.connection})",
            where=where,
            next="A reference can be resolved within one target database only",
        )
    nullable = not any(column.not_null for column in columns)
    back = reference.to in circular_parents(migration, entity.name)
    if back and _null_first(entity.declaration, reference, target):
        strategy = NULL_THEN_UPDATE
        why = f"the way to {reference.to} leads back here, and {', '.join(into)} may be NULL for a while"
    elif reference.to not in circle:
        strategy, why = WAIT, f"{reference.to} comes first; a row whose parent has no key yet waits"
    elif set(into) & set(entity.declaration.target.key.column):
        raise DeclarationError(
            f"the key of {entity.name} needs the key of {reference.to}, and the other way round",
            where=where,
            why=f"{', '.join(into)} is part of the key of {target.label}",
            next="Give the target a key of its own, or leave this reference to a later step",
        )
    else:
        strategy = AHEAD
        why = f"the way to {reference.to} leads back here: rows that need each other get their keys first"
    if reference.stub and reference.on_missing != "stub":
        raise DeclarationError(
            "`stub` gives values, and nobody asks for them", where=where, next="Add `on_missing: stub`"
        )
    if reference.on_missing == "stub" and strategy == AHEAD:
        raise DeclarationError(
            "`stub` does not go with keys that are allocated ahead",
            where=f"{where}.on_missing",
            why=why,
            next="Use reject, or set_null if the column may be NULL",
        )
    if reference.on_missing == "set_null" and not nullable:
        raise DeclarationError(
            f"`set_null` cannot be done: {', '.join(into)} may not be NULL",
            where=f"{where}.on_missing",
            next="Use reject or stub",
        )
    return EdgePlan(
        reference, reference.to, reference.column, into, parent.source.key, new_key, strategy, why
    )


def _check_possible(plan: EntityPlan) -> None:
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
    if plan.ahead and declaration.match:
        raise DeclarationError(
            "`match` does not go with keys that are allocated ahead",
            where=f"{path}: match",
            why=next(edge.why for edge in plan.edges if edge.strategy == AHEAD),
            next="Declare `on_missing: set_null` for a reference that may be NULL first, or leave out `match`",
        )
    if plan.ahead and not plan.has_map:
        raise DeclarationError("keys that are allocated ahead need an id map", where=f"{path}: id_map")


def _check_comparable(plan: EntityPlan, position: int, parent: Table) -> None:
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


def _check_stub(entity: Entity, parent: Entity, edge: EdgePlan, target: Table) -> None:
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


def _check_filled(entity: Entity, target: Table, plan: EntityPlan) -> None:
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


def _check_key(entity: Entity, target: Table, plan: EntityPlan) -> None:
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


def not_null_targets(plan: EntityPlan) -> list[tuple[str, Column]]:
    """Source columns whose target column refuses NULL, with that column."""
    pairs = [(column.source, plan.target.columns[column.target]) for column in plan.columns]
    for edge in plan.edges:
        if len(edge.source_columns) == len(edge.target_columns):
            pairs += [
                (source, plan.target.columns[target])
                for source, target in zip(edge.source_columns, edge.target_columns, strict=True)
            ]
    return [(source, column) for source, column in pairs if column.not_null]


def circular_parents(migration: Migration, name: str) -> frozenset[str]:
    """The parents of an entity from which a way leads back to it, itself included."""
    components = strongly_connected({n: _edges(migration, n) for n in migration.entities})
    return frozenset(next(component for component in components if name in component)) & frozenset(
        _edges(migration, name)
    )

"""The plan: what will be done, in which order and why, decided before anything is written.

Declarations are held against both catalogues here. Whatever does not fit (a column that goes nowhere, a target
column that nothing fills, a type that cannot be carried exactly, a cycle that no strategy resolves) is refused
with the place and the way out.
"""

from dataclasses import dataclass

import pyarrow as pa

from ferry.catalogue import Column, Table, column_of, connect, describe
from ferry.contract import compile_contract
from ferry.declaration import Entity, EntityDeclaration, Migration, Reference, fingerprint, nearest
from ferry.errors import DeclarationError
from ferry.partition import Scheme, scheme_of
from ferry.settings import Settings
from ferry.sources.postgres import arrow_field
from ferry.targets.types import carry

WAIT = "wait"
NULL_THEN_UPDATE = "null first, then update"


@dataclass(frozen=True)
class ColumnPlan:
    """One source column, the target column it goes to, and the exact cast between them ('' for none)."""

    source: str
    target: str
    cast: str


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


@dataclass(frozen=True)
class EntityPlan:
    """Everything the stages need to know of one entity."""

    name: str
    entity: Entity
    scheme: Scheme
    source: Table
    target: Table
    schema: pa.Schema
    columns: tuple[ColumnPlan, ...]
    edges: tuple[EdgePlan, ...]
    plan_hash: str

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
    def has_map(self) -> bool:
        """Whether old → new pairs are kept for it."""
        return self.declaration.id_map != "none"

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
    order = tuple(name for component in components for name in component)
    wanted = set(order) if not only else _with_ancestors(migration, only)
    tables = _describe_all(migration, settings, wanted)
    entities = {}
    for component in components:
        for name in component:
            if name in wanted:
                entities[name] = _plan_entity(migration, name, frozenset(component), tables)
    return MigrationPlan(migration, tuple(n for n in order if n in wanted), entities)


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
    """The entities whose keys rows of this one wait for: its parents without those that are null first."""
    return tuple(dict.fromkeys(e.parent for e in plan.edges if e.strategy == WAIT and e.parent != plan.name))


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
    tables: dict[str, tuple[Table, Table]] = {}
    sides: dict[tuple[str, str], Table] = {}
    for name in sorted(names):
        entity = migration[name]
        for side in ("source", "target"):
            settings.url(getattr(entity.declaration, side).connection, f"{entity.path}: {side}.connection")
    for connection in sorted(
        {
            c
            for n in names
            for d in [migration[n].declaration]
            for c in (d.source.connection, d.target.connection)
        }
    ):
        with connect(settings.url(connection), connection) as opened:
            for name in sorted(names):
                entity = migration[name]
                for side in ("source", "target"):
                    part = getattr(entity.declaration, side)
                    if part.connection == connection:
                        sides[name, side] = describe(opened, part.table, f"{entity.path}: {side}.table")
    for name in names:
        tables[name] = (sides[name, "source"], sides[name, "target"])
    return tables


def _plan_entity(
    migration: Migration, name: str, component: frozenset[str], tables: dict[str, tuple[Table, Table]]
) -> EntityPlan:
    entity = migration[name]
    declaration = entity.declaration
    source, target = tables[name]
    _check_names(entity, source, target)
    schema = pa.schema([arrow_field(column) for column in source.columns.values()])
    edges = tuple(
        _plan_edge(migration, entity, position, component, target)
        for position in range(len(declaration.references))
    )
    referring = {column for edge in edges for column in edge.source_columns}
    columns = tuple(_carried(entity, source, target, referring))
    compiled = compile_contract(entity.contract)
    plan = EntityPlan(
        name,
        entity,
        scheme_of(migration, name),
        source,
        target,
        schema,
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
                        "target",
                        "columns",
                        "drop",
                        "references",
                        "match",
                        "duplicates",
                        "mode",
                        "id_map",
                    },
                ),
                "contract": compiled.fingerprint(),
                "types": {c.target: (c.cast, target.columns[c.target].type) for c in columns},
            }
        ),
    )
    _check_filled(entity, target, plan)
    _check_key(entity, target, plan)
    unknown = [c for c in _contract_columns(entity) if c not in source.columns]
    if unknown:
        raise DeclarationError(
            f"the contract {declaration.contract} names a column {unknown[0]!r} that {source.label} does not have",
            where=str(entity.path.parent / "contract.py"),
            next=nearest(unknown[0], source.columns, "Its columns are"),
        )
    return plan


def _contract_columns(entity: Entity) -> list[str]:
    return [
        str(field.validation_alias or field.alias or name)
        for name, field in entity.contract.model_fields.items()
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
    migration: Migration, entity: Entity, position: int, component: frozenset[str], target: Table
) -> EdgePlan:
    reference = entity.declaration.references[position]
    parent = migration[reference.to].declaration
    where = f"{entity.path}: references[{position}]"
    into = reference.into or tuple(entity.declaration.target_column(c) for c in reference.column)
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
    circular = reference.to in component
    nullable = not any(column.not_null for column in columns)
    if not circular:
        strategy, why = WAIT, f"{reference.to} comes first; a row whose parent has no key yet waits"
    elif nullable and not set(into) & set(entity.declaration.target.key.column):
        strategy = NULL_THEN_UPDATE
        why = f"the way to {reference.to} leads back here, and {', '.join(into)} may be NULL for a while"
    else:
        required = next(column.name for column in columns if column.not_null)
        raise DeclarationError(
            f"{entity.name} and {reference.to} need each other's key, and {required} may not be NULL",
            where=where,
            why=f"{target.label}.{required} is NOT NULL",
            next=f"Make {required} nullable for the migration, or leave this reference to a later step",
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


def _carried(entity: Entity, source: Table, target: Table, referring: set[str]) -> list[ColumnPlan]:
    declaration = entity.declaration
    made = declaration.target.key.source not in ("natural", "expression")
    carried: list[ColumnPlan] = []
    for name, column in source.columns.items():
        if name in declaration.drop or (name in referring):
            continue
        if made and name in declaration.source.key and name not in declaration.columns:
            continue
        into = declaration.target_column(name)
        if into not in target.columns:
            raise DeclarationError(
                f"the source column {name!r} goes nowhere: {target.label} has no column {into!r}",
                where=f"{entity.path}: columns",
                next=f"Map it under `columns` or list it under `drop`. {nearest(into, target.columns, 'Columns')}",
            )
        if target.columns[into].generated:
            raise DeclarationError(
                f"{target.label}.{into} is computed by the database and cannot be written",
                where=f"{entity.path}: columns.{name}",
                next=f"List {name!r} under `drop`, or map it to another column",
            )
        cast = carry(column, target.columns[into])
        if cast is None:
            raise DeclarationError(
                f"{name} ({column.type}) cannot be carried exactly into {into} ({target.columns[into].type})",
                where=f"{entity.path}: columns.{name}",
                why="it could be rounded, cut or read in two ways, and nothing is changed unasked",
                next="Give the target a type that holds every value of the source",
            )
        if into in [c.target for c in carried]:
            raise DeclarationError(
                f"two source columns go to {into!r}", where=f"{entity.path}: columns", next="Drop one of them"
            )
        carried.append(ColumnPlan(name, into, cast))
    return carried


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

"""The plan: what will be done, in which order and why, decided before anything is written.

Declarations are held against both catalogues here. Whatever does not fit (a column that goes nowhere, a target
column that nothing fills, a type that cannot be carried exactly, a cycle that no strategy resolves) is refused
with the place and the way out: by `ferry.fits`, `ferry.columns` and `ferry.edges`.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from ferry.catalogue import Column, Table, arrow_field, connect, describe
from ferry.columns import ColumnPlan, plan_columns
from ferry.contract import compile_contract
from ferry.declaration import Entity, EntityDeclaration, Migration, fingerprint, nearest
from ferry.edges import (
    AHEAD,
    EdgePlan,
    circles,
    edges_of,
    plan_edge,
    strongly_connected,
    with_ancestors,
)
from ferry.errors import DeclarationError
from ferry.extract import describe_sources
from ferry.fits import (
    check_comparable,
    check_filled,
    check_foreign,
    check_key,
    check_lengths,
    check_names,
    check_possible,
    check_stub,
    check_unordered,
    unknown_columns,
)
from ferry.known_keys import with_known_keys
from ferry.mapping import MappedColumn, plan_mapping
from ferry.parse import check_rules, column_as
from ferry.partition import Scheme, scheme_of
from ferry.settings import Settings
from ferry.sources.shape import UNFIT


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
    # Foreign keys for whose parents no row waits: they have to be set aside while anything is loaded.
    unordered: tuple[str, ...] = ()

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
    def may_meet(self) -> bool:
        """Whether two partitions can bring the same row: of an API, or of files. A database is asked for all keys."""
        declared = self.declaration
        return self.has_map and declared.partition is not None and declared.source.kind != "table"

    @property
    def version(self) -> str | None:
        """The source column that tells which of two partitions has the newer version of a row, where that can be."""
        return self.declaration.source.updated_at if self.may_meet else None

    @property
    def later(self) -> tuple[EdgePlan, ...]:
        """The references that may be NULL for a while; they are kept beside the new key."""
        return tuple(edge for edge in self.edges if edge.links_later)

    @property
    def written(self) -> tuple[str, ...]:
        """The target columns that a load writes, the key aside when the target makes it."""
        named = [column.target for column in self.columns]
        named += [name for edge in self.edges for name in edge.target_columns]
        return tuple(dict.fromkeys(named))


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
    components = strongly_connected({n: edges_of(migration, n) for n in migration.entities})
    wanted = set(migration.entities) if not only else with_ancestors(migration, only)
    migration = with_known_keys(migration, settings, sorted(wanted))
    tables = _describe_all(migration, settings, wanted)
    entities: dict[str, EntityPlan] = {}
    for component in components:
        if set(component) <= wanted:
            for circle in circles(migration, component, tables):
                for name in circle:
                    entities[name] = _plan_entity(migration, name, circle, tables)
    return MigrationPlan(migration, tuple(entities), entities)


def waits_for(plan: EntityPlan) -> tuple[str, ...]:
    """The entities whose keys rows of this one wait for, itself included; parents that are null first are not."""
    return tuple(dict.fromkeys(edge.parent for edge in plan.edges if edge.waits))


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
    check_names(entity, source, target)
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
        plan_edge(migration, entity, position, circle, target)
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
    check_lengths(plan)
    check_possible(plan)
    for position, edge in enumerate(edges):
        check_comparable(plan, position, tables[edge.parent][0])
        if edge.reference.on_missing == "stub":
            check_stub(entity, migration[edge.parent], edge, tables[edge.parent][1])
    targets = {one: pair[1] for one, pair in tables.items()}
    check_foreign(plan, migration, targets)
    plan = replace(plan, unordered=check_unordered(plan, migration, targets))
    check_filled(entity, target, plan)
    check_key(entity, target, plan)
    unknown = unknown_columns(entity, source)
    if unknown:
        raise DeclarationError(
            f"the contract {declaration.contract} names a column {unknown[0]!r} that {source.label} does not have",
            where=str(entity.path.parent / "contract.py"),
            next=nearest(unknown[0], source.columns, "Its columns are"),
        )
    return plan

"""References: which entity comes first, which need each other, and how each reference gets its parent's new key.

Found before anything is written: strongly connected components, the references at which a cycle can be opened, and a
strategy for each edge; or the plan refuses and says which constraint is in the way and what would resolve it.
"""

from dataclasses import dataclass

from ferry.catalogue import Table, column_of
from ferry.declaration import Entity, EntityDeclaration, Migration, Reference
from ferry.errors import DeclarationError

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
    # Of each target column the source column that says the same, where the parent keeps this part of its old key.
    kept: tuple[str, ...] = ()
    # The target columns that are NULL without this parent; the others have their value from elsewhere.
    own: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether a row whose parent has no key yet waits for it."""
        return self.strategy in (WAIT, AHEAD)

    @property
    def links_later(self) -> bool:
        """Whether the reference may be written as NULL and be filled in when the parent comes."""
        return self.strategy == NULL_THEN_UPDATE or self.reference.on_missing == "set_null"


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


def circles(
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
            if reference.to in component and not _null_first(migration, name, reference, target)
        )
    return [
        _insertable(migration, circle, tables) if len(circle) > 1 else circle
        for circle in strongly_connected(left)
    ]


def _null_first(migration: Migration, name: str, reference: Reference, target: Table) -> bool:
    """Whether a circular reference may stand as NULL until its parent comes: allowed to, and nullable."""
    own = _own(migration, name, reference, target)
    key = migration[name].declaration.target.key.column
    nullable = not any(column in target.columns and target.columns[column].not_null for column in own)
    return bool(own) and nullable and reference.on_missing == "set_null" and not set(own) & set(key)


def _into(declaration: EntityDeclaration, reference: Reference) -> tuple[str, ...]:
    return reference.into or tuple(declaration.target_column(name) for name in reference.column)


def _kept(migration: Migration, reference: Reference) -> tuple[str, ...]:
    """Of each column of the parent's new key the child's column with the same value, '' where the key is made anew."""
    parent = migration[reference.to].declaration
    found = []
    for column in parent.target.key.column:
        part = _old_part(migration, reference.to, column, frozenset())
        at = parent.source.key.index(part) if part else -1
        found.append(reference.column[at] if 0 <= at < len(reference.column) else "")
    return tuple(found)


def _old_part(migration: Migration, name: str, column: str, asked: frozenset[tuple[str, str]]) -> str:
    """The part of an entity's old key that a column of its new key holds as it is; '' if there is none.

    A column that references fill is one if their parents keep it as well; a circle of them keeps it.
    """
    declaration = migration[name].declaration
    part = next((one for one in declaration.source.key if declaration.target_column(one) == column), "")
    if declaration.target.key.source != "natural" or column in declaration.mapping or not part:
        return ""
    for reference in declaration.references:
        parent, into = migration[reference.to].declaration, _into(declaration, reference)
        if column in into and (name, column) not in asked:
            theirs = (
                parent.target.key.column[into.index(column)]
                if len(into) == len(parent.target.key.column)
                else ""
            )
            old = _old_part(migration, reference.to, theirs, asked | {(name, column)}) if theirs else ""
            at = parent.source.key.index(old) if old else -1
            if at < 0 or reference.column[at : at + 1] != (part,):
                return ""
    return part


def _own(migration: Migration, name: str, reference: Reference, target: Table) -> tuple[str, ...]:
    """The target columns that are NULL if this reference leads nowhere.

    A column that several references fill belongs to the narrowest. One that the parent keeps is there without the
    parent: if it is part of this entity's own key, or may not be NULL, it stays.
    """
    declaration = migration[name].declaration
    narrowest = sorted(declaration.references, key=lambda one: len(one.column))
    own = []
    for column, kept in zip(_into(declaration, reference), _kept(migration, reference), strict=False):
        owner = next(one for one in narrowest if column in _into(declaration, one))
        needed = column in declaration.target.key.column or (
            column in target.columns and target.columns[column].not_null
        )
        if owner == reference and not (kept and needed):
            own.append(column)
    return tuple(own)


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


def plan_edge(
    migration: Migration, entity: Entity, position: int, circle: tuple[str, ...], target: Table
) -> EdgePlan:
    """How one reference of an entity gets its parent's new key, and why so; refused if it cannot."""
    reference = entity.declaration.references[position]
    parent = migration[reference.to].declaration
    where = f"{entity.path}: references[{position}]"
    into = _into(entity.declaration, reference)
    for name in into:
        column_of(target, name, where)
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
    kept, own = _kept(migration, reference), _own(migration, entity.name, reference, target)
    nullable = bool(own) and not any(target.columns[name].not_null for name in own)
    back = reference.to in circular_parents(migration, entity.name)
    if back and _null_first(migration, entity.name, reference, target):
        strategy = NULL_THEN_UPDATE
        why = f"the way to {reference.to} leads back here, and {', '.join(own)} may be NULL for a while"
    elif reference.to not in circle:
        strategy, why = WAIT, f"{reference.to} comes first; a row whose parent has no key yet waits"
    elif set(own) & set(entity.declaration.target.key.column):
        raise DeclarationError(
            f"the key of {entity.name} needs the key of {reference.to}, and the other way round",
            where=where,
            why=f"{', '.join(own)} is part of the key of {target.label}",
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
            f"`set_null` cannot be done: {', '.join(own or into)} may not be NULL",
            where=f"{where}.on_missing",
            next="Use reject or stub",
        )
    return EdgePlan(
        reference, reference.to, reference.column, into, parent.source.key, new_key, strategy, why, kept, own
    )


def circular_parents(migration: Migration, name: str) -> frozenset[str]:
    """The parents of an entity from which a way leads back to it, itself included."""
    components = strongly_connected({n: edges_of(migration, n) for n in migration.entities})
    return frozenset(next(component for component in components if name in component)) & frozenset(
        edges_of(migration, name)
    )


def edges_of(migration: Migration, name: str) -> tuple[str, ...]:
    """The entities that an entity refers to, itself included."""
    return tuple(dict.fromkeys(ref.to for ref in migration[name].declaration.references))


def with_ancestors(migration: Migration, names: tuple[str, ...]) -> set[str]:
    """Some entities and all that they refer to, directly or not."""
    wanted: set[str] = set()
    todo = [migration[name].name for name in names]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += migration.parents(name)
    return wanted

"""What a user declares: an entity is one folder with `defs.yaml` and `contract.py`.

The models below are the whole language. A mistake in a file becomes a `DeclarationError` that names the file, the
key, what was expected, what was found and the nearest valid name.
"""

import datetime
import difflib
import hashlib
import importlib.util
import json
import re
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ferry.contract import Contract
from ferry.errors import DeclarationError
from ferry.sources.declaration import FromFiles, FromNetSuite, FromRest, FromShopify
from ferry.sources.declared import ONE_OR_SEVERAL, Columns, as_tuple
from ferry.targets.api_declaration import ApiTarget
from ferry.value_rules import MappingRule, ParseRule

COMPONENT_TYPE = "ferry.components.Entity"
COMPONENTS = (COMPONENT_TYPE, "ferry.components.AirbyteConnection", "ferry.components.FivetranConnection")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceTable(_Strict):
    """Where rows come from. `key` may name several columns; `where` narrows the table by a SQL condition."""

    connection: str
    table: str
    key: Columns
    updated_at: str | None = None
    where: str | None = None

    @property
    def kind(self) -> str:
        """The word that tells this kind of source from the others."""
        return "table"

    @property
    def label(self) -> str:
        """What is read, for people."""
        return self.table


# A source is what its own word says: `table`, `shopify`, `netsuite`, `rest` or `files`. Without any, a table is meant.
_SOURCES: dict[str, type[BaseModel]] = {
    "[table]": SourceTable,
    "[shopify]": FromShopify,
    "[netsuite]": FromNetSuite,
    "[rest]": FromRest,
    "[files]": FromFiles,
}


def _kind_of_source(value: Any) -> str:
    if isinstance(value, dict):
        return next((tag for tag in _SOURCES if tag.strip("[]") in value), "[table]")
    return f"[{value.kind}]" if hasattr(value, "kind") else "[table]"


AnySource = Annotated[
    Annotated[SourceTable, Tag("[table]")]
    | Annotated[FromShopify, Tag("[shopify]")]
    | Annotated[FromNetSuite, Tag("[netsuite]")]
    | Annotated[FromRest, Tag("[rest]")]
    | Annotated[FromFiles, Tag("[files]")],
    Discriminator(_kind_of_source),
]


def _listed(value: Any) -> Any:
    """Whole numbers may be listed as they are; a `NO` that YAML reads as false is no value."""
    if isinstance(value, list | tuple):
        return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]
    return value


class Cut(_Strict):
    """How one column is cut: by time, by ranges of whole numbers, by listed values, or by those that it holds.

    Rows whose column is NULL, and rows before `start`, belong to the first piece; rows after `end` to the last.
    """

    by: str | None = None
    every: Literal["hour", "day", "week", "month", "year"] | int | None = None
    start: datetime.datetime | datetime.date | int | None = None
    end: datetime.datetime | datetime.date | int | None = None
    values: Annotated[tuple[str, ...] | Literal["discovered"] | None, BeforeValidator(_listed)] = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Cut":
        _check_cut(self)
        return self


def _check_cut(cut: Cut) -> None:
    """Refuse a cut that is of no kind, or of two."""
    if cut.by is None:
        raise ValueError("needs `by` (a source column) or `through` (a parent entity)")
    if cut.values is not None:
        if any(part is not None for part in (cut.every, cut.start, cut.end)):
            raise ValueError(
                "`values` lists the partitions and allows no `every`, `start` or `end` beside it"
            )
        for one in cut.values if isinstance(cut.values, tuple) else ():
            if not one or "..." in one or not one.isprintable():
                raise ValueError(
                    f"Dagster takes no partition {one!r}: empty, with `...` or a control character"
                )
        if not cut.values or (cut.values != "discovered" and len(set(cut.values)) < len(cut.values)):
            raise ValueError("`values` lists each value once, and at least one")
        return
    if cut.every is None or cut.start is None:
        raise ValueError("needs `every` and `start`, or `values`")
    if isinstance(cut.every, int) != (isinstance(cut.start, int) and not isinstance(cut.start, bool)):
        raise ValueError("`every: month` goes with a date in `start`, `every: 100000` with a number")
    if isinstance(cut.every, int) and cut.end is None:
        raise ValueError("ranges of numbers need an `end`")


class Partition(Cut):
    """How a large table is cut: by one column, by two, or as its parent is cut."""

    also: Cut | None = Field(default=None, alias="and")
    through: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Partition":
        if self.through is not None:
            if any(
                p is not None for p in (self.by, self.every, self.start, self.end, self.values, self.also)
            ):
                raise ValueError("`through` takes the parent's partitions and allows no other key beside it")
            return self
        _check_cut(self)
        if self.also and self.also.by == self.by:
            raise ValueError("`and` cuts by another column than `by`")
        for one in (v for cut in self.cuts if isinstance(cut.values, tuple) for v in cut.values):
            if self.also and set(one) & set("|,[]"):
                raise ValueError(
                    f"Dagster takes no `|`, `,`, `[` or `]` in a key of two parts, as in {one!r}"
                )
        return self

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Its own cuts, ordered by column as Dagster orders the parts of a key; none if `through` a parent."""
        both = [] if self.by is None else [self, *([self.also] if self.also else [])]
        return tuple(sorted(both, key=lambda cut: cut.by or ""))


class TargetKey(_Strict):
    """The target's key and where its values come from.

    `identity`: the column's own sequence; `natural`: the values of the mapped columns themselves;
    `uuid7`: time-ordered, made by us; `uuid5`: made of `namespace` (by default that of the URL `ferry:<entity>`) and
    the old key as text, its parts joined by `, `: the same in every target; `expression`: SQL over the row, with the
    old key as `r.k0`.
    """

    column: Columns
    source: Literal["identity", "natural", "uuid5", "uuid7", "expression"] = Field(
        alias="from", default="identity"
    )
    expression: str | None = None
    namespace: uuid.UUID | None = None


class Target(_Strict):
    """Where rows go: a table of a connection, `schema.table` or `table`.

    `constraints: at_end` sets foreign keys and secondary indexes aside during a load and puts them back, checked,
    when the migration is settled: for a target that nobody else writes to in between. With `api` the table is a
    journal: `ferry.deliver` sends its rows on.
    """

    connection: str
    table: str
    key: TargetKey
    constraints: Literal["live", "at_end"] = "live"
    api: ApiTarget | None = None


class Reference(_Strict):
    """A source column (or several) that holds old keys of another entity.

    `into` names the target columns that take the new key; without it they are the mapped names of `column`.
    """

    column: Columns
    to: str
    into: Annotated[tuple[str, ...], BeforeValidator(as_tuple), ONE_OR_SEVERAL] = ()
    on_missing: Literal["reject", "set_null", "stub", "fail"] = "reject"
    stub: dict[str, Any] = Field(default_factory=dict)


class Match(_Strict):
    """How rows that were in the target before are recognised, by source columns, and what is done with them."""

    on: Columns
    then: Literal["preserve", "update"] = "preserve"

    @model_validator(mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return (
            {"on" if key is True else key: one for key, one in value.items()}
            if isinstance(value, dict)
            else value
        )


class Resources(_Strict):
    """What a run of this entity may use."""

    memory: str = "1Gi"

    @field_validator("memory")
    @classmethod
    def _as_the_launcher_reads_it(cls, value: str) -> str:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:([kmgt])|([KMGT])i)?", value)
        if not found:
            raise ValueError(
                "needs a size such as `512Mi`, `1.5Gi` or `2g` (`1G` is 2**30 to some, 10**9 to others)"
            )
        powers = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
        if float(found[1]) * 1024 ** powers[(found[2] or found[3] or "").lower()] < 128 * 1024**2:
            raise ValueError("needs at least `128Mi`: Python with Dagster would not start")
        return value


class EntityDeclaration(_Strict):
    """One entity: the attributes of a `defs.yaml`."""

    name: str = Field(default="", pattern=r"^[a-z][a-z0-9_]{0,40}$|^$")
    description: str = ""
    source: AnySource
    partition: Partition | None = None
    contract: str
    target: Target
    id_map: Literal["internal", "published", "none"] = "internal"
    parse: dict[str, ParseRule] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    mapping: dict[str, MappingRule] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    match: Match | None = None
    duplicates: Literal["reject", "keep_latest"] = "reject"
    on_vanished: Literal["report", "delete"] = "report"
    mode: Literal["upsert", "insert_only", "replace_partition"] = "upsert"
    batch: int | None = Field(
        default=None, ge=1, description="partitions of one run in a backfill; all if unset"
    )
    automation: Literal["none", "on_source_change", "eager"] = "none"
    resources: Resources = Resources()
    owners: tuple[str, ...] = ()
    group: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def from_table(self) -> SourceTable:
        """`source` of an entity that reads a table of a database."""
        assert isinstance(self.source, SourceTable)
        return self.source

    def target_column(self, source_column: str) -> str:
        """The target's name for a source column."""
        return self.columns.get(source_column, source_column)


@dataclass(frozen=True)
class Entity:
    """A declaration together with its contract and the file it came from."""

    declaration: EntityDeclaration
    contract: type[Contract]
    path: Path

    @property
    def name(self) -> str:
        """The entity's name: the folder's, unless the declaration says another."""
        return self.declaration.name


@dataclass(frozen=True)
class Migration:
    """All entities that belong together, by name."""

    entities: dict[str, Entity] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Entity and column → the keys that were discovered or registered (`ferry.known_keys`)."""

    def __getitem__(self, name: str) -> Entity:
        """The entity of that name, or a `DeclarationError` with the nearest one."""
        if name not in self.entities:
            raise DeclarationError(
                f"there is no entity {name!r}", next=nearest(name, self.entities, "The entities are")
            )
        return self.entities[name]

    def parents(self, name: str) -> tuple[str, ...]:
        """The other entities that rows of this one refer to."""
        return tuple(dict.fromkeys(ref.to for ref in self[name].declaration.references if ref.to != name))


def nearest(name: str, valid: Iterable[str], intro: str) -> str:
    """`Did you mean 'orders'?`, or the list of valid names when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"{intro}: {', '.join(names) or 'none'}"


def migration_in(folder: Path) -> Migration:
    """All entities below a folder, read once for as long as no file there changes."""
    files = sorted(path for path in folder.glob("**/*") if path.name in ("defs.yaml", "contract.py"))
    return _migration_at(folder, tuple((str(path), path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=4)
def _migration_at(folder: Path, state: tuple[tuple[str, int], ...]) -> Migration:  # noqa: ARG001 - the cache's key
    return read_migration(folder)


def read_migration(folder: Path) -> Migration:
    """Read every entity below a folder (`defs/`) and check what they say of one another."""
    if not folder.is_dir():
        raise DeclarationError("there is no such folder of declarations", where=str(folder))
    entities: dict[str, Entity] = {}
    for path in sorted(folder.glob("**/defs.yaml")):
        for document in _documents(path):
            found = str(document.get("type", ""))
            if found.startswith("ferry.") and found not in COMPONENTS:
                raise DeclarationError(
                    f"there is no component {found!r}",
                    where=f"{path}: type",
                    next=nearest(found, COMPONENTS, "The components are"),
                )
            if found == COMPONENT_TYPE:
                entity = build_entity(document.get("attributes") or {}, path)
                if entity.name in entities:
                    raise DeclarationError(
                        f"entity {entity.name!r} is declared twice",
                        where=str(path),
                        why=f"the other one is {entities[entity.name].path}",
                        next="Give one of them another name",
                    )
                entities[entity.name] = entity
    migration = Migration(entities)
    check_references(migration)
    return migration


def build_entity(attributes: dict[str, Any], path: Path) -> Entity:
    """Make an entity of the attributes of its `defs.yaml` at `path`."""
    try:
        declaration = EntityDeclaration.model_validate({"name": path.parent.name, **attributes})
    except ValidationError as error:
        raise _explain(error, path) from None
    return Entity(declaration, _load_contract(declaration, path), path)


def check_references(migration: Migration) -> None:
    """Refuse references, and partitions `through`, that name no entity or no reference."""
    for entity in migration.entities.values():
        for position, reference in enumerate(entity.declaration.references):
            if reference.to not in migration.entities:
                raise DeclarationError(
                    f"there is no entity {reference.to!r}",
                    where=f"{entity.path}: references[{position}].to",
                    next=nearest(reference.to, migration.entities, "The entities are"),
                )
            parent = migration[reference.to].declaration
            if len(reference.column) != len(parent.source.key):
                raise DeclarationError(
                    f"{len(reference.column)} column(s) refer to a key of {len(parent.source.key)}",
                    where=f"{entity.path}: references[{position}].column",
                    next=f"Name one column for each of {', '.join(parent.source.key)}, in that order",
                )
            if parent.id_map == "none":
                raise DeclarationError(
                    f"{reference.to!r} keeps no id map, so nothing can refer to it",
                    where=f"{entity.path}: references[{position}].to",
                    next=f"Remove `id_map: none` from {migration[reference.to].path}",
                )
        partition = entity.declaration.partition
        if partition and partition.through:
            parents = [ref.to for ref in entity.declaration.references]
            if partition.through not in parents:
                raise DeclarationError(
                    f"{partition.through!r} is no parent of {entity.name!r}",
                    where=f"{entity.path}: partition.through",
                    next=nearest(partition.through, parents, "Its references go to"),
                )


def fingerprint(value: Any) -> str:
    """A short stable hash of any value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise DeclarationError(
            "the file is not readable YAML", where=place, why=str(getattr(error, "problem", error))
        ) from None


def _load_contract(declaration: EntityDeclaration, path: Path) -> type[Contract]:
    """Import `contract.py` beside the declaration by its path, so that a folder needs no package around it."""
    file = path.parent / "contract.py"
    where = f"{path}: contract"
    if not file.exists():
        raise DeclarationError(
            f"there is no {file.name} beside it",
            where=where,
            next=f"Write class {declaration.contract} in {file}",
        )
    name = f"ferry_contracts.{fingerprint(str(file.resolve()))}.{declaration.name}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise DeclarationError("the file cannot be imported", where=str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DeclarationError(
            "the contract does not import", where=str(file), why=f"{type(error).__name__}: {error}"
        ) from error
    found = getattr(module, declaration.contract, None)
    classes = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Contract) and value is not Contract
    ]
    if found is None or not (isinstance(found, type) and issubclass(found, Contract)):
        raise DeclarationError(
            f"{file.name} has no contract {declaration.contract!r}",
            where=where,
            next=nearest(declaration.contract, classes, "Its contracts are"),
        )
    return found


def _explain(error: ValidationError, path: Path) -> DeclarationError:
    first = error.errors(include_url=False)[0]
    place, model = _place(first["loc"])
    where = f"{path}: {place}" if place else str(path)
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        keys = [f.alias or n for n, f in model.model_fields.items()] if model else []
        return DeclarationError(
            f"there is no key {name!r}", where=where, next=nearest(name, keys, "The keys are")
        )
    found = first.get("input")
    what = first["msg"] if first["type"] == "missing" else f"{first['msg']}, found {found!r}"
    choices = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
    close = difflib.get_close_matches(found, choices, n=1, cutoff=0.5) if isinstance(found, str) else []
    hint = f"Did you mean {close[0]!r}?" if close else ""
    return DeclarationError(
        what, where=where, next=" ".join(filter(None, [hint, "docs/entities.md lists every key"]))
    )


def _place(steps: tuple[int | str, ...]) -> tuple[str, type[BaseModel] | None]:
    """A place in the file, such as `references[0].to`, and the model whose key the last step is."""
    text, model, around = "", EntityDeclaration, None
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step in _SOURCES:
            model = _SOURCES[step]
        elif step not in _BRANCHES and "[" not in step:
            fields = {f.alias or name: f for name, f in model.model_fields.items()} if model else {}
            text, around = f"{text}.{step}" if text else step, model
            model = _model_in(fields[step].annotation) if step in fields else None
    return text, around


# What Pydantic adds to a place to say which member of a union it tried; no key has such a name.
_BRANCHES = ("int", "float", "str", "bool", "date", "datetime")


def _model_in(annotation: Any) -> Any:
    """The model inside an annotation such as `tuple[Reference, ...]` or `Match | None`, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)

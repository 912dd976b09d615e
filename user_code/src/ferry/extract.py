"""The seam to the old systems: what the stages ask of any source, and which source answers for a connection.

To add a kind of source, write one module in `sources/` with a subclass of `Source` and an `Extraction`, and give it
one line in `DATABASES`, under the scheme of its connections' URLs. A module there is imported when the first
connection of its kind is opened, so its driver costs nobody else anything.

What is no database subclasses `sources.paged.PagedSource`, has a model of its own in `sources/declaration.py`, and its
line is in `OTHERS`. What a database has to do:

- `describe` says of each column, in PostgreSQL's words, what it may hold (`catalogue.Column`): the plan, the contract
  and the target's casts know no others. `Column.arrow` says how it travels when that is not `arrow_field`'s choice.
- an `Extraction` reads one partition, the windows `partition.Scheme.window(key)` of it (one for each column that
  cuts the entity), as it was at one moment: rows in the order
  of their key and of the described types, and the facts about them. What cannot be carried exactly is refused.
- errors are `ferry.errors`, transient where a retry can help, and carry no secret.
"""

import pkgutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

import pyarrow as pa

from ferry.catalogue import Table
from ferry.declaration import Migration, nearest
from ferry.errors import DeclarationError, PermanentError
from ferry.partition import Scheme
from ferry.settings import PREFIX, Settings
from ferry.sources.facts import Facts

DATABASES = {
    "postgresql": "ferry.sources.postgres:PostgresSource",
    "postgres": "ferry.sources.postgres:PostgresSource",
    "sqlite": "ferry.sources.sqlite:SqliteSource",
    "mysql": "ferry.sources.mysql:MysqlSource",
    "mariadb": "ferry.sources.mysql:MysqlSource",
}
"""Which class reads a database, by the scheme of the connection's URL."""

OTHERS = {
    "shopify": "ferry.sources.apis:Shopify",
    "netsuite": "ferry.sources.apis:NetSuite",
    "rest": "ferry.sources.apis:RestApi",
    "files": "ferry.sources.stores:Files",
}
"""Which class reads what is no database, by the word in the declaration's `source`."""

_Item = TypeVar("_Item")
Arrived = Callable[[int], None]
"""Hears how many rows have come, from a source that brings them page by page; it may raise to stop the reading."""


@dataclass(frozen=True)
class Span:
    """The rows of a partition whose keys are greater than one and not greater than another; None: to the end."""

    after: tuple[Any, ...] | None = None
    upto: tuple[Any, ...] | None = None


WHOLE = Span()


class Extraction(Protocol):
    """One partition of one entity, as the source was at one moment."""

    schema: pa.Schema
    """The columns as they are now; the pipeline holds them against the plan's."""
    taken_at: str
    """The source's clock at that moment, as text."""
    may_repeat_keys: bool
    """Whether a key can be there twice; False when the source itself makes sure of it."""
    hashes_way: str = ""
    """What the source's server says to `row_hashes.WAY`; empty if the hashes of rows are not PostgreSQL's."""
    hashed: bool = False
    """Whether rows come with `ROW_HASH`; then spans of them, their hashes alone, and single rows can be had."""

    def batches(self, span: Span = WHOLE) -> Iterator[pa.RecordBatch]:
        """The rows in batches of some MiB, with the types of `schema`, in an order that is the same each time.

        Where they are `hashed`, `ROW_HASH` is one column more, and a span can be asked for.
        """
        ...

    def hashes(self, span: Span) -> Iterator[pa.RecordBatch]:
        """Key and `ROW_HASH` of the rows of a span, in the order of `batches`; only where they are `hashed`.

        Called from another thread, beside `batches` and `picked`.
        """
        raise PermanentError("the rows of this source come without hashes")

    def picked(self, keys: pa.Table) -> Iterator[pa.RecordBatch]:
        """The rows that have these keys, as `batches` has them; only where they are `hashed`."""
        raise PermanentError("the rows of this source come without hashes")

    def facts(self, *, fingerprint: bool = True) -> Facts:
        """Count and sums of the same rows, as the source says; called from another thread, beside `batches`.

        Args:
            fingerprint: False where the sum of the hashes that come with the rows will do, and need not be computed.
        """
        ...

    def duplicates(self) -> pa.Table | None:
        """The keys of this partition that occur more than once, after `facts` and before `batches`; None if none do.

        Returns:
            The key columns, and `latest` (the newest `updated_at`, None on a tie) with `duplicates: keep_latest`.
        """
        ...


class Source(Protocol):
    """An old system behind one connection, opened when it is first asked, and held over a batch of partitions.

    Subclass it by name: what it has a body for is what a source says that cannot know better.
    """

    kind: ClassVar[str] = "source"
    """What it is, for Dagster's asset graph."""

    def __init__(self, migration: Migration, connection: str, settings: Settings) -> None:
        """Args: all entities, the connection as declarations name it, and the settings that have its URL."""
        ...

    def describe(self, name: str) -> Table:
        """What the entity reads: columns in order, unique keys, and a label; raises `DeclarationError`."""
        ...

    def extraction(
        self, name: str, partition: str, scheme: Scheme, arrived: Arrived
    ) -> AbstractContextManager[Extraction]:
        """Open one partition of an entity. A source that pages brings it here first, from where it stopped."""
        ...

    def values(self, name: str, column: str, most: int) -> list[str]:
        """The distinct values of a column that an entity is cut by, as text, NULL left out; at most so many."""
        return []

    def fingerprints(self, name: str) -> dict[str, tuple[int | None, str]]:
        """Partition → (rows, hash) as the source computes them, rows None if it does not count; empty if it cannot."""
        return {}

    def high_water_mark(self, name: str) -> str | None:
        """The newest `updated_at` of the entity as text; None if there is none, or none is declared."""
        return None

    def changes(self, name: str, since: str) -> dict[str, str]:
        """The partitions with rows that changed at a moment or later: which → what is other when these rows are."""
        return {}

    def still_there(self, name: str, keys: list[list[str]]) -> set[tuple[str, ...]]:
        """Those of some keys (their parts as text) that the source has; all of them if it cannot be asked."""
        return {tuple(key) for key in keys}

    def close(self) -> None:
        """Let go of every connection, whatever state it is in."""
        ...


def one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; while one is worked on, a thread brings the next one."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
            del item  # or it would be kept until the next one has come


def open_source(migration: Migration, name: str, settings: Settings) -> Source:
    """The source that an entity reads from; nothing is connected yet.

    Raises:
        DeclarationError: the connection has no URL, or one that no source is for.
    """
    return _class_of(migration, name, settings)(
        migration, migration[name].declaration.source.connection, settings
    )


def kind_of(migration: Migration, name: str, settings: Settings) -> str:
    """What an entity is read from, in a word: `mysql`, `shopify`; raises as `open_source` does."""
    declared = migration[name].declaration.source
    return declared.kind if declared.kind in OTHERS else _class_of(migration, name, settings).kind


def describe_sources(migration: Migration, names: Iterable[str], settings: Settings) -> dict[str, Table]:
    """What each of some entities reads, by name; each connection is opened once.

    Raises:
        FerryError: a connection does not open, or has not what an entity declares.
    """
    together: dict[tuple[type[Source], str], list[str]] = {}
    for name in sorted(names):
        connection = migration[name].declaration.source.connection
        together.setdefault((_class_of(migration, name, settings), connection), []).append(name)
    found: dict[str, Table] = {}
    for entities in together.values():
        with closing(open_source(migration, entities[0], settings)) as source:
            found |= {name: source.describe(name) for name in entities}
    return found


def _class_of(migration: Migration, name: str, settings: Settings) -> type[Source]:
    entity = migration[name]
    connection = entity.declaration.source.connection
    if entity.declaration.source.kind in OTHERS:
        settings.url(connection, f"{entity.path}: source.connection")
        return cast("type[Source]", pkgutil.resolve_name(OTHERS[entity.declaration.source.kind]))
    url = settings.url(connection, f"{entity.path}: source.connection")
    scheme = url.partition("://")[0].lower() if "://" in url else "postgresql"
    if scheme not in DATABASES:
        raise DeclarationError(
            f"connection {connection!r} is of a kind that no source is for",
            where=f"{PREFIX}CONNECTIONS__{connection.upper()}",
            next=nearest(scheme, (f"{known}://" for known in DATABASES), "URLs begin with"),
        )
    return cast("type[Source]", pkgutil.resolve_name(DATABASES[scheme]))

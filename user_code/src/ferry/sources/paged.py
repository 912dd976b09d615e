"""A source that hands on pages, behind the seam: a partition is brought here page by page, then read like a table.

What has arrived lies beside the stage with its checkpoint, so a reading that was killed asks for what is missing and
for nothing else. Nothing is staged before the window is whole and its numbers agree.
"""

import fcntl
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ferry.catalogue import Column, Table, arrow_field, key_text
from ferry.declaration import Migration, fingerprint
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.extract import WHOLE, Extraction, Source, Span
from ferry.extract import Arrived as Told
from ferry.partition import Scheme, scheme_of
from ferry.settings import PREFIX, Settings
from ferry.sources.arrived import Arrived
from ferry.sources.calls import Refused
from ferry.sources.facts import Facts
from ferry.sources.page import Glance, OtherCheckpoint, Pages, PagesInDoubt, Window, WindowIncomplete
from ferry.sources.repeated import repeated_keys
from ferry.sources.shape import UNFIT, Field
from ferry.stage import Manifest, Stage

# Refusals that a new beginning would meet as well.
_ABOUT_WHO_ASKS = (401, 402, 403)
# PostgreSQL's words for the types of fields: the engine knows no others.
_TYPES = {
    "text": ("text", "text"), "int": ("bigint", "int8"), "number": ("numeric", "numeric"),
    "float": ("double precision", "float8"), "bool": ("boolean", "bool"), "json": ("jsonb", "jsonb"),
    "date": ("date", "date"), "timestamp": ("timestamp with time zone", "timestamptz"),
    "datetime": ("timestamp without time zone", "timestamp"), "binary": ("bytea", "bytea"),
}  # fmt: skip


class PagedSource(Source):
    """What the kinds of paged sources share; a kind says how it is called, what its columns and its windows are."""

    def __init__(self, migration: Migration, connection: str, settings: Settings) -> None:
        """Nothing is called yet."""
        self.migration, self.connection, self.settings = migration, connection, settings
        self.variable = f"{PREFIX}CONNECTIONS__{connection.upper()}"
        self._clients: dict[str, Pages] = {}

    @property
    def parts(self) -> dict[str, Any]:
        """What the settings say of the connection: `url` and whatever credentials its kind needs."""
        return self.settings.parts(self.connection)

    def declared(self, name: str) -> Any:
        """The entity's `source`."""
        return self.migration[name].declaration.source

    @abstractmethod
    def client(self, name: str, work_dir: Path, partition: str) -> Pages:
        """The client that reads the entity; `work_dir` outlives a killed process."""
        ...

    @abstractmethod
    def fields(self, name: str) -> list[Field]:
        """The entity's columns."""
        ...

    def window(self, name: str, scheme: Scheme, partition: str) -> Window | None:
        """What a partition is to the client; None for everything.

        Raises:
            DeclarationError: the source cannot be cut like that.
        """
        windows = scheme.window(partition, name)
        if not scheme.cuts:
            return None
        cut, *second = scheme.cuts
        if second or cut.listed:
            raise DeclarationError(
                "values, and two columns at once, cut a table and nothing else",
                where=f"{self.migration[name].path}: partition",
                next="Cut it by time or by a number: `every` and `start`",
            )
        (window,) = windows
        return Window(self.window_key(name, cut.by), window.low, window.high)

    def window_key(self, name: str, column: str) -> str:  # noqa: ARG002 - what a kind may look up
        """What the client calls the column that is cut."""
        return column

    def describe(self, name: str) -> Table:
        """The declared columns; the source itself is asked when it is read."""
        source = self.declared(name)
        fields = self.fields(name)
        columns = [_column(field) for field in fields]
        if source.unfit == "carry":
            columns.append(_column(Field(UNFIT, "text")))
        return Table("", f"{self.connection}/{source.label}", {column.name: column for column in columns})

    def extraction(self, name: str, partition: str, scheme: Scheme, arrived: Told) -> "PagedExtraction":
        """Bring a partition here, from where it stopped."""
        return PagedExtraction(self, name, partition, scheme, arrived)

    def checked_client(self, name: str, partition: str) -> Pages:
        """The client, after it has seen once that credentials, scopes and declaration are right."""
        client = self._clients.get(self.client_key(name, partition))
        if client is None:
            client = self.client(name, self.settings.state_root / "reads", partition)
            client.preflight()
            self._clients[self.client_key(name, partition)] = client
        return client

    def client_key(self, name: str, partition: str) -> str:  # noqa: ARG002 - what a kind may need
        """Which client reads a partition: by default one for all of an entity."""
        return name

    def fingerprints(self, name: str) -> dict[str, tuple[int | None, str]]:
        """What the source says of each partition without handing out its rows; empty if that shows no changes."""
        found, scheme = {}, scheme_of(self.migration, name)
        for partition in scheme.keys:
            client = self.checked_client(name, partition)
            glance = client.glance(self.window(name, scheme, partition), None)
            if glance is None:
                return {}
            found[partition] = (glance.rows, fingerprint(glance.text))
        return found

    def still_there(self, name: str, keys: list[list[str]]) -> set[tuple[str, ...]]:
        """Asked of the stages, if they are what the source has now, each of them proved whole; otherwise all of them.

        An API or a file cannot be asked by key; but what is in no window of it is nowhere.
        """
        asked, declaration = {tuple(key) for key in keys}, self.migration[name].declaration
        columns, scheme = list(declaration.source.key), scheme_of(self.migration, name)
        if any(column in declaration.parse for column in columns):
            return asked
        found = set[tuple[str, ...]]()
        for partition in scheme.keys:
            window = PagedExtraction(self, name, partition, scheme, lambda _: None)
            try:
                manifest = window.staged_now()
            except PermanentError:  # a partition's files are gone as a whole, say: nothing is sure then
                return asked
            if manifest is None:
                return asked
            for part in manifest.parts:
                table = window.stage.read(manifest, part).select(columns)
                texts = [[key_text(value) for value in column.to_pylist()] for column in table.itercolumns()]
                found |= asked.intersection(zip(*texts, strict=True))
        return found

    def close(self) -> None:
        """Let go of the clients' connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


class PagedExtraction(Extraction):
    """One partition that was brought here. Use as a context manager: entering it reads what is missing."""

    def __init__(self, source: PagedSource, name: str, partition: str, scheme: Scheme, told: Told) -> None:
        """Args: the source, the entity, its partition, the scheme that has it, and who hears of rows."""
        self._source, self._name, self._partition, self._told = source, name, partition, told
        self._declaration = source.migration[name].declaration
        self._where = f"{name}, {partition}"
        self.stage = Stage(source.settings.stage_root, name, partition)
        self._kept: Manifest | None = None
        self.may_repeat_keys = True
        self._window = source.window(name, scheme, partition)
        self._of = fingerprint(
            [
                self._declaration.source.model_dump(mode="json"),
                self._window.as_dict() if self._window else None,
                {part: source.parts.get(part) for part in ("url", "account", "version")},
            ]
        )
        self.schema = pa.schema([arrow_field(column) for column in source.describe(name).columns.values()])

    def __enter__(self) -> "PagedExtraction":
        """Read the pages that are missing, and see that nothing is; no page if the source says that none is new.

        Raises:
            WindowIncomplete: what arrived is not what the source said; all of it was thrown away.
            FerryError: the reading ended early; the next one goes on where it ended.
        """
        settings = self._source.settings
        self._lock = _locked(
            settings.state_root / "reads" / f"{fingerprint([self._name, self._partition])}.lock"
        )
        try:
            self._arrived = Arrived(self.stage.arrived, self._of)
            self.taken_at = self._arrived.state.begun
            if self._arrived.state.whole is None:
                self._bring()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let others read this partition."""
        self._lock.close()

    def _bring(self) -> None:
        client = self._source.checked_client(self._name, self._partition)
        if self._arrived.state.checkpoint is None and self._is_as_before(client):
            return
        begun = self._arrived.state.pages
        try:
            try:
                self._read(client)
            except (OtherCheckpoint, Refused) as error:
                if not self._is_stale(error, begun):
                    raise
                self._arrived.forget()
                self._arrived.begin(client.glance(self._window, None))
                self._read(client)
            completeness = client.completeness
            if completeness is None or (completeness.stated is not None and not completeness.proven):
                raise WindowIncomplete(
                    "what arrived is not what the source says that it has",
                    why=f"it says {completeness and completeness.stated}, and {completeness and completeness.arrived}"
                    " arrived",
                    next="The window is read again from its beginning",
                )
        except (WindowIncomplete, PagesInDoubt):
            self._arrived.forget()
            raise
        self._arrived.finish(completeness)

    def _is_as_before(self, client: Pages) -> bool:
        """Whether what is staged is what the source has, as far as it says."""
        staged, glance = self._compared(client)
        if staged is None or self._source.settings.reread:
            self._arrived.begin(glance)
            return False
        # Which keys are repeated was found when it was staged.
        self._kept, self.may_repeat_keys = staged, False
        return True

    def _compared(self, client: Pages) -> tuple[Manifest | None, Glance | None]:
        """What is staged, None if it is not what the source has now; and what the source says."""
        staged = self.stage.manifest()
        before = staged.said.get("glance") if staged and staged.fingerprint else None
        glance = client.glance(self._window, before)
        is_same = (
            staged is not None
            and glance is not None
            and glance.text == before
            and staged.fingerprint == self._fingerprint(before)
            and self.stage.holds(staged, self.schema)
        )
        return staged if is_same else None, glance

    def staged_now(self) -> Manifest | None:
        """What is staged, if it is sure to be all that the source has now."""
        staged, _ = self._compared(self._source.checked_client(self._name, self._partition))
        is_whole = staged is not None and (
            self._source.kind == "files" or staged.said["stated"] == staged.said["arrived"]
        )
        return staged if is_whole else None

    def _fingerprint(self, glance: str | None) -> str | None:
        return fingerprint([self._of, glance]) if glance is not None else None

    def _is_stale(self, error: FerryError, begun: int) -> bool:
        """Whether the source refuses to go on from where another run stopped: its cursors may have expired."""
        state = self._arrived.state
        refused_at_once = begun > 0 and state.pages == begun
        return not isinstance(error, Refused) or (refused_at_once and error.status not in _ABOUT_WHO_ASKS)

    def _read(self, client: Pages) -> None:
        for page in client.read(self._window, self._arrived.state.checkpoint):
            self._arrived.keep(page)
            self._told(page.batch.num_rows)

    def facts(self, *, fingerprint: bool = True) -> Facts:  # noqa: ARG002 - there is nothing to save
        """Rows as they arrived, page by page, and what the source said of its objects."""
        if self._kept:
            return Facts(self._kept.rows, {}, self._kept.said, self._kept.fingerprint)
        state = self._arrived.state
        assert state.whole is not None
        said = {**state.whole, "notes": list(state.whole["notes"]), "requests": state.requests}
        said |= {"glance": state.glance} if state.glance else {}
        return Facts(self._arrived.rows(), {}, said, self._fingerprint(state.glance))

    def duplicates(self) -> pa.Table | None:
        """Keys that occur more than once in this partition."""
        source = self._declaration.source
        latest = source.updated_at if self._declaration.duplicates == "keep_latest" else None
        wanted = [*source.key, *([latest] if latest else [])]
        rows = self._arrived.state.rows
        return repeated_keys(lambda: self._arrived.tables(wanted), rows, list(source.key), latest)

    def batches(self, span: Span = WHOLE) -> Iterator[pa.RecordBatch]:  # noqa: ARG002 - rows are not hashed
        """The rows of all pages, in the order in which they came."""
        for table in self._arrived.tables():
            if table.schema.names != self.schema.names or table.schema.types != self.schema.types:
                raise PermanentError(
                    "the rows are not of the declared columns",
                    where=self._where,
                    why=f"declared {self.schema.names}; found {table.schema.names}",
                )
            for batch in table.to_batches():
                yield pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)


def _column(field: Field) -> Column:
    """How the engine sees a field."""
    arrow = field.arrow
    if pa.types.is_decimal(arrow):
        type_, base, precision, scale = (
            f"numeric({arrow.precision},{arrow.scale})",
            "numeric",
            arrow.precision,
            arrow.scale,
        )
    else:
        (type_, base), precision, scale = _TYPES[field.type], None, None
    return Column(
        field.name, type_, base, "b", not_null=False, has_default=False, sequence=None, generated=False,
        precision=precision, scale=scale, arrow=arrow,
    )  # fmt: skip


def _locked(path: Path) -> Any:
    """A lock on a partition's pages, which goes when its process does; raises `TransientError` if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TransientError(
            "another run reads this partition",
            where=str(path.name),
            next="Wait for it; what it has read is not read again",
        ) from None
    return file

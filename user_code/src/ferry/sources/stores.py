"""Files behind the seam: a store's URL and a declared pattern become a reading, the files of a partition at a time."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from ferry.declaration import Migration, fingerprint
from ferry.errors import DeclarationError
from ferry.partition import BESIDE, WHOLE, Scheme, scheme_of
from ferry.settings import Settings
from ferry.sources.declaration import FromFiles
from ferry.sources.declared import checked, columns_of
from ferry.sources.file_declaration import FileDeclaration, FileKind, FileStore
from ferry.sources.files import FileSource, Listing, folder_of, literally
from ferry.sources.page import Pages, Window
from ferry.sources.paged import PagedSource
from ferry.sources.shape import Field

PLACE = "{partition}"
FILE = "file"
"""What an entity is cut by when each file is a partition."""


class Files(PagedSource):
    """Files of one kind in a folder, a bucket or on a server."""

    kind: ClassVar[str] = "files"

    def __init__(self, migration: Migration, connection: str, settings: Settings) -> None:
        """Nothing is listed yet."""
        super().__init__(migration, connection, settings)
        self._listed, self._listing = "", Listing()

    def client(self, name: str, work_dir: Path, partition: str) -> Pages:  # noqa: ARG002
        """The files of one partition."""
        source = self._source(name)
        scheme = scheme_of(self.migration, name)
        pattern, others = source.files, dict[str, frozenset[str]]()
        for cut, window in zip(scheme.cuts, scheme.window(partition, name), strict=True):
            if cut.by not in _places(pattern):
                continue
            if cut.listed and window.value is None:
                others[cut.by] = frozenset(window.others)
            elif cut.by == FILE:
                folder = folder_of(self._url(source.files)).removeprefix(self._url("")).lstrip("/")
                pattern = f"{literally(folder)}{literally(window.key)}"
            else:
                pattern = pattern.replace(f"{{{cut.by}}}", literally(window.key))
        return self._files(source, pattern.replace(PLACE, literally(partition)), others)

    def client_key(self, name: str, partition: str) -> str:
        """Each partition has its own files."""
        return f"{name}/{partition}"

    def checked_client(self, name: str, partition: str) -> Pages:
        """One client at a time: each holds a connection, and there may be thousands of partitions."""
        if self.client_key(name, partition) not in self._clients:
            self.close()
        return super().checked_client(name, partition)

    def fields(self, name: str) -> list[Field]:
        """The declared fields; raises `DeclarationError` if there are none."""
        fields = columns_of(self._source(name).fields)
        if not fields:
            raise DeclarationError(
                "the columns of the files are not declared",
                where=f"{self.migration[name].path}: source.fields",
                next="Declare them: `fields: {id: {type: int, parse: true}, name: text, …}`",
            )
        return fields

    def window(self, name: str, scheme: Scheme, partition: str) -> Window | None:
        """All files of a partition's own pattern; raises `DeclarationError` if their names do not tell partitions."""
        pattern = self._source(name).files
        for cut in scheme.cuts:
            if cut.by not in _places(pattern) and (PLACE not in pattern or cut.discovered):
                raise DeclarationError(
                    "files are cut by their names, not by a column",
                    where=f"{self.migration[name].path}: source.files",
                    next=f"Put {{{cut.by}}} where the name has it, cut `by: {FILE}`, or do not partition",
                )
        scheme.window(partition, name)
        return None

    def values(self, name: str, column: str, most: int) -> list[str]:
        """What stands now in the files' names at a place of the pattern; `file` is the name."""
        source = self._source(name)
        if column not in _places(source.files):
            return []
        with closing(self._files(source, source.files)) as files:
            return files.values(column)[:most]

    def fingerprints(self, name: str) -> dict[str, tuple[int | None, str]]:
        """Of each partition the names, sizes and versions of its files; rows are counted by reading only."""
        source, scheme = self._source(name), scheme_of(self.migration, name)
        found: dict[str, list[list[Any]]] = {key: [] for key in scheme.keys}
        with closing(self._files(source, source.files)) as files:
            for file in files.files():
                # Whatever is not known by a key of its own belongs to the first.
                parts = [
                    next((w.key for w in cut.windows if w.key == file.places[cut.by]), cut.windows[0].key)
                    for cut in scheme.cuts
                    if cut.by in file.places
                ]
                key = BESIDE.join(parts) or file.places.get("partition", WHOLE)
                if key in found:
                    found[key].append([file.name, file.size, file.version])
        return {key: (None, fingerprint(files)) for key, files in found.items()}

    def _source(self, name: str) -> FromFiles:
        source = self.declared(name)
        assert isinstance(source, FromFiles)
        return source

    def _url(self, pattern: str) -> str:
        return f"{checked(FileStore, self.parts, self.variable).url.rstrip('/')}/{pattern}"

    def _files(
        self, source: FromFiles, pattern: str, others: dict[str, frozenset[str]] | None = None
    ) -> FileSource:
        store = checked(FileStore, self.parts, self.variable)
        if (folder := folder_of(self._url(pattern))) != self._listed:
            self._listed, self._listing = folder, Listing()
        given: dict[str, Any] = {key: getattr(source, key) for key in FileKind.model_fields}
        given |= {"url": self._url(pattern), "options": store.options, "secrets": store.secrets}
        return FileSource(FileDeclaration(**given), others=others, listing=self._listing)


def _places(pattern: str) -> list[str]:
    return [FILE, *re.findall(r"\{(\w+)\}", pattern)]

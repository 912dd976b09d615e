"""Files behind the seam: a store's URL and a declared pattern become a reading, the files of a partition at a time."""

from pathlib import Path
from typing import Any, ClassVar

from ferry.declaration import fingerprint
from ferry.errors import DeclarationError
from ferry.partition import Scheme, scheme_of
from ferry.sources.declaration import FromFiles
from ferry.sources.declared import checked, columns_of
from ferry.sources.file_declaration import FileDeclaration, FileKind, FileStore
from ferry.sources.files import FileSource
from ferry.sources.page import Pages, Window
from ferry.sources.paged import PagedSource
from ferry.sources.shape import Field

PLACE = "{partition}"


class Files(PagedSource):
    """Files of one kind in a folder, a bucket or on a server."""

    kind: ClassVar[str] = "files"

    def client(self, name: str, work_dir: Path, partition: str) -> Pages:  # noqa: ARG002
        """The files that the pattern matches; those of one partition where it names it."""
        return self._files(name, partition)

    def client_key(self, name: str, partition: str) -> str:
        """A pattern with a place for the partition is another one for each."""
        return f"{name}/{partition}" if PLACE in self._source(name).files else name

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
        """All files of the pattern; a partition is what its key in the pattern makes of it."""
        if scheme.discovers:
            raise DeclarationError(
                "the values of a column are discovered in a table, and nowhere else",
                where=f"{self.migration[name].path}: partition.values",
                next=f"List the keys: each is put where {PLACE} stands in the files' names",
            )
        if scheme.cuts and PLACE not in self._source(name).files:
            raise DeclarationError(
                "files are cut by their names, not by a column",
                where=f"{self.migration[name].path}: source.files",
                next=f"Put {PLACE} where the key of a partition stands in the name, or do not partition",
            )
        scheme.window(partition, name)
        return None

    def fingerprints(self, name: str) -> dict[str, tuple[int | None, str]]:
        """Of each partition the names, sizes and versions of its files; rows are counted by reading only."""
        found = {}
        for partition in scheme_of(self.migration, name).keys:
            files = self._files(name, partition).files()
            found[partition] = (None, fingerprint([[f.name, f.size, f.version] for f in files]))
        return found

    def _source(self, name: str) -> FromFiles:
        source = self.declared(name)
        assert isinstance(source, FromFiles)
        return source

    def _files(self, name: str, partition: str) -> FileSource:
        source = self._source(name)
        store = checked(FileStore, self.parts, self.variable)
        given: dict[str, Any] = {key: getattr(source, key) for key in FileKind.model_fields}
        given["url"] = f"{store.url.rstrip('/')}/{source.files.replace(PLACE, partition)}"
        return FileSource(FileDeclaration(**given, options=store.options, secrets=store.secrets))

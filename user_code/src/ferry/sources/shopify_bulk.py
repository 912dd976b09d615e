"""Shopify's bulk operations: submit, wait, fetch the JSONL, prove it whole, and hand on its rows.

An operation is remembered by its id before it has finished, so a restart waits for the one that runs instead
of starting another. Nothing of a result is handed on before all of it was counted: lines against
`objectCount`, roots against `rootObjectCount`, bytes against `fileSize`, and every child's parent is there.
Children are joined to their parents by `__parentId` through a table on disk, in whatever order they come.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simplejson

from ferry.errors import PermanentError, TransientError
from ferry.sources.page import (
    PAGE_BYTES,
    Completeness,
    Glance,
    Page,
    Tally,
    Window,
    WindowIncomplete,
    canonical,
    digest,
    fingerprint,
    frozen,
    refuse_other,
)
from ferry.sources.shape import Shape
from ferry.sources.shopify import Shop, ShopifyEntity, check_access, glance, judged, search

_OPERATION = "id status errorCode objectCount rootObjectCount fileSize url query"
_SUBMIT = (
    "mutation($query: String!) { bulkOperationRunQuery(query: $query) "
    f"{{ bulkOperation {{ {_OPERATION} }} userErrors {{ field message }} }} }}"
)
_LOOK = f"query($id: ID!) {{ node(id: $id) {{ ... on BulkOperation {{ {_OPERATION} }} }} }}"
_RUNNING = ("CREATED", "RUNNING", "CANCELING")
_LINE_BYTES = 64 * 1024 * 1024


class ShopifyBulkSource:
    """An entity of a shop, or the children inside it, by one bulk operation a window.

    Args:
        shop: the connection.
        entity: what to read; with `child`, the rows are the children.
        work_dir: a directory that outlives the process: a result that was fetched is not fetched again.
        poll: seconds between looks at the operation: the first, and the longest.
        patience: seconds that an operation may take.
    """

    def __init__(
        self,
        shop: Shop,
        entity: ShopifyEntity,
        *,
        work_dir: Path | None = None,
        poll: tuple[float, float] = (1.0, 15.0),
        patience: float = 24 * 3600.0,
        page_bytes: int = PAGE_BYTES,
        unfit: str = "fail",
    ) -> None:
        self.shop, self.entity, self.caller = shop, entity, shop.caller()
        self.completeness: Completeness | None = None
        self._work_dir = work_dir or Path(tempfile.mkdtemp(prefix="ferry-"))
        self._poll, self._patience, self._page_bytes = poll, patience, page_bytes
        self._shape = Shape(entity.fields, ignore=("*",), omits_nulls=True, unfit=unfit)
        self._sent = 0

    def preflight(self) -> None:
        """Check token, scopes and version; raises `PermanentError`."""
        check_access(self.caller, self.shop, self.entity)

    def glance(self, window: Window | None, before: str | None = None) -> Glance | None:  # noqa: ARG002
        """What Shopify counts in the window, and when one of it changed last."""
        return glance(self.caller, self.entity, window)

    def close(self) -> None:
        """Let go of the connections."""
        self.caller.close()

    def read(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Rows of the window; the first page has none, only the operation's id."""
        self.completeness, self._sent = None, self.caller.requests
        query = self.query(window)
        of = digest([self.shop.url, query])
        if checkpoint is None:
            operation = self._submit(query)
            state = {
                "of": of, "operation": operation["id"], "offset": 0, "line": 0, "tally": Tally().as_dict(),
                "whole": None, "shape": self._shape.as_dict(),
            }  # fmt: skip
            yield self._page([], [], state)
        else:
            refuse_other(checkpoint, of)
            state = frozen(checkpoint)
        file = self._work_dir / f"bulk-{digest(state['operation'])}.jsonl"
        joined = file.with_suffix(".sqlite")
        if state["whole"] is None or not file.exists() or file.stat().st_size != state["whole"]["bytes"]:
            state["whole"] = self._fetch(state["operation"], file)
            joined.unlink(missing_ok=True)
        yield from self._rows(file, joined, state)
        tally = Tally.from_dict(state["tally"])
        self.completeness = Completeness(state["whole"]["rows"], tally.arrived, tally.hash)
        for path in (file, joined):
            path.unlink(missing_ok=True)

    def query(self, window: Window | None) -> str:
        """The bulk query for a window, as it is submitted."""
        asked = search(self.entity, window)
        # In a bulk query the arguments stand in the text, so the search is quoted as GraphQL quotes strings.
        argument = f"(query: {simplejson.dumps(asked)})" if asked else ""
        inner = self.entity.selection(0)
        if self.entity.child:
            inner = f"{self.entity.selection(1)} {self.entity.child} {{ edges {{ node {{ {inner} }} }} }}"
        return f"{{ {self.entity.root}{argument} {{ edges {{ node {{ {inner} }} }} }} }}"

    def _graphql(self, text: str, **variables: Any) -> dict[str, Any]:
        body = {"query": text, "variables": variables}
        return self.caller.call("POST", "graphql.json", json=body, judge=judged, cost=10)

    def _submit(self, query: str) -> dict[str, Any]:
        """Start the operation, once one of the shop's places for operations is free."""
        until, wait = time.monotonic() + self._patience, self._poll[0]
        while True:
            told = self._graphql(_SUBMIT, query=query)["bulkOperationRunQuery"]
            if told.get("bulkOperation"):
                return told["bulkOperation"]
            why = "; ".join(e["message"] for e in told.get("userErrors") or []) or "it gives no reason"
            busy = "already in progress" in why.lower() or "limit" in why.lower()
            if not busy:
                raise PermanentError(
                    "Shopify refuses the bulk query",
                    where=f"{self.shop.url}, {self.entity.root}",
                    why=why,
                    next="Compare the fields of the declaration with the reference of this API version",
                )
            if time.monotonic() > until:
                raise TransientError("another bulk operation does not end", where=self.shop.url, why=why)
            time.sleep(wait)
            wait = min(wait * 1.5, self._poll[1])

    def _finished(self, operation: str) -> dict[str, Any]:
        until, wait = time.monotonic() + self._patience, self._poll[0]
        while True:
            told = self._graphql(_LOOK, id=operation)["node"]
            if told is None or told["status"] == "EXPIRED":
                raise WindowIncomplete(
                    f"bulk operation {operation} is no longer there",
                    where=self.shop.url,
                    why="Shopify keeps results for seven days",
                    next="The window is read again by a new operation",
                )
            if told["status"] == "COMPLETED":
                return told
            if told["status"] not in _RUNNING:
                denied = told.get("errorCode") == "ACCESS_DENIED"
                kind = PermanentError if denied else WindowIncomplete
                raise kind(
                    f"bulk operation {operation} ended as {told['status']}",
                    where=f"{self.shop.url}, {self.entity.root}",
                    why=str(told.get("errorCode") or ""),
                    next="Grant the missing scope"
                    if denied
                    else "A new operation reads the window again; if it fails again, use narrower windows",
                )
            if time.monotonic() > until:
                raise TransientError(f"bulk operation {operation} does not end", where=self.shop.url)
            time.sleep(wait)
            wait = min(wait * 1.5, self._poll[1])

    def _fetch(self, operation: str, file: Path) -> dict[str, Any]:
        """Fetch the result and prove it whole; gives its bytes, lines and rows."""
        told = self._finished(operation)
        file.parent.mkdir(parents=True, exist_ok=True)
        stated = {
            k: int(told[k]) for k in ("objectCount", "rootObjectCount", "fileSize") if told.get(k) is not None
        }
        if not told.get("url"):
            if stated.get("objectCount") != 0:
                raise WindowIncomplete(
                    f"Shopify says that there are {stated.get('objectCount', 'some')} objects, but gives no file",
                    where=operation,
                    next="The window is read again by a new operation",
                )
            file.write_bytes(b"")
            return {"bytes": 0, "lines": 0, "rows": 0}
        try:
            self.caller.download(told["url"], file)
            return self._prove(file, stated, operation)
        except WindowIncomplete:
            file.unlink(missing_ok=True)  # it may have been cut on the way: once more, from its beginning
            self.caller.download(told["url"], file)
        try:
            return self._prove(file, stated, operation)
        except WindowIncomplete:
            file.unlink(missing_ok=True)
            raise

    def _prove(self, file: Path, stated: dict[str, int], operation: str) -> dict[str, Any]:
        size, lines, roots, rows = file.stat().st_size, 0, 0, 0
        for _, _, record in _records(file, 0, 0):
            lines += 1
            roots += "__parentId" not in record
            rows += self._is_row(record)
        facts = {"objectCount": lines, "rootObjectCount": roots, "fileSize": size}
        for name, said in stated.items():
            if facts[name] != said:
                raise WindowIncomplete(
                    f"the bulk result has {name} {facts[name]:,}, and Shopify says {said:,}",
                    where=operation,
                    why="the file is truncated, or objects are missing from it",
                    next="The window is read again by a new operation",
                )
        return {"bytes": size, "lines": lines, "rows": rows}

    def _is_row(self, record: dict[str, Any]) -> bool:
        if not self.entity.child:
            return "__parentId" not in record
        return "__parentId" in record and f"/{self.entity.kind}/" in str(record.get("id", ""))

    def _rows(self, file: Path, joined: Path, state: dict[str, Any]) -> Iterator[Page]:
        parents = self._parents(file, joined) if self.entity.child else None
        rows: list[dict[str, Any]] = []
        above: list[list[Any]] = []
        size, tally = 0, Tally.from_dict(state["tally"])
        for line, end, record in _records(file, state["offset"], state["line"]):
            if self._is_row(record):
                rows.append(record)
                if parents is not None:
                    above.append([_parent(parents, record, f"{state['operation']}, line {line}")])
                tally.add(fingerprint(record))
            size += end - state["offset"]
            state |= {"line": line, "offset": end}
            if size >= self._page_bytes:
                state["tally"] = tally.as_dict()
                yield self._page(rows, above, state)
                rows, above, size = [], [], 0
        state["tally"] = tally.as_dict()
        if rows:
            yield self._page(rows, above, state)
        if parents is not None:
            parents.close()

    def _parents(self, file: Path, joined: Path) -> sqlite3.Connection:
        """A table on disk of every object that can be a parent, by id."""
        whole = joined.exists()
        db = sqlite3.connect(joined if whole else joined.with_suffix(".building"), isolation_level=None)
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-32000")
        if whole:
            return db
        db.execute("DROP TABLE IF EXISTS parent")
        db.execute("CREATE TABLE parent (id TEXT PRIMARY KEY, record TEXT) WITHOUT ROWID")
        db.execute("BEGIN")
        for line, _, record in _records(file, 0, 0):
            if "__parentId" not in record:
                try:
                    db.execute("INSERT INTO parent VALUES (?, ?)", (record["id"], canonical(record)))
                except (sqlite3.IntegrityError, KeyError):
                    raise WindowIncomplete(
                        f"line {line} repeats an object or has no id", where=file.name,
                        next="The window is read again by a new operation",
                    ) from None  # fmt: skip
        db.execute("COMMIT")
        db.close()
        joined.with_suffix(".building").rename(joined)
        return sqlite3.connect(joined, isolation_level=None)

    def _page(self, rows: list[dict[str, Any]], above: list[list[Any]], state: dict[str, Any]) -> Page:
        batch = self._shape.batch(
            rows, f"bulk operation {state['operation']}, to line {state['line']}", above
        )
        state["shape"] = self._shape.as_dict()
        requests, self._sent = self.caller.requests - self._sent, self.caller.requests
        return Page(batch, frozen(state), requests)


def _parent(parents: sqlite3.Connection, record: dict[str, Any], where: str) -> dict[str, Any]:
    found = parents.execute("SELECT record FROM parent WHERE id = ?", (record["__parentId"],)).fetchone()
    if found is None:
        raise WindowIncomplete(
            f"{record.get('id')} belongs to {record['__parentId']}, which is not in the result",
            where=where,
            next="The window is read again by a new operation",
        )
    return simplejson.loads(found[0], use_decimal=True)


def _records(file: Path, offset: int, line: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Line number, byte offset after the line, and the object of each line from an offset on."""
    with file.open("rb") as stream:
        stream.seek(offset)
        while text := stream.readline(_LINE_BYTES + 1):
            line, offset = line + 1, offset + len(text)
            if not text.strip():
                continue
            if len(text) > _LINE_BYTES:
                raise PermanentError(f"line {line} is longer than {_LINE_BYTES:,} bytes", where=file.name)
            try:
                record = simplejson.loads(text.decode("utf-8"), use_decimal=True)
            except ValueError as error:
                raise WindowIncomplete(
                    f"line {line} of the bulk result is not whole JSON",
                    where=file.name,
                    why=f"the file is truncated or damaged: {error}",
                    next="The window is read again by a new operation",
                ) from None
            if not isinstance(record, dict):
                raise WindowIncomplete(f"line {line} of the bulk result is no object", where=file.name)
            yield line, offset, record

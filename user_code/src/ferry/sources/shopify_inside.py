"""What is inside Shopify's objects (an order's lines, a product's metafields), read to its end beside its objects.

A page of objects brings the first few of each one's children. Of an object that has more, they are asked for by its id
until there are no more. What has come of a page lies in a file until the next page, so a kill in the middle repeats
none of these calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import simplejson

from ferry.errors import PermanentError, TransientError
from ferry.sources.page import PagesInDoubt, WindowIncomplete
from ferry.sources.reading import ServerPage
from ferry.sources.shape import dig

FEW = 10
"""Children that come with their object."""
_EMPTY_PAGES = 20
# Shopify hands out no more of one connection, and an object with all of its children has to fit into memory.
_MOST = 25_000


class Inside:
    """Completes pages of objects.

    Args:
        child: the connection inside (`lineItems`).
        ask: gives the page of an object's children after a cursor: the connection as answered, the request and the
            answer's bytes.
    """

    def __init__(self, child: str, ask: Callable[[str, str], tuple[dict[str, Any], str, int]]) -> None:
        self._child, self._ask = child, ask
        self._file = Path()

    def open(self, file: Path, *, fresh: bool) -> None:
        """Keep what comes in that file; `fresh` forgets what an earlier reading left in it."""
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self.forget()

    def forget(self) -> None:
        """The page is no longer needed."""
        self._file.unlink(missing_ok=True)

    def unfold(self, node: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """The children of a completed object, each with the object above it."""
        for child in node[self._child]:
            yield child, [node]

    def whole(self, place: str, first: Callable[[], ServerPage]) -> ServerPage:
        """A page of objects with all of their children, in a plain list each.

        Args:
            place: which page it is.
            first: asks for the objects with the first few children.

        Raises:
            WindowIncomplete: the children repeat, or their object went away.
            PagesInDoubt: there is no end of them.
        """
        page, more = self._found(place)
        if page is None:
            page = first()
            if any(dig(node, [self._child, "pageInfo", "hasNextPage"]) for node in page.records):
                self._file.write_bytes(_line({"place": place, "page": asdict(page)}))
        size = page.size
        for node in page.records:
            size += self._fill(node, [one for one in more if one["of"] == node["id"]], page.where)
        return replace(page, size=size)

    def _fill(self, node: dict[str, Any], kept: list[dict[str, Any]], where: str) -> int:
        """Replace the connection by the list of all that is in it; gives the bytes that were asked for."""
        told, children, cursors = node[self._child], list[dict[str, Any]](), set[str]()
        came, size, empty = iter(kept), 0, 0
        while True:
            children += told["nodes"]
            empty = 0 if told["nodes"] else empty + 1
            if not told["pageInfo"]["hasNextPage"]:
                break
            after = told["pageInfo"]["endCursor"]
            self._refuse(node, after, where, cursors, len(children), empty)
            cursors.add(after)
            one = next(came, None)
            if one is None:
                one = self._next(node["id"], after)
            told, where, size = one["told"], one["where"], size + one["size"]
        names = Counter(child["id"] for child in children if child["id"] is not None)
        if repeated := [name for name, times in names.items() if times > 1]:
            raise WindowIncomplete(
                f"{repeated[0]} came twice inside {node['id']}, so another one may be missing",
                where=where,
                next="The window is read again from its beginning",
            )
        node[self._child] = children
        return size

    def _next(self, of: str, after: str) -> dict[str, Any]:
        told, where, size = self._ask(of, after)
        one = {"of": of, "told": told, "where": where, "size": size}
        with self._file.open("ab") as file:
            file.write(_line(one))
        return one

    def _refuse(
        self, node: dict[str, Any], after: str | None, where: str, before: set[str], came: int, empty: int
    ) -> None:
        if after is None:
            raise TransientError(f"there are more {self._child} but no cursor to them", where=where)
        if node["id"] is None:
            raise PermanentError(
                f"an object without an id has more {self._child} than come with it",
                where=where,
                next="Read this entity in bulk (via: bulk)",
            )
        if after in before:
            raise WindowIncomplete(
                f"the cursor of the {self._child} of {node['id']} repeats",
                where=where,
                why="the same children would come again and again",
                next="The window is read again from its beginning; if it stays, the shop's paging is broken",
            )
        if came > _MOST or empty > _EMPTY_PAGES:
            raise PagesInDoubt(
                f"the {self._child} of {node['id']} do not end: {came:,} so far, {empty} empty pages in a row",
                where=where,
                next="Read this entity in bulk (via: bulk)",
            )

    def _found(self, place: str) -> tuple[ServerPage | None, list[dict[str, Any]]]:
        """What is there of a page, without a last line that a kill cut off."""
        if not self._file.exists():
            return None, []
        lines = self._file.read_bytes().split(b"\n")
        whole = len(b"\n".join(lines[:-1])) + 1
        with self._file.open("r+b") as file:
            file.truncate(whole if len(lines) > 1 else 0)
        found = [simplejson.loads(line, use_decimal=True) for line in lines[:-1]]
        if not found or found[0]["place"] != place:
            return None, []
        return ServerPage(**found[0]["page"]), found[1:]


def _line(value: Any) -> bytes:
    return simplejson.dumps(value, use_decimal=True).encode() + b"\n"

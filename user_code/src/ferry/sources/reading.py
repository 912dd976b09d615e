"""Reading an API window by window and page by page: checkpoints, splitting, repeated pages, completeness.

The loop is the same for every API that pages; what differs is a `Server` (Shopify, SuiteQL, a declared REST
API).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ferry.errors import DeclarationError, PermanentError
from ferry.sources.calls import Caller
from ferry.sources.page import (
    PAGE_BYTES,
    Completeness,
    Edge,
    Page,
    PagesInDoubt,
    Tally,
    Window,
    WindowIncomplete,
    digest,
    fingerprint,
    frozen,
    named,
    refuse_other,
)
from ferry.sources.seen import SeenKeys
from ferry.sources.shape import Shape, dig

# Split before the cap is reached: rows may be added between the count and the last page.
_NEAR = 0.9
_RECENT = 64
_EMPTY_PAGES = 20
_CATCH_UPS = 3


@dataclass(frozen=True)
class Span:
    """A part of the window that is read by one sequence of pages.

    Attributes:
        since: narrows it to what changed from that epoch second on: the second look at a source that moved.
        again: its first rows were read before, in a larger span that turned out to reach the cap.
    """

    start: Edge | None = None
    end: Edge | None = None
    since: float | None = None
    again: bool = False

    @property
    def is_second_look(self) -> bool:
        """Whether rows that have arrived before are to be expected in it."""
        return self.again or self.since is not None

    def halves(self) -> tuple[Span, Span] | None:
        """Two spans that together are this one; None when it cannot be split."""
        low, high, middle = self.start, self.end, None
        if isinstance(low, datetime) and isinstance(high, datetime):
            middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        elif isinstance(low, int) and isinstance(high, int):
            middle = low + (high - low) // 2
        elif type(low) is date and type(high) is date:
            middle = low + timedelta(days=(high - low).days // 2)
        if middle is None or middle == low:
            return None
        return replace(self, end=middle), replace(self, start=middle)

    def as_json(self) -> list[Any]:
        """For the checkpoint."""
        return [_edge_to_json(self.start), _edge_to_json(self.end), self.since, self.again]

    @classmethod
    def from_json(cls, saved: list[Any]) -> Span:
        """From the checkpoint."""
        return cls(_edge_from_json(saved[0]), _edge_from_json(saved[1]), *saved[2:])


@dataclass(frozen=True)
class Count:
    """What the source says that a span has; `exact` is False where such counts saturate."""

    objects: int
    exact: bool = True


@dataclass(frozen=True)
class ServerPage:
    """One answer: records in order, the cursor of the next page (any JSON; None at the end), a total if
    stated.
    """

    records: list[dict[str, Any]]
    next: Any
    where: str
    size: int
    total: int | None = None


class Server(Protocol):
    """What an API has to offer for the loop."""

    caller: Caller
    catches_up: bool

    @property
    def cap(self) -> int | None:
        """Objects that one query hands out at most; None when there is no such cap."""
        ...

    def spans(self, window: Window | None) -> list[Span]:
        """The spans to begin with, closed where the API needs them closed in order to split."""
        ...

    def count(self, span: Span) -> Count | None:
        """What the API says that the span has; None when it does not say."""
        ...

    def page(self, span: Span, cursor: Any) -> ServerPage:
        """The page at the cursor; the first one for None."""
        ...

    def belongs(self, span: Span, record: dict[str, Any]) -> bool:
        """Whether the record is in the span, where the API's edges are not half-open."""
        ...


class Reading:
    """One read of one window.

    Args:
        server: the API.
        key: path, or paths, of a record's key; None when it has none: then only whole repeated pages are
            known.
        version: path of what grows when a record changes (`updated_at`).
        shape: makes the batches.
        unfold: the rows in the objects that the pages bring, each with its ancestors, nearest first; None
            when the objects are the rows. Keys, counts and hashes are of the objects.
        plan: what was declared, JSON-serialisable; a checkpoint of another plan is refused.
        work_dir: a directory that outlives the process, for the keys seen so far.
    """

    def __init__(
        self,
        server: Server,
        *,
        key: str | list[str] | None,
        version: str | None,
        shape: Shape,
        plan: Any,
        work_dir: Path | None,
        unfold: Callable[[dict[str, Any]], Iterator[tuple[dict[str, Any], list[Any]]]] | None = None,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        self._server, self._shape, self._page_bytes = server, shape, page_bytes
        self._keys = [k.split(".") for k in ([key] if isinstance(key, str) else key or [])]
        self._version = version.split(".") if version else None
        self._plan, self._unfold = plan, unfold
        self._work_dir = work_dir or Path(tempfile.mkdtemp(prefix="ferry-"))
        self.completeness: Completeness | None = None

    def pages(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Pages after the checkpoint; sets `completeness` at the end."""
        self.completeness = None
        of = digest([self._plan, window.as_dict() if window else None])
        state = self._begin(window, of) if checkpoint is None else self._resume(checkpoint, of)
        tally = Tally.from_dict(state["tally"])
        seen = self._open_seen(state, tally, of, fresh=checkpoint is None) if self._keys else None
        sent = self._server.caller.requests
        try:
            while state["spans"]:
                if not state["open"]:
                    self._open(state)
                    if state["open"] and self._unfold:
                        # An object with what is inside it may take many calls: a kill among the first ones goes on too.
                        requests, sent = self._server.caller.requests - sent, self._server.caller.requests
                        yield Page(self._shape.batch([], "no row"), frozen(state), requests)
                    continue
                for batch, replaces, objects in self._next(state, tally, seen):
                    state["tally"], state["shape"] = tally.as_dict(), self._shape.as_dict()
                    requests, sent = self._server.caller.requests - sent, self._server.caller.requests
                    yield Page(batch, frozen(state), requests, tuple(replaces), objects)
        finally:
            if seen:
                seen.close()
        if seen:
            seen.remove()
        self.completeness = Completeness(
            state["stated"] if state["proved"] else None, tally.arrived, tally.hash, tuple(state["notes"])
        )

    def _begin(self, window: Window | None, of: str) -> dict[str, Any]:
        # What was learned in another window says nothing of this one.
        self._shape.restore({"seen": [], "inferred": {}})
        spans = [span.as_json() for span in self._server.spans(window)]
        return {
            "of": of, "spans": spans, "page": 0, "tally": Tally().as_dict(), "shape": self._shape.as_dict(),
            "stated": 0, "proved": True, "notes": [], "pages": 0, **_fresh_span(),
        }  # fmt: skip

    def _resume(self, checkpoint: dict[str, Any], of: str) -> dict[str, Any]:
        refuse_other(checkpoint, of)
        self._shape.restore(checkpoint["shape"])
        return frozen(checkpoint)

    def _open_seen(self, state: dict[str, Any], tally: Tally, of: str, *, fresh: bool) -> SeenKeys:
        seen = SeenKeys(self._work_dir / f"seen-{of}.sqlite")
        kept = seen.back_to(-1 if fresh else state["page"])
        if kept == 0 and tally.arrived:
            before = f"the {tally.arrived} rows before page {state['page'] + 1}"
            note = f"the keys of {before} were no longer there to compare"
            state["notes"].append(note)
        return seen

    def _open(self, state: dict[str, Any]) -> None:
        """Count the first span; split it if it is near the cap, otherwise it is ready to be read."""
        span, cap = Span.from_json(state["spans"][0]), self._server.cap
        count = self._server.count(span)
        if cap and count and (not count.exact or count.objects > cap * _NEAR):
            state["spans"][:1] = [half.as_json() for half in self._split(span)]
            return
        state["open"], state["began"] = True, self._server.caller.now()
        state["first"] = state["last"] = count.objects if count and count.exact else None
        state["counted"] = state["first"] is not None

    def _split(self, span: Span) -> tuple[Span, Span]:
        halves = span.halves()
        if halves is None:
            raise PermanentError(
                f"{span.start} to {span.end} has more objects than the source hands out ({self._server.cap:,})",
                why="and the window is too narrow, or open, and cannot be split",
                next="Use a bulk operation or keyset paging for this entity, or give the window both edges",
            )
        return halves

    def _next(
        self, state: dict[str, Any], tally: Tally, seen: SeenKeys | None
    ) -> Iterator[tuple[pa.RecordBatch, list[Any], tuple[str, ...]]]:
        span = Span.from_json(state["spans"][0])
        page = self._server.page(span, state["cursor"])
        mark = digest([page.records[:50], len(page.records)])
        self._refuse_repetition(state, page, mark, span)
        if page.total is not None and span.since is None:
            state["first"] = page.total if state["first"] is None else state["first"]
            state["last"] = page.total
        parts = max(1, -(-page.size // self._page_bytes)) if page.records else 1
        step = max(1, -(-len(page.records) // parts))
        known, begun = 0, state["part"]
        for low in range(0, max(1, len(page.records)), step):
            # With keys a page that was read in part is compared row by row; without, it is counted off.
            if not self._keys and low < begun:
                known += len(page.records[low : low + step])
                continue
            records = page.records[low : low + step]
            chosen, replaces, old = self._sift(span, records, state, tally, seen)
            known += old
            state["part"] = min(low + step, len(page.records))
            is_last = low + step >= len(page.records)
            if is_last:
                self._turn(state, page, mark, known, span, begun)
            batch, objects = self._batch(chosen, page.where)
            yield batch, replaces, objects

    def _batch(self, objects: list[dict[str, Any]], where: str) -> tuple[pa.RecordBatch, tuple[str, ...]]:
        """The objects' rows, and for each the name of its object, should that be replaced."""
        names = [named(self._key_of(one)) if self._keys else "" for one in objects]
        may_change = bool(self._keys)
        if self._unfold is None:
            return self._shape.batch(objects, where), tuple(names) if may_change else ()
        unfolded = [
            (name, *row) for name, one in zip(names, objects, strict=True) for row in self._unfold(one)
        ]
        batch = self._shape.batch([row for _, row, _ in unfolded], where, [above for _, _, above in unfolded])
        return batch, tuple(name for name, _, _ in unfolded) if may_change else ()

    def _sift(
        self,
        span: Span,
        records: list[dict[str, Any]],
        state: dict[str, Any],
        tally: Tally,
        seen: SeenKeys | None,
    ) -> tuple[list[dict[str, Any]], list[Any], int]:
        """Of some records those to hand on, the keys that they replace, and how many were known."""
        state["page"] += 1
        contents = [fingerprint(r) for r in records]
        keys = [self._key_of(r) for r in records]
        chosen, replaces, known = [], [], 0
        verdicts = (
            seen.judge(
                state["page"],
                [
                    (key, dig(r, self._version) if self._version else None, content)
                    for key, r, content in zip(keys, records, contents, strict=True)
                ],
            )
            if seen
            else [None] * len(records)
        )
        for at, (record, content, verdict) in enumerate(zip(records, contents, verdicts, strict=True)):
            is_new = verdict is None or verdict.is_new
            if not is_new and verdict and verdict.supersedes is None:
                known += 1
                continue
            state["fetched"] += is_new
            if not self._server.belongs(span, record):
                state["outside"] += is_new
                continue
            if is_new:
                tally.add(content)
            elif verdict and verdict.supersedes:
                tally.swap(verdict.supersedes, content)
                key = keys[at]
                replaces.append(key if isinstance(key, list) else [key])
            chosen.append(at)
        return [records[at] for at in chosen], replaces, known

    def _turn(
        self,
        state: dict[str, Any],
        page: ServerPage,
        mark: str,
        known: int,
        span: Span,
        begun: int,
    ) -> None:
        """The page is done: go to the next one, or close the span."""
        if self._keys and known == len(page.records) > 0 and not begun and not span.is_second_look:
            raise WindowIncomplete(
                f"a whole page of {known} rows came a second time",
                where=page.where,
                why="the source repeats a page, so another one may be missing",
                next="The window is read again from its beginning",
            )
        state["part"] = 0
        state["recent"] = [*state["recent"], mark][-_RECENT:] if page.records else state["recent"]
        state["empty"] = 0 if page.records else state["empty"] + 1
        self._refuse_cycle(state, page)
        state["cursor"], state["pages"] = page.next, state["pages"] + 1
        if page.next is None:
            self._close(state, span, page.where)
        elif self._server.cap and state["fetched"] >= self._server.cap:
            self._at_cap(state, span, page)

    def _at_cap(self, state: dict[str, Any], span: Span, page: ServerPage) -> None:
        if state["first"] is not None or not self._keys:
            raise WindowIncomplete(
                f"the window grew to the {self._server.cap:,} objects that the source hands out",
                where=page.where,
                next="The window is read again and split",
            )
        # Nobody counted beforehand: read it again in halves, what has arrived is known by its key.
        state["spans"][:1] = [replace(half, again=True).as_json() for half in self._split(span)]
        state.update(_fresh_span())
        state["proved"] = False

    def _refuse_repetition(self, state: dict[str, Any], page: ServerPage, mark: str, span: Span) -> None:
        if page.records and mark in state["recent"] and not state["part"] and not span.is_second_look:
            raise WindowIncomplete(
                f"the source gave the same page of {len(page.records)} rows twice",
                where=page.where,
                next="The window is read again from its beginning; if it stays, the source's paging is broken",
            )
        stated = state["first"]
        if stated is not None and state["fetched"] > 2 * stated + 10_000 and page.next is not None:
            raise PagesInDoubt(
                f"the pages do not end: {state['fetched']:,} rows so far, and the source says that it has {stated:,}",
                where=page.where,
                next="Check the paging in the declaration: the source may ignore its cursor or window",
            )

    def _refuse_cycle(self, state: dict[str, Any], page: ServerPage) -> None:
        if state["empty"] > _EMPTY_PAGES:
            raise PagesInDoubt(
                f"{state['empty']} empty pages in a row, and each says that there is a next one",
                where=page.where,
                next="Check the paging in the declaration",
            )
        if page.next is None:
            return
        # Brent's way to see a cycle of any length with one remembered cursor.
        cursor = digest(page.next)
        if cursor == state["tortoise"] or page.next == state["cursor"]:
            raise WindowIncomplete(
                "the source's cursor repeats",
                where=page.where,
                why="the pages would come again and again",
                next="The window is read again from its beginning; if it stays, the source's paging is broken",
            )
        state["steps"] += 1
        if state["steps"] == state["power"]:
            state["tortoise"], state["power"], state["steps"] = cursor, state["power"] * 2, 0

    def _close(self, state: dict[str, Any], span: Span, where: str) -> None:
        """Compare what the source said with what arrived; look again at what moved, or fail."""
        if self._server.catches_up and not state["looks"] and self._keys:
            self._look_again(state, span)  # what changed since the first page, however the counts are
            return
        again = self._server.count(replace(span, since=None)) if state["counted"] else None
        last = again.objects if again and again.exact else state["last"]
        arrived, first = state["fetched"], state["first"]
        if first is None or last is None:
            state["proved"] = False
        elif arrived != last:
            if self._server.catches_up and state["looks"] < _CATCH_UPS:
                self._look_again(state, span)
                return
            # More than are there now: some left, if the source's own count says so too.
            if not last < arrived <= first:
                raise WindowIncomplete(
                    f"{arrived:,} objects arrived, and the source says that it has "
                    + (f"{first:,}" if first == last else f"{first:,}, later {last:,}"),
                    where=where,
                    why="a page was short, missing or repeated, or the source changed while it was read",
                    next="The window is read again from its beginning",
                )
            state["notes"].append(f"{arrived - last} objects left the window while it was read")
            last = arrived
        state["stated"] += (last or 0) - state["outside"]
        state["spans"].pop(0)
        state.update(_fresh_span())

    def _look_again(self, state: dict[str, Any], span: Span) -> None:
        kept = {k: state[k] for k in ("fetched", "outside", "first", "last", "counted")}
        state["spans"][0] = replace(span, since=state["began"]).as_json()
        state.update(
            _fresh_span()
            | kept
            | {"open": True, "began": self._server.caller.now(), "looks": state["looks"] + 1}
        )

    def _key_of(self, record: dict[str, Any]) -> Any:
        values = [dig(record, path) for path in self._keys]
        return values[0] if len(values) == 1 else values


def _fresh_span() -> dict[str, Any]:
    return {
        "open": False, "cursor": None, "part": 0, "fetched": 0, "outside": 0, "first": None, "last": None,
        "began": None, "looks": 0, "counted": False, "recent": [], "empty": 0, "tortoise": None, "power": 1, "steps": 0,
    }  # fmt: skip


def _edge_to_json(edge: Edge | None) -> Any:
    if isinstance(edge, datetime):
        return {"datetime": edge.isoformat()}
    return {"date": edge.isoformat()} if isinstance(edge, date) else edge


def _edge_from_json(saved: Any) -> Edge | None:
    if isinstance(saved, dict):
        return (
            datetime.fromisoformat(saved["datetime"])
            if "datetime" in saved
            else date.fromisoformat(saved["date"])
        )
    return saved


def as_instant(edge: Edge) -> datetime:
    """An edge as an instant in UTC: a date is its midnight, a time without zone is UTC (declared as such)."""
    if isinstance(edge, datetime):
        return edge.astimezone(UTC) if edge.tzinfo else edge.replace(tzinfo=UTC)
    if isinstance(edge, date):
        return datetime(edge.year, edge.month, edge.day, tzinfo=UTC)
    raise DeclarationError(f"a window over time cannot have the edge {edge!r}", next="Give a date or a time")

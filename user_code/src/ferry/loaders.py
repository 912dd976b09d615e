"""Several loaders of one entity, each over a connection of its own, that load chunks of a partition side by side.

A load keeps one server process busy while the reading thread prepares the next chunk; a second connection lets the
target use another core. Each chunk is its own transaction, so it does not matter in which order they commit.
"""

import queue
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from ferry.loader import Loader
from ferry.plan import EntityPlan

Result = TypeVar("Result")


def most_loaders(plan: EntityPlan, allowed: int) -> int:
    """How many chunks of an entity may be loaded at once.

    One, where rows of one chunk look at what another one has just written: matched rows, and rows that refer to
    rows of the same entity, which would wait for no reason.
    """
    alone = plan.declaration.match or plan.ahead or any(edge.parent == plan.name for edge in plan.edges)
    return 1 if alone else allowed


class Loaders(Generic[Result]):
    """Runs loads of chunks, at most so many at a time; use as a context manager.

    The first loader is the caller's own: it may use it itself only when nothing is under way.
    """

    def __init__(self, first: Loader, another: Callable[[], Loader], most: int) -> None:
        """Args: the caller's loader, how to make one more (not yet entered), and how many there may be."""
        self._another, self._most = another, most
        self._free: queue.SimpleQueue[Loader] = queue.SimpleQueue()
        self._free.put(first)
        self._others: list[Loader] = []
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="load")
        self._running: set[Future[Result]] = set()

    def __enter__(self) -> "Loaders[Result]":
        """Ready; further connections are opened when they are needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is under way come to its end, and close the connections that were opened here."""
        self._pool.shutdown(wait=True)
        for loader in self._others:
            loader.connection.close()

    def start(self, load: Callable[[Loader], Result]) -> list[Result]:
        """Start one more, as soon as a loader is free; returns the results of those that have ended meanwhile.

        Raises:
            FerryError: what one of them ended with, when no other is under way any more.
        """
        ended = self._ended(FIRST_COMPLETED) if len(self._running) == self._most else []
        self._running.add(self._pool.submit(self._load, load))
        return ended

    def finish(self) -> list[Result]:
        """Wait for all that is under way; returns and raises as `start` does."""
        results: list[Result] = []
        while self._running:
            results += self._ended(FIRST_COMPLETED)
        return results

    def _ended(self, when: str) -> list[Result]:
        done, self._running = wait(self._running, return_when=when)
        failed = next((error for future in done if (error := future.exception())), None)
        if failed:
            wait(self._running)
            self._running = set()
            raise failed
        return [future.result() for future in done]

    def _load(self, load: Callable[[Loader], Result]) -> Result:
        try:
            loader = self._free.get_nowait()
        except queue.Empty:
            loader = self._another().__enter__()
            self._others.append(loader)
        try:
            return load(loader)
        finally:
            if not (loader.connection.closed or loader.connection.broken) or loader not in self._others:
                self._free.put(loader)

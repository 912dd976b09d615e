"""Limits that all runs on one machine share: a token bucket and a set of slots, each a small locked file.

The lock is the kernel's (`flock`), so it goes when its process does, however that dies. Containers share it
when they share the directory (the stage volume). See docs/adr/rate-limits-in-locked-files.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A granted call that was neither settled nor given back by now belongs to a process that died.
_TICKET_LIFE = 120.0


@dataclass(frozen=True)
class Ticket:
    """Leave to send one call; hand it back to `Bucket.settle` when the answer is there."""

    id: str
    cost: float


class Bucket:
    """Points that refill steadily: `per_second` of them, `capacity` at most, shared by every process.

    When the server states what is left (`settle(available=…)`), the model follows the server, whose limit
    others may use too. Without such statements the model runs at `use` of the limit, because nothing corrects
    it.

    Args:
        path: the state file; made with its directory when missing.
        capacity: points that may be spent at once.
        per_second: points that come back each second.
        use: share of `per_second` to use while the server states nothing.
    """

    def __init__(self, path: Path, *, capacity: float, per_second: float, use: float = 0.97) -> None:
        self.path, self.use = path, use
        self.capacity, self.per_second = capacity, per_second
        path.parent.mkdir(parents=True, exist_ok=True)

    def take(self, cost: float = 1.0) -> Ticket:
        """Wait until `cost` points are there, spend them, and say so."""
        while True:
            with self._locked() as state:
                cost = min(cost, state["capacity"])
                wait = max(state["paused_until"] - state["at"], (cost - state["level"]) / self._rate(state))
                if wait <= 0:
                    ticket = Ticket(uuid.uuid4().hex[:12], cost)
                    state["level"] -= cost
                    state["tickets"][ticket.id] = [cost, state["at"] + _TICKET_LIFE]
                    return ticket
            time.sleep(min(wait, 5.0))

    def settle(
        self,
        ticket: Ticket,
        *,
        spent: float | None = None,
        available: float | None = None,
        capacity: float | None = None,
        per_second: float | None = None,
    ) -> None:
        """Give a ticket back with what the answer says of its cost and of the server's bucket."""
        with self._locked() as state:
            state["tickets"].pop(ticket.id, None)
            if spent is not None:
                state["level"] += ticket.cost - spent
            if capacity:
                state["capacity"] = capacity
            if per_second:
                state["per_second"] = per_second
            if available is not None:
                state["stated"] = True
                # The server may or may not have seen the calls that are under way: the truth lies between.
                under_way = sum(cost for cost, _ in state["tickets"].values())
                state["level"] = min(max(state["level"], available - under_way), available)

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long: the server said so."""
        with self._locked() as state:
            state["paused_until"] = max(state["paused_until"], state["at"] + seconds)
            state["level"] = min(state["level"], 0.0)

    def _rate(self, state: dict[str, Any]) -> float:
        return state["per_second"] * (1.0 if state["stated"] else self.use)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            state = self._refilled(os.pread(handle, 1 << 20, 0))
            yield state
            text = json.dumps(state).encode()
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
        finally:
            os.close(handle)

    def _refilled(self, text: bytes) -> dict[str, Any]:
        # Counts suspended time too and is the same in every container; wall clocks step.
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        fresh = {
            "at": now, "level": 0.0, "capacity": self.capacity,
            "per_second": self.per_second, "stated": False, "paused_until": 0.0, "tickets": {},
            "declared": [self.capacity, self.per_second],
        }  # fmt: skip
        try:
            state = json.loads(text) if text else fresh
        except ValueError:
            state = fresh  # a writer died in the middle: start from empty, which is never too much
        if state["at"] > now or state["declared"] != fresh["declared"]:
            state = fresh  # the machine was started anew, or the declaration changed
        state["level"] = min(state["capacity"], state["level"] + (now - state["at"]) * self._rate(state))
        state["at"] = now
        state["tickets"] = {k: v for k, v in state["tickets"].items() if v[1] > now}
        return state


class Slots:
    """At most `count` calls at a time over all processes; a slot is free again when its holder dies."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory, self.count = directory, count
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Wait for a free slot and hold it; gives its number."""
        order = random.sample(range(self.count), self.count)
        handles: list[int] = []
        try:
            for number in order:
                handle = os.open(
                    self.directory / f"slot-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660
                )
                handles.append(handle)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield number
                return
            # All taken: queue for one of them; the kernel wakes us.
            fcntl.flock(handles[0], fcntl.LOCK_EX)
            yield order[0]
        finally:
            for handle in handles:
                os.close(handle)

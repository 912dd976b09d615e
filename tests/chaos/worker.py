"""The process that is killed: it does the steps of a job and tells its parent when a chosen moment has come."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg

from ferry import ledger, loader, replay, rollback, settle, stage
from ferry.declaration import read_migration
from ferry.errors import FerryError
from ferry.pipeline import PartitionFailed, carry
from ferry.plan import MigrationPlan, plan_migration
from ferry.settings import Settings
from ferry.sources import postgres as source
from ferry.targets import direct

# Where a process can be stopped exactly: before the call, after it, or some moment within it.
MOMENTS: dict[str, tuple[Any, str]] = {
    "extract": (source, "conform"),
    "stage part": (stage.Stage, "add"),
    "stage rename": (os, "rename"),
    "seal": (stage.Stage, "seal"),
    "copy": (loader.Loader, "fill"),
    "map and insert": (loader.Loader, "run"),
    "short way: copy": (direct.DirectLoad, "_copy"),
    "short way: map": (direct.DirectLoad, "_mapped"),
    "commit": (psycopg.Transaction, "__exit__"),
    "ledger": (ledger, "record_chunk"),
    "partition's end": (ledger, "close_partition"),
    "link": (loader.Loader, "link"),
    "settle: load": (settle, "_load_waiting"),
    "settle: move": (settle, "move"),
    "settle: reject": (settle, "_reject_rest"),
    "replay": (replay, "_chunk"),
    "rollback: entity": (rollback, "_entity"),
    "rollback: restore": (rollback, "_restore"),
}
# An engine that is wrong on purpose: its ledger is written in a transaction of its own.
LEDGER_APART = "ledger apart"
BEFORE, INSIDE, AFTER = "before", "inside", "after"


@dataclass(frozen=True)
class Job:
    """What a process does, step by step, and the connections and folders that it works with."""

    source_url: str
    target_url: str
    defs: Path
    stage: Path
    steps: tuple[tuple[str, ...], ...]
    retries: int = 0
    chunk_rows: int = 150
    broken: str = ""


@dataclass
class Moment:
    """The `nth` call of a place in the engine, and whether the end comes before, inside or after it."""

    place: str
    when: str = BEFORE
    nth: int = 1
    calls: int = field(default=0)


def settings_of(job: Job) -> Settings:
    """The settings under which a job runs."""
    return Settings.model_validate(
        {
            "connections": {"legacy": job.source_url, "crm": job.target_url},
            "stage_uri": str(job.stage),
            "chunk_rows": job.chunk_rows,
            "retries": job.retries,
            "retry_seconds": 0.4,
            "lock_timeout_seconds": 60,
        }
    )


def work(job: Job, moment: Moment | None, parent: Connection) -> None:
    """Do a job in this process; exit status 1 if a step failed, 0 otherwise."""
    if job.broken == LEDGER_APART:
        _ledger_apart(job)
    counts: dict[str, int] = {}
    if moment is None:
        for place in MOMENTS:
            _watch(place, lambda place: counts.__setitem__(place, counts.get(place, 0) + 1), None)
    else:
        _watch(moment.place, *_announce(moment, parent))
    failed = False
    try:
        plans = plan_migration(read_migration(job.defs), settings_of(job))
        for step in job.steps:
            failed = do(plans, job, step) or failed
    except FerryError as error:
        print(error, file=sys.stderr)
        failed = True
    parent.send(("end", counts))
    sys.exit(failed)


def do(plans: MigrationPlan, job: Job, step: tuple[str, ...]) -> bool:
    """One step, by the engine's own functions; whether something of it failed."""
    settings = settings_of(job)
    match step:
        case ("load", name, *partitions):
            events = carry(plans, name, tuple(partitions) or plans[name].scheme.keys, settings)
            failures = [event for event in events if isinstance(event, PartitionFailed)]
            for failure in failures:
                print(failure.error, file=sys.stderr)
            return bool(failures)
        case ("settle",):
            settle.settle(plans, settings)
        case ("replay",):
            replay.replay(plans, settings)
        case ("rollback", *names):
            rollback.roll_back(plans, settings, tuple(names))
    return False


def _announce(
    moment: Moment, parent: Connection
) -> tuple[Callable[[str], None] | None, Callable[[str], None] | None]:
    """Tell the parent that the moment has come; before and after a call, wait for what the parent does."""

    def now(_: str) -> None:
        moment.calls += 1
        if moment.calls == moment.nth:
            parent.send(("now", moment.place))
            if moment.when != INSIDE:
                parent.recv()

    return (None, now) if moment.when == AFTER else (now, None)


def _watch(place: str, before: Callable[[str], None] | None, after: Callable[[str], None] | None) -> None:
    owner, name = MOMENTS[place]
    original = getattr(owner, name)

    @wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if before:
            before(place)
        result = original(*args, **kwargs)
        if after:
            after(place)
        return result

    setattr(owner, name, watched)


def _ledger_apart(job: Job) -> None:
    original = ledger.record_chunk

    def apart(_: psycopg.Connection, **known: Any) -> None:
        with psycopg.connect(job.target_url, autocommit=True) as connection:
            original(connection, **known)

    ledger.record_chunk = apart

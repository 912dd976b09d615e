"""Cutover: catch up with the old system until little is missing, make sure that it stands still, and sign.

Passes over what changed go on while people still work in the old system. When a pass finds little, the source has to
stand still; then comes the last pass, everything is settled and reconciled, and the record is written. Whatever does
not hold ends it with a message and no record; called again, it goes on where the ledger ends.
"""

import datetime
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import psycopg

from ferry import ledger
from ferry.catalogue import connect
from ferry.errors import PermanentError
from ferry.extract import open_source
from ferry.loader import Loader
from ferry.pipeline import LoadedPartition, PartitionFailed, carry, reconcile
from ferry.plan import MigrationPlan
from ferry.settings import Settings
from ferry.settle import settle
from ferry.sign_off import sign
from ferry.stage import Stage
from ferry.targets.errors import told

OVERLAP = datetime.timedelta(minutes=5)
"""How far before its last reading the first pass looks for changes: transactions that were open then have ended."""


@dataclass(frozen=True)
class Terms:
    """When a migration is cut over.

    Attributes:
        by: who signs.
        small: a pass that changes no more rows than this is the last before the source has to stand still.
        most_passes: give up after so many passes that found more.
        quiet_seconds: how long nothing may change in the source.
        last: what the pass after that reads: `everything`, or only what `updated_at` says has `changed`.
    """

    by: str
    small: int = 100
    most_passes: int = 10
    quiet_seconds: float = 10
    last: Literal["everything", "changed"] = "everything"


@dataclass(frozen=True)
class Pass:
    """One pass over the source: partitions read, rows inserted or updated in the target, and how long it took."""

    name: str
    partitions: int
    changed: int
    seconds: float


@dataclass
class CutOver:
    """What a cutover did: its passes, rows compared, and the rows of each entity by outcome when it was signed."""

    passes: list[Pass] = field(default_factory=list)
    compared: int = 0
    entities: dict[str, dict[str, int]] = field(default_factory=dict)


def cut_over(
    plans: MigrationPlan,
    settings: Settings,
    terms: Terms,
    run_id: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> CutOver:
    """Cut the whole migration over.

    Args:
        plans: of all entities.
        settings: connections and the staging area.
        terms: when it counts as done, and who signs.
        run_id: for the ledger and the record.
        tell: hears what happens, a sentence at a time.

    Raises:
        PermanentError: a partition cannot be loaded, the delta stays large, the source does not stand still, rows
            still wait, or the target is not as staged. Nothing is signed then.
    """
    done, catching_up = CutOver(), _CatchUp(plans, settings, run_id)
    for number in range(1, terms.most_passes + 1):
        one = catching_up.once(f"pass {number}")
        done.passes.append(one)
        tell(
            f"{one.name}: {one.changed:,} rows changed in {one.partitions:,} partitions, {one.seconds:.1f} s"
        )
        if one.changed <= terms.small:
            break
    else:
        rows = done.passes[-1].changed
        raise PermanentError(
            f"the delta does not become small: {rows:,} rows in the last of {terms.most_passes} passes",
            why=f"a pass that changes {terms.small:,} rows or fewer would do",
            next="Stop whoever writes to the old system, or allow a larger delta",
        )
    frozen = _stands_still(plans, settings, terms.quiet_seconds)
    tell(f"the source stands still: nothing changed in {terms.quiet_seconds:g} s")
    last = catching_up.once("last pass", everything=terms.last == "everything")
    done.passes.append(last)
    tell(
        f"{last.name}: {last.changed:,} rows changed in {last.partitions:,} partitions, {last.seconds:.1f} s"
    )
    settled = settle(plans, settings, run_id)
    waits = [f"{one.entity} {one.waiting:,}" for one in settled if one.waiting]
    if waits:
        raise PermanentError("rows still wait for their parents", why=", ".join(waits), next="ferry status")
    from ferry.deliver import deliver_all  # here, because every run imports this module

    late = [f"{one.entity} {one.waiting:,}" for one in deliver_all(plans, settings, run_id) if one.waiting]
    if late:
        raise PermanentError(
            "rows still wait for parents at the API", why=", ".join(late), next="ferry deliver"
        )
    done.compared = _reconciled(plans, settings)
    tell(f"reconciled: {done.compared:,} rows compared, none differs")
    if moved := _moved(frozen, _fingerprints(plans, settings)):
        raise PermanentError(
            "the source changed during the last pass",
            why=f"it changed in {moved}",
            next="Stop its writers, run again",
        )
    _sign(plans, settings, terms, run_id, frozen, done)
    tell(f"signed off by {terms.by}")
    return done


class _CatchUp:
    """Loads what changed since the last time that it looked."""

    def __init__(self, plans: MigrationPlan, settings: Settings, run_id: str) -> None:
        self._plans, self._settings, self._run_id = plans, settings, run_id
        self._marks: dict[str, str | None] = {}

    def once(self, name: str, *, everything: bool = False) -> Pass:
        """One pass over all entities, parents first."""
        began, partitions, changed = time.monotonic(), 0, 0
        settings = self._settings.model_copy(update={"reread": self._settings.reread or everything})
        for entity in self._plans.order:
            keys = self._keys(entity, everything=everything)
            partitions += len(keys)
            for event in carry(self._plans, entity, keys, settings, run_id=self._run_id) if keys else ():
                if isinstance(event, PartitionFailed):
                    raise event.error
                if isinstance(event, LoadedPartition):
                    changed += event.outcomes.inserted + event.outcomes.updated
        return Pass(name, partitions, changed, round(time.monotonic() - began, 3))

    def _keys(self, name: str, *, everything: bool) -> tuple[str, ...]:
        plan = self._plans[name]
        read_before = self._marks.get(name) or _read_until(
            plan.scheme.keys, name, self._plans, self._settings
        )
        with closing(open_source(self._plans.migration, name, self._settings)) as source:
            # Taken before the reading: a change in between is found by the next pass.
            self._marks[name] = source.high_water_mark(name)
            if everything or read_before is None or self._marks[name] is None:
                return plan.scheme.keys
            changed = source.changes(name, read_before)
        return tuple(key for key in plan.scheme.keys if key in changed)


def _read_until(keys: tuple[str, ...], name: str, plans: MigrationPlan, settings: Settings) -> str | None:
    """The moment up to which all partitions have been read, or None if one never was."""
    target = plans[name].declaration.target.connection
    with connect(settings.url(target), target, autocommit=True) as connection:
        if not ledger.is_prepared(connection):
            return None
        row = connection.execute(
            "select count(*), min(taken_at) from ferry.partitions where entity = %s and partition = any(%s)",
            (name, list(keys)),
        ).fetchone()
    return (row[1] - OVERLAP).isoformat() if row and row[0] == len(keys) else None


Fingerprints = dict[str, dict[str, tuple[int | None, str]]]


def _fingerprints(plans: MigrationPlan, settings: Settings) -> Fingerprints:
    """Entity → partition → rows and hash, as the source computes them; its newest change where it cannot."""
    found: Fingerprints = {}
    for name in plans.order:
        with closing(open_source(plans.migration, name, settings)) as source:
            found[name] = source.fingerprints(name) or {"": (0, str(source.high_water_mark(name)))}
    return found


def _stands_still(plans: MigrationPlan, settings: Settings, seconds: float) -> Fingerprints:
    before = _fingerprints(plans, settings)
    time.sleep(seconds)
    moved = _moved(before, _fingerprints(plans, settings))
    if moved:
        raise PermanentError(
            "the source does not stand still",
            why=f"within {seconds:g} s it changed in {moved}",
            next="Stop whoever writes to the old system, then run the cutover again",
        )
    return before


def _moved(before: Fingerprints, after: Fingerprints) -> str:
    moved = [
        f"{name}, {key}" if key else name
        for name, found in after.items()
        for key, one in found.items()
        if before[name].get(key) != one
    ]
    return "; ".join(moved[:5])


def _reconciled(plans: MigrationPlan, settings: Settings) -> int:
    """Hold every partition of every entity against its stage; the number of rows that were compared."""
    compared = 0
    for name in plans.order:
        with Loader(plans, name, settings) as loader:
            stages = {
                key: Stage(settings.stage_root, name, key).manifest() for key in plans[name].scheme.keys
            }
            manifests = {key: manifest for key, manifest in stages.items() if manifest}
            for result in reconcile(loader, settings, manifests):
                compared += result.compared
                if not result.reconciled:
                    raise PermanentError(
                        f"{result.different:,} rows of the target are not as staged",
                        where=f"{name}, {result.partition}",
                        why="; ".join(str(one) for one in result.differences[:3]),
                        next="ferry reconcile names every key",
                    )
    return compared


def _sign(
    plans: MigrationPlan, settings: Settings, terms: Terms, run_id: str, frozen: Fingerprints, done: CutOver
) -> None:
    by_target: dict[str, list[str]] = {}
    for name in plans.order:
        by_target.setdefault(plans[name].declaration.target.connection, []).append(name)
    for target, names in by_target.items():
        with connect(settings.url(target), target, autocommit=True) as connection:
            try:
                for name in sorted(names):
                    # Whoever loads now ends first; whoever comes later finds the record.
                    ledger.lock(connection, name, None, settings.lock_timeout_seconds)
                with connection.transaction():
                    for name in names:
                        done.entities[name] = ledger.totals(connection, name).as_dict()
                        document: dict[str, Any] = {
                            "outcomes": done.entities[name],
                            "rejections": ledger.rejections(connection, name),
                            "source": frozen[name],
                            "passes": [asdict(one) for one in done.passes],
                        }
                        plan_hash = plans[name].plan_hash
                        sign(
                            connection,
                            name,
                            by=terms.by,
                            run_id=run_id,
                            plan_hash=plan_hash,
                            document=document,
                        )
            except psycopg.Error as error:
                raise told(error, target) from None

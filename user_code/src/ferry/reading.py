"""The reading half of the pipeline: a thread that extracts, stages and judges, and hands parts over to be loaded."""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ferry.arrow import first_rows
from ferry.delta import renewed, tells_changes
from ferry.drift import check_source, check_stage, difference
from ferry.errors import FerryError, PermanentError, PromiseBroken, TransientError
from ferry.extract import Extraction, Source, one_ahead, open_source
from ferry.handover import (
    LOADED,
    RAW,
    VALIDATED,
    Begin,
    Channel,
    End,
    Judged,
    Kept,
    PartitionFailed,
    Progress,
    Rows,
    Staged,
)
from ferry.load import Seen
from ferry.plan import EntityPlan, MigrationPlan
from ferry.row_hashes import SourceHashes
from ferry.settings import Settings
from ferry.sources.facts import Facts
from ferry.stage import Manifest, Part, Stage
from ferry.verdict import Judge, PartVerdict, Tally


class StopError(Exception):
    """The caller has gone; there is nobody left to read for."""


@dataclass
class _Work:
    """What the reading thread knows of the partition that it works on."""

    partition: str
    stage: Stage
    tally: Tally = field(default_factory=Tally)
    began: float = field(default_factory=time.monotonic)
    sample: pa.Table | None = None


def read_all(
    plans: MigrationPlan,
    plan: EntityPlan,
    partitions: tuple[str, ...],
    settings: Settings,
    wanted: set[str],
    staged: frozenset[str],
    channel: Channel,
    stopped: threading.Event,
) -> None:
    """The reading thread: extract or read back, judge, hand over. It never raises; it sends what went wrong."""

    def send(item: Any) -> None:
        while not stopped.is_set():
            if channel.put(item):
                return
        raise StopError

    source: Source | None = None
    try:
        judge = Judge(plan)
        for partition in partitions:
            work = _Work(partition, Stage(settings.stage_root, plan.name, partition))
            try:
                send(Begin(partition))
                # What an earlier try of this run staged is not read from the source again.
                if RAW in wanted and partition not in staged:
                    source = source or open_source(plans.migration, plan.name, settings)
                    _extract(plan, work, settings, source, judge, wanted, send)
                else:
                    _read_back(plan, work, judge, wanted, send)
            except FerryError as error:
                if source is not None and error.retryable:
                    source = source.close()
                send(PartitionFailed(partition, error, RAW))
            except (OSError, pa.ArrowException) as error:
                send(PartitionFailed(partition, _storage(error, plan.name, partition), RAW))
    except StopError:
        return
    except Exception as error:
        failure = PermanentError(f"{type(error).__name__}: {error}", where=plan.name)
        failure.__cause__ = error
        for partition in partitions:
            channel.put(PartitionFailed(partition, failure, RAW))
    finally:
        if source is not None:
            source.close()
    if not stopped.is_set():
        send(None)


def _storage(error: BaseException, name: str, partition: str) -> FerryError:
    return TransientError(
        "the staging area cannot be written or read",
        where=f"{name}, {partition}",
        why=str(error),
        next="Check FERRY_STAGE_URI, its space and its owner",
    )


def _extract(
    plan: EntityPlan,
    work: _Work,
    settings: Settings,
    source: Source,
    judge: Judge,
    wanted: set[str],
    send: Callable[[Any], None],
) -> None:
    def arrived(rows: int) -> None:
        send(Progress(plan.name, work.partition, rows, RAW))

    with source.extraction(plan.name, work.partition, plan.scheme, arrived) as reading:
        check_source(plan, reading.schema, work.partition)
        before = _before(plan, work, settings)
        duplicates, earlier = None, work.stage.manifest()
        comparable = earlier is not None and bool(earlier.fingerprint)
        facts = _Later(functools.partial(reading.facts, fingerprint=comparable))
        # Where a key may come again, a row of another partition can make one of this a duplicate.
        if earlier is not None and comparable and not reading.may_repeat_keys:
            kept = work.stage.renew(facts.wait(), reading.schema, reading.taken_at)
            if kept is not None:
                return _keep(plan, work, kept, judge, wanted, send)
        if reading.may_repeat_keys:
            facts.wait()
            duplicates = reading.duplicates()
        if (
            earlier is not None
            and comparable
            and facts.wait().fingerprint != earlier.fingerprint
            and tells_changes(earlier, reading, work.stage, plan.scheme, plan.source_key)
        ):
            manifest = _changed(plan, work, settings, reading, earlier, facts, judge, wanted, send)
        else:
            for part, table, hashes in work.stage.write(
                reading.batches(),
                reading.schema,
                chunk_rows=settings.chunk_rows,
                chunk_bytes=settings.chunk_bytes,
                hashed=plan.source_key if reading.hashed else (),
            ):
                seen = None
                if LOADED in wanted and earlier is not None:
                    seen = _seen(plan, work, earlier, part, table)
                told = SourceHashes(hashes, reading.hashes_way) if hashes is not None else None
                _hand_over(
                    plan, work, work.stage.stage_id, part, table, duplicates, judge, wanted, send, seen,
                    hashes=told,
                )  # fmt: skip
                del table, hashes, told  # or they would be kept until the next ones are read
            manifest = work.stage.seal(facts.wait(), duplicates, reading.taken_at)
    if LOADED not in wanted:
        work.stage.forget_arrived()
    seconds = time.monotonic() - work.began
    drift = difference(before.columns, manifest.columns) if before else ""
    send(Staged(work.partition, manifest, seconds, work.sample, drift))
    if VALIDATED in wanted:
        send(Judged(work.partition, manifest, work.tally, seconds))
    send(End(work.partition, manifest))
    return None


def _changed(
    plan: EntityPlan,
    work: _Work,
    settings: Settings,
    reading: Extraction,
    earlier: Manifest,
    facts: "_Later",
    judge: Judge,
    wanted: set[str],
    send: Callable[[Any], None],
) -> Manifest:
    """Stage a partition by what changed since it was staged; parts and rows that did not go on from there."""
    stage, lost = work.stage, False
    stage.begin(reading.schema, hashed=plan.source_key)
    try:
        for one in one_ahead(renewed(stage, earlier, reading, plan.source_key, settings)):
            lost = lost or one.lost
            if not one.rows.num_rows:
                continue
            part, table, _ = stage.add(one.rows)
            seen = verdict = None
            if one.earlier:
                kept = stage.read_beside(earlier.stage_id, _verdict_file(judge, one.earlier))
                verdict = judge.judge_changed(table, one.was, kept) if kept else None
                if not one.lost and one.earlier.number == part.number:
                    seen = Seen(one.earlier.content_hash, one.same)
            _hand_over(plan, work, stage.stage_id, part, table, None, judge, wanted, send, seen, verdict)
            del one, table  # or they would be kept until the next ones have come
        return stage.seal(facts.wait(), None, reading.taken_at, since="" if lost else earlier.content_hash)
    except PromiseBroken:
        stage.doubt(earlier)
        raise
    except PermanentError as error:
        now = stage.manifest()
        if now is None or now.stage_id == earlier.stage_id:
            raise
        raise TransientError(
            "another run has staged this partition meanwhile", where=stage.where, why=str(error)
        ) from None


def _seen(plan: EntityPlan, work: _Work, earlier: Manifest, part: Part, table: pa.Table) -> Seen | None:
    """Which rows of a part are as they were in the stage before; None where that is no help."""
    if part.number < len(earlier.parts) and earlier.parts[part.number].content_hash == part.content_hash:
        return None
    try:
        found = work.stage.same_rows(earlier, part.number, table, plan.source_key)
    except PermanentError:
        # The earlier part is damaged; this one was just written, and all of it can be loaded.
        return None
    return Seen(*found) if found else None


def _keep(
    plan: EntityPlan,
    work: _Work,
    manifest: Manifest,
    judge: Judge,
    wanted: set[str],
    send: Callable[[Any], None],
) -> None:
    """A partition whose rows are as they were: nothing is read, and what was judged stays judged."""
    work.sample = work.stage.sample(manifest)
    send(Staged(work.partition, manifest, time.monotonic() - work.began, work.sample))
    verdicts = [
        work.stage.read_beside(manifest.stage_id, _verdict_file(judge, part)) for part in manifest.parts
    ]
    if not all(verdicts):
        return _read_back(plan, work, judge, wanted, send)
    if VALIDATED in wanted:
        for body in verdicts:
            work.tally.add(PartVerdict.from_bytes(body or b""))
        send(Judged(work.partition, manifest, work.tally, time.monotonic() - work.began))
    if LOADED in wanted:
        send(Kept(work.partition, manifest))
    send(End(work.partition, manifest))
    return None


def _verdict_file(judge: Judge, part: Part) -> str:
    return f"verdict-{judge.fingerprint()}/{part.file}"


def _before(plan: EntityPlan, work: _Work, settings: Settings) -> Manifest | None:
    """How this partition, or else the one before it, was staged the last time."""
    keys = plan.scheme.keys
    at = keys.index(work.partition)
    found = work.stage.manifest()
    return found or (Stage(settings.stage_root, plan.name, keys[at - 1]).manifest() if at else None)


def _read_back(
    plan: EntityPlan, work: _Work, judge: Judge, wanted: set[str], send: Callable[[Any], None]
) -> None:
    manifest = work.stage.manifest()
    if manifest is None:
        raise PermanentError(
            "nothing is staged",
            where=f"{plan.name}, {work.partition}",
            next=f"Materialize raw_{plan.name} first",
        )
    check_stage(plan, manifest)
    duplicates = work.stage.duplicates(manifest)
    for part in manifest.parts:
        _hand_over(
            plan,
            work,
            manifest.stage_id,
            part,
            work.stage.read(manifest, part),
            duplicates,
            judge,
            wanted,
            send,
        )
    if VALIDATED in wanted:
        send(Judged(work.partition, manifest, work.tally, time.monotonic() - work.began))
    send(End(work.partition, manifest))


def _hand_over(
    plan: EntityPlan,
    work: _Work,
    stage_id: str,
    part: Part,
    table: pa.Table,
    duplicates: pa.Table | None,
    judge: Judge,
    wanted: set[str],
    send: Callable[[Any], None],
    seen: Seen | None = None,
    verdict: PartVerdict | None = None,
    hashes: SourceHashes | None = None,
) -> None:
    if work.sample is None:
        work.sample = first_rows(table, 5)
    if not wanted & {VALIDATED, LOADED}:
        return send(Progress(plan.name, work.partition, part.rows, RAW))
    name = _verdict_file(judge, part)
    kept = work.stage.read_beside(stage_id, name) if VALIDATED not in wanted else None
    verdict = verdict or (judge.recall(kept, table) if kept else judge.judge(table, duplicates))
    if VALIDATED in wanted:
        work.stage.write_beside(stage_id, name, verdict.to_bytes())
    work.tally.add(verdict)
    send(Rows(work.partition, stage_id, part, table, verdict, seen, hashes))
    if LOADED not in wanted:
        send(Progress(plan.name, work.partition, part.rows, VALIDATED))
    return None


class _Later:
    """A call that runs beside the reading and is waited for once."""

    def __init__(self, call: Callable[[], Facts]) -> None:
        self._result: Facts | BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._result = error

    def wait(self) -> Facts:
        self._thread.join()
        if isinstance(self._result, Facts):
            return self._result
        if isinstance(self._result, FerryError):
            raise self._result
        raise TransientError("the source broke off while it was counted", why=str(self._result)) from None

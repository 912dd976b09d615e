"""The way a row takes through all stages, for one entity and a batch of its partitions.

One thread reads, stages and judges; the caller's thread loads. Between them lies a short queue, so that memory holds
a few parts whatever the size of the data. A partition that fails does not stop the others: its error is an event
like any other, and the caller decides what to make of it.
"""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pyarrow as pa

from ferry import constraints, ledger
from ferry.drift import check_source, check_stage, difference
from ferry.errors import FerryError, PermanentError, TransientError
from ferry.extract import Source, open_source
from ferry.ledger import Outcomes
from ferry.load import Loader, Seen, told
from ferry.loaders import Loaders, most_loaders
from ferry.plan import EntityPlan, MigrationPlan
from ferry.reconcile import Reconciliation, compare, digest
from ferry.settings import Settings
from ferry.sources.facts import Facts
from ferry.stage import Manifest, Part, Stage
from ferry.verdict import Judge, PartVerdict, Tally

# Arrow's own allocator keeps what one part needed for the next; the system's gives it back: a tenth less at the peak.
pa.set_memory_pool(pa.system_memory_pool())

RAW, VALIDATED, LOADED = "raw", "validated", "loaded"
STAGES = (RAW, VALIDATED, LOADED)


@dataclass(frozen=True)
class Progress:
    """A part went through: what a progress bar needs to know."""

    entity: str
    partition: str
    rows: int
    stage: str


@dataclass(frozen=True)
class Staged:
    """A partition lies whole in the staging area."""

    partition: str
    manifest: Manifest
    seconds: float
    sample: pa.Table | None = None
    drift: str = ""
    """How its columns differ from those with which it, or the partition before it, was staged the last time."""


@dataclass(frozen=True)
class Judged:
    """The verdict over a partition is complete."""

    partition: str
    manifest: Manifest
    tally: Tally
    seconds: float


@dataclass(frozen=True)
class LoadedPartition:
    """A partition is in the target and its row is in the ledger."""

    partition: str
    manifest: Manifest
    outcomes: Outcomes
    skipped_chunks: int
    rejections: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class PartitionFailed:
    """A partition did not make it; `stage` says how far it came."""

    partition: str
    error: FerryError
    stage: str


Event = Progress | Staged | Judged | LoadedPartition | Reconciliation | PartitionFailed


@dataclass
class _Work:
    """What the reading thread knows of the partition that it works on."""

    partition: str
    stage: Stage
    tally: Tally = field(default_factory=Tally)
    began: float = field(default_factory=time.monotonic)
    sample: pa.Table | None = None


def carry(
    plans: MigrationPlan,
    name: str,
    partitions: tuple[str, ...],
    settings: Settings,
    *,
    run_id: str = "",
    stages: tuple[str, ...] = STAGES,
) -> Iterator[Event]:
    """Take the rows of some partitions of one entity through the stages that are asked for.

    Transient errors are tried again, the partition concerned only, with growing pauses; what is loaded stays loaded.

    Args:
        plans: the whole plan.
        name: the entity.
        partitions: keys of its scheme; each is checked before anything is read.
        settings: chunk sizes, retries, connections.
        run_id: recorded in the ledger.
        stages: a run of later stages alone reads what the earlier ones left in the staging area.

    Yields:
        Events in the order in which things happen; `PartitionFailed` last for each partition that failed.
    """
    plan = plans[name]
    for partition in partitions:
        plan.scheme.window(partition, name)
    todo, wanted = partitions, set(stages)
    staged: set[str] = set()
    for attempt in range(settings.retries + 1):
        failed: list[PartitionFailed] = []
        for event in _carry_once(plans, plan, todo, settings, run_id, wanted, frozenset(staged)):
            if isinstance(event, PartitionFailed):
                failed.append(event)
            else:
                if isinstance(event, Staged):
                    staged.add(event.partition)
                yield event
        retryable = [event for event in failed if event.error.retryable and attempt < settings.retries]
        for event in failed:
            if event not in retryable:
                if event.stage == LOADED and not event.error.retryable:
                    # Somebody has to mend something, in the source perhaps: the next run reads it anew.
                    Stage(settings.stage_root, name, event.partition).forget_arrived()
                yield event
        if not retryable:
            return
        todo = tuple(event.partition for event in retryable)
        time.sleep(_pause(settings, attempt, [event.error for event in retryable]))


def _pause(settings: Settings, attempt: int, errors: list[FerryError]) -> float:
    asked = [e.retry_after for e in errors if isinstance(e, TransientError) and e.retry_after]
    return max([settings.retry_seconds * 2**attempt * random.uniform(0.5, 1.5), *asked])  # noqa: S311 - jitter


def _carry_once(
    plans: MigrationPlan,
    plan: EntityPlan,
    partitions: tuple[str, ...],
    settings: Settings,
    run_id: str,
    wanted: set[str],
    staged: frozenset[str],
) -> Iterator[Event]:
    channel = _Channel(settings.read_ahead)
    stopped = threading.Event()
    reader = threading.Thread(
        target=_read_all,
        args=(plans, plan, partitions, settings, wanted, staged, channel, stopped),
        name=f"read {plan.name}",
        daemon=True,
    )
    reader.start()
    finished: set[str] = set()
    try:
        if LOADED in wanted:
            try:
                with Loader(plans, plan.name, settings, run_id) as loader:
                    for event in _load_all(loader, settings, channel):
                        if isinstance(event, Reconciliation | PartitionFailed):
                            finished.add(event.partition)
                        yield event
            except (FerryError, psycopg.Error) as error:
                for partition in partitions:
                    if partition not in finished:
                        yield PartitionFailed(partition, _worded(error, plan.name, partition), LOADED)
        else:
            while (item := channel.get()) is not None:
                if not isinstance(item, _Rows | _Kept | _Begin | _End):
                    yield item
    finally:
        stopped.set()
        while reader.is_alive():
            _drain(channel)
            reader.join(0.05)


def _worded(error: FerryError | psycopg.Error, name: str, partition: str) -> FerryError:
    return error if isinstance(error, FerryError) else told(error, f"{name}, {partition}")


@dataclass(frozen=True)
class _Begin:
    partition: str


@dataclass(frozen=True)
class _Rows:
    partition: str
    stage_id: str
    part: Part
    table: pa.Table
    verdict: PartVerdict
    seen: Seen | None = None

    def load(self, before: dict[int, dict[str, Any]]) -> "Callable[[Loader], _Chunk]":
        """What a loader has to do with them; `before` is what the ledger says of the partition's chunks."""

        def by(loader: Loader) -> _Chunk:
            outcomes, skipped = loader.load_part(
                self.stage_id, self.partition, self.part, self.table, self.verdict, before, self.seen
            )
            return _Chunk(self.partition, self.part.rows, outcomes, skipped)

        return by


@dataclass(frozen=True)
class _Chunk:
    partition: str
    rows: int
    outcomes: Outcomes
    skipped: bool


@dataclass(frozen=True)
class _Kept:
    """A partition that was not read again, because the source says that nothing changed."""

    partition: str
    manifest: Manifest


@dataclass(frozen=True)
class _End:
    partition: str
    manifest: Manifest


def _read_all(
    plans: MigrationPlan,
    plan: EntityPlan,
    partitions: tuple[str, ...],
    settings: Settings,
    wanted: set[str],
    staged: frozenset[str],
    channel: "_Channel",
    stopped: threading.Event,
) -> None:
    """The reading thread: extract or read back, judge, hand over. It never raises; it sends what went wrong."""

    def send(item: Any) -> None:
        while not stopped.is_set():
            if channel.put(item):
                return
        raise _StopError

    source: Source | None = None
    try:
        judge = Judge(plan)
        for partition in partitions:
            work = _Work(partition, Stage(settings.stage_root, plan.name, partition))
            try:
                send(_Begin(partition))
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
    except _StopError:
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


class _Channel:
    """What the reading thread hands over; only rows take room in memory, so only they wait for a place."""

    def __init__(self, places: int) -> None:
        self._items: queue.Queue[Any] = queue.Queue()
        self._places = threading.Semaphore(places)

    def put(self, item: Any) -> bool:
        """Hand an item over; False if there was no place for its rows within a moment."""
        if isinstance(item, _Rows) and not self._places.acquire(timeout=0.2):
            return False
        self._items.put(item)
        return True

    def get(self, *, wait: bool = True) -> Any:
        """The next item; raises `queue.Empty` if there is none and `wait` is false."""
        item = self._items.get(block=wait)
        if isinstance(item, _Rows):
            self._places.release()
        return item


class _StopError(Exception):
    """The caller has gone; there is nobody left to read for."""


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
        facts = _Later(reading.facts)
        duplicates, earlier = None, work.stage.manifest()
        # Where a key may come again, a row of another partition can make one of this a duplicate.
        if earlier is not None and earlier.fingerprint and not reading.may_repeat_keys:
            kept = work.stage.renew(facts.wait(), reading.schema, reading.taken_at)
            if kept is not None:
                return _keep(plan, work, kept, judge, wanted, send)
        if reading.may_repeat_keys:
            facts.wait()
            duplicates = reading.duplicates()
        for part, table in work.stage.write(
            reading.batches(),
            reading.schema,
            chunk_rows=settings.chunk_rows,
            chunk_bytes=settings.chunk_bytes,
        ):
            seen = None
            if LOADED in wanted and earlier is not None:
                seen = _seen(plan, work, earlier, part, table)
            _hand_over(plan, work, work.stage.stage_id, part, table, duplicates, judge, wanted, send, seen)
        manifest = work.stage.seal(facts.wait(), duplicates, reading.taken_at)
    if LOADED not in wanted:
        work.stage.forget_arrived()
    seconds = time.monotonic() - work.began
    drift = difference(before.columns, manifest.columns) if before else ""
    send(Staged(work.partition, manifest, seconds, work.sample, drift))
    if VALIDATED in wanted:
        send(Judged(work.partition, manifest, work.tally, seconds))
    send(_End(work.partition, manifest))
    return None


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
        send(_Kept(work.partition, manifest))
    send(_End(work.partition, manifest))
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
        table = work.stage.read(manifest, part)
        _hand_over(plan, work, manifest.stage_id, part, table, duplicates, judge, wanted, send)
    if VALIDATED in wanted:
        send(Judged(work.partition, manifest, work.tally, time.monotonic() - work.began))
    send(_End(work.partition, manifest))


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
) -> None:
    if work.sample is None:
        work.sample = table.slice(0, 5)
    if not wanted & {VALIDATED, LOADED}:
        return send(Progress(plan.name, work.partition, part.rows, RAW))
    name = _verdict_file(judge, part)
    kept = work.stage.read_beside(stage_id, name) if VALIDATED not in wanted else None
    verdict = judge.recall(kept, table) if kept else judge.judge(table, duplicates)
    if VALIDATED in wanted:
        work.stage.write_beside(stage_id, name, verdict.to_bytes())
    work.tally.add(verdict)
    send(_Rows(work.partition, stage_id, part, table, verdict, seen))
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


def _load_all(loader: Loader, settings: Settings, channel: "_Channel") -> Iterator[Event]:
    """Load what the reading thread hands over, then hold every partition that was loaded against its stage."""
    plan, most = loader.plan, most_loaders(loader.plan, settings.loaders)
    done: dict[str, Manifest] = {}
    broken: set[str] = set()
    outcomes, skipped, began = Outcomes(), 0, time.monotonic()
    before: dict[int, dict[str, Any]] = {}

    def another() -> Loader:
        return Loader(loader.plans, plan.name, settings, loader.run_id)

    def counted(ended: list[_Chunk]) -> Iterator[Event]:
        nonlocal skipped
        for chunk in ended:
            outcomes.add(chunk.outcomes)
            skipped += chunk.skipped
            yield Progress(plan.name, chunk.partition, chunk.rows, LOADED)

    with Loaders[_Chunk](loader, another, most) as side_by_side:
        while (item := channel.get()) is not None:
            try:
                if not isinstance(item, _Rows | _Kept):
                    yield from counted(side_by_side.finish())
                if isinstance(item, PartitionFailed):
                    broken.add(item.partition)
                    yield item
                    continue
                if item.partition in broken:
                    continue
                match item:
                    case _Begin(partition):
                        outcomes, skipped, began = Outcomes(), 0, time.monotonic()
                        before = loader.begin(partition)
                        if plan.declaration.target.constraints == "at_end" and (plan.ahead or not before):
                            constraints.set_aside(loader.connection, plan)
                    case _Rows():
                        yield from counted(side_by_side.start(item.load(before)))
                    case _Kept(partition, manifest):
                        stage = Stage(settings.stage_root, plan.name, partition)
                        for chunk in _kept(loader, stage, manifest, before):
                            if isinstance(chunk, _Chunk):
                                yield from counted([chunk])
                            else:
                                yield from counted(side_by_side.start(chunk.load(before)))
                        yield from counted(side_by_side.finish())
                    case _End(partition, manifest):
                        loader.finish(manifest, partition)
                        outcomes.check(f"{plan.name}, {partition}")
                        Stage(settings.stage_root, plan.name, partition).forget_arrived()
                        done[partition] = manifest
                        rejections = ledger.rejections(loader.connection, plan.name, (partition,))
                        seconds = time.monotonic() - began
                        yield LoadedPartition(partition, manifest, outcomes, skipped, rejections, seconds)
                    case _:
                        yield item
            except (FerryError, psycopg.Error) as error:
                broken.add(item.partition)
                yield PartitionFailed(item.partition, _worded(error, plan.name, item.partition), LOADED)
                if loader.connection.closed or loader.connection.broken:
                    raise
    loader.unlock()
    yield from reconcile(loader, settings, done)


def _kept(
    loader: Loader, stage: Stage, manifest: Manifest, before: dict[int, dict[str, Any]]
) -> "Iterator[_Chunk | _Rows]":
    """The parts of a stage that was kept: done by the ledger, or read back because they were not loaded yet."""
    judge = None
    for part in manifest.parts:
        again = loader.loaded_before(part, before)
        if again is not None:
            yield _Chunk(stage.partition, part.rows, again, True)
            continue
        judge = judge or Judge(loader.plan)
        table = stage.read(manifest, part)
        verdict = judge.judge(table, stage.duplicates(manifest))
        yield _Rows(stage.partition, manifest.stage_id, part, table, verdict)


def reconcile(loader: Loader, settings: Settings, manifests: dict[str, Manifest]) -> Iterator[Reconciliation]:
    """The second hop for some partitions: the digest first, row by row where it cannot tell or does not agree."""
    found = digest(loader, manifests) or {}
    judge: Judge | None = None
    for partition, manifest in manifests.items():
        result = found.get(partition)
        if result is None or not result.reconciled:
            judge = judge or Judge(loader.plan)
            stage = Stage(settings.stage_root, loader.plan.name, partition)
            detailed = compare(loader, stage, manifest, judge)
            if result is not None and detailed.reconciled and not result.reconciled:
                # The target was altered in rows that the stage no longer has: the digest's count stands.
                detailed.different = result.different
            result = detailed
        yield result


def _drain(channel: "_Channel") -> None:
    try:
        while True:
            channel.get(wait=False)
    except queue.Empty:
        return

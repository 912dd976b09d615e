"""One trial: a job is started on a fresh target, killed, done again, and judged."""

import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from chaos.judgement import Judgement, Pairs, judge, leftovers, pairs
from chaos.worker import AFTER, BEFORE, INSIDE, Job, Moment, work
from migrating import DECLARATIONS
from oracle import Oracle
from shop.demo.databases import create_database, drop_database, make_databases
from shop.demo.generator import Generator
from shop.demo.server import EmbeddedServer

SCALE = 0.0003
BEFORE_URL, LEGACY = "new_shop", "legacy"
ENTITIES = ("customers", "products", "employees", "orders", "order_lines")
PATIENCE = 240


@dataclass(frozen=True)
class Scenario:
    """From a template of the target, and a copy of its stage, these steps are done, killed and done again."""

    name: str
    template: str
    steps: tuple[tuple[str, ...], ...]
    then: tuple[tuple[str, ...], ...] = (("settle",),)
    weight: int = 1


LOAD = tuple(("load", name) for name in ENTITIES)
# What made each template of a target of what was there before the migration.
STEPS = {
    "migrated": (*LOAD, ("settle",)),
    "waiting": tuple(reversed(LOAD)),
    "strict": (*LOAD, ("settle",)),
}
# The load is what is killed most in real life.
SCENARIOS = (
    Scenario("load", BEFORE_URL, (*LOAD, ("settle",)), weight=5),
    Scenario("load, children first", BEFORE_URL, (*reversed(LOAD), ("settle",)), weight=3),
    Scenario("load again", "migrated", (*LOAD, ("settle",))),
    Scenario("settle", "waiting", (("settle",),), weight=2),
    Scenario("replay", "strict", (("replay",), ("settle",)), weight=2),
    Scenario("rollback", "migrated", (("rollback",),), (*LOAD, ("settle",)), weight=2),
    Scenario(
        "rollback of children", "migrated", (("rollback", "orders", "order_lines"),), (*LOAD[3:], ("settle",))
    ),
)


@dataclass
class Told:
    """What happened in a trial, for the reader of a failure."""

    scenario: str
    victim: str
    moment: str
    killed: bool
    judgement: Judgement
    # Where a process was when it was killed, or when its database was: `before commit`, `inside copy`, `at any time`.
    places: tuple[str, ...] = ()


@dataclass
class Arena:
    """A server of its own with the shop, what plain SQL expects of it, and templates of targets half-way."""

    home: Path
    server: EmbeddedServer
    oracle: Oracle
    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def scenarios(self) -> list[Scenario]:
        """Those that were tried without a kill, from which trials are drawn."""
        return [scenario for scenario in SCENARIOS if scenario.name in self.calls]

    def trial(self, seed: int) -> Told:
        """One trial; the same seed draws the same scenario, victim and moment."""
        drawn = random.Random(seed)
        scenario = drawn.choices(self.scenarios, [scenario.weight for scenario in self.scenarios])[0]
        with self.target(scenario.template) as job:
            job = replace(job, steps=scenario.steps)
            earlier = pairs(job.target_url)
            places, told = [], []
            for _ in range(drawn.choice((1, 1, 2))):
                victim = drawn.choices(("process", "server"), (3, 1))[0]
                moment, delay = self._draw(drawn, scenario)
                told.append(
                    (victim, f"{moment.when} {moment.place} {moment.nth}" if moment else f"{delay:.2f} s")
                )
                # A run that the database left goes on by itself in some trials, in others somebody starts it again.
                retries = drawn.choice((0, 5)) if victim == "server" else 0
                if self.strike(replace(job, retries=retries), victim, moment, delay, drawn):
                    places.append(f"{moment.when} {moment.place}" if moment else "at any time")
                earlier = _merge(earlier, pairs(job.target_url))
            said = self._finish(scenario, job)
            judgement = judge(self.oracle, job.target_url, earlier)
            judgement.said += said
            judgement.duplicated += len(said)
        victims, moments = zip(*told, strict=True)
        return Told(
            scenario.name, ", ".join(victims), ", ".join(moments), bool(places), judgement, tuple(places)
        )

    def uninterrupted(self, scenario: Scenario) -> Judgement:
        """The same without a kill; counts the calls of each place and the time, from which moments are drawn."""
        with self.target(scenario.template) as job:
            began = time.monotonic()
            process, pipe = self._start(replace(job, steps=scenario.steps), None)
            self.calls[scenario.name] = _until_the_end(process, pipe)
            self.seconds[scenario.name] = time.monotonic() - began
            earlier = pairs(job.target_url)
            self._finish(scenario, replace(job, steps=scenario.steps))
            return judge(self.oracle, job.target_url, earlier)

    def _draw(self, drawn: random.Random, scenario: Scenario) -> tuple[Moment | None, float]:
        seconds = drawn.uniform(0, self.seconds[scenario.name])
        if drawn.random() < 0.2:
            return None, seconds
        places = sorted(place for place, n in self.calls[scenario.name].items() if n)
        # What only this scenario does has few calls among many; every third kill goes there.
        own = [place for place in places if scenario.name.startswith(place.partition(":")[0])]
        place = drawn.choice(own if own and drawn.random() < 0.33 else places)
        nth = drawn.randint(1, self.calls[scenario.name][place])
        return Moment(place, drawn.choice((BEFORE, INSIDE, AFTER)), nth), drawn.uniform(0, 0.02)

    def strike(
        self, job: Job, victim: str, moment: Moment | None, delay: float, drawn: random.Random
    ) -> bool:
        """Start a job and end its process or the server at the moment; whether there was anything left to end."""
        process, pipe = self._start(job, moment)
        if moment is not None and (not pipe.poll(PATIENCE) or not _came(pipe)):
            process.join(PATIENCE)
            return False
        if moment is None or moment.when == INSIDE:
            process.join(delay)
        alive = process.is_alive()
        if victim == "process":
            process.kill()
            process.join()
        else:
            self._kill_server(everything=drawn.random() < 0.5)
            if moment is not None and moment.when != INSIDE and alive:
                pipe.send("go on")
            self.server.start()
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                raise AssertionError(f"the process hangs after the server went ({job.steps}, {moment})")
        return alive

    def _kill_server(self, everything: bool) -> None:
        """SIGKILL the server, alone or with all its processes at once."""
        pid = self.server.pid()
        assert pid is not None
        postmaster = psutil.Process(pid)
        victims = [postmaster, *(postmaster.children() if everything else [])]
        for process in victims:
            process.kill()
        psutil.wait_procs(victims, 30)

    def _finish(self, scenario: Scenario, job: Job) -> list[str]:
        """Do the whole job again, and what follows it; returns what is wrong in between."""
        if scenario.name != "rollback":
            self.whole(replace(job, steps=(*job.steps, *scenario.then)))
            return []
        self.whole(job)
        said = leftovers(job.target_url, self.server.url(BEFORE_URL))
        self.whole(replace(job, steps=scenario.then))
        return said

    def whole(self, job: Job) -> None:
        """Do a job that nobody disturbs."""
        process, pipe = self._start(job, None)
        _until_the_end(process, pipe)

    def _start(
        self, job: Job, moment: Moment | None
    ) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["chaos.worker"])
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(job, moment, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, mine

    @contextmanager
    def target(self, template: str) -> Iterator[Job]:
        """A job on a copy of a template and of its stage; both are removed afterwards."""
        create_database(self.server, "trial", template)
        stage = Path(tempfile.mkdtemp(prefix="stage-", dir=self.home))
        if (self.home / f"stage of {template}").exists():
            shutil.copytree(self.home / f"stage of {template}", stage, dirs_exist_ok=True)
        yield Job(self.server.url(LEGACY), self.server.url("trial"), self.home / "defs", stage, ())
        shutil.rmtree(stage)
        drop_database(self.server, "trial")

    def prepare(self, template: str) -> None:
        """Make a template of a target and of its stage, unless it is there."""
        stage = self.home / f"stage of {template}"
        if template in STEPS and not stage.exists():
            create_database(self.server, template, BEFORE_URL)
            defs = self.home / ("strict" if template == "strict" else "defs")
            self.whole(Job(self.server.url(LEGACY), self.server.url(template), defs, stage, STEPS[template]))


@contextmanager
def arena(home: Path, *names: str) -> Iterator[Arena]:
    """Start a server in `home` with everything that trials need, and remove it at the end.

    Args:
        home: an empty folder.
        names: the scenarios that will be drawn; all if none is named.
    """
    server = EmbeddedServer(home / "server").start()
    try:
        with Generator(home / "rows", SCALE) as rows:
            make_databases(server, rows, SCALE, LEGACY, BEFORE_URL)
        create_database(server, "oracle")
        oracle = Oracle(server.url(LEGACY), server.url(BEFORE_URL), server.url("oracle"))
        made = Arena(home, server, oracle)
        _declarations(home / "defs", "")
        _declarations(home / "strict", "Order")
        for scenario in SCENARIOS:
            if not names or scenario.name in names:
                made.prepare(scenario.template)
                found = made.uninterrupted(scenario)
                assert found.clean, (scenario.name, found.said)
        yield made
    finally:
        server.remove()


def _declarations(folder: Path, strict: str) -> None:
    """The shop's declarations with orders in three partitions; a strict one refuses most rows of each."""
    for path in sorted(DECLARATIONS.glob("*/*")):
        if path.is_file():
            text = (
                path.read_text().replace("every: month", "every: year").replace("1992-01-01,", "1996-01-01,")
            )
            if strict:
                text = text.replace('Literal["O", "F", "P"]', 'Literal["O"]').replace("le=50", "le=20")
                text = text.replace(
                    "name: Annotated[str, Field(min_length=1, max",
                    "name: Annotated[str, Field(min_length=17, max",
                )
            copy = folder / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)


def _came(pipe: Connection) -> bool:
    """Whether the moment came, rather than the end of the job or of the process."""
    try:
        return pipe.recv()[0] == "now"
    except EOFError:
        return False


def _until_the_end(process: multiprocessing.process.BaseProcess, pipe: Connection) -> dict[str, int]:
    """Wait for a job that nobody disturbs; returns the calls that it counted."""
    said, counts = pipe.recv() if pipe.poll(PATIENCE) else ("nothing", {})
    process.join(PATIENCE)
    if process.exitcode != 0 or said != "end":
        raise AssertionError(f"a job that nobody disturbed ended with {process.exitcode}: see above")
    return counts


def _merge(one: Pairs, two: Pairs) -> Pairs:
    """Pairs that were seen at any time; the first one counts."""
    return {name: {**two.get(name, {}), **one.get(name, {})} for name in {*one, *two}}

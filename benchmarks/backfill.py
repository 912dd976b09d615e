"""Fifty partitions and one small run through containers: Ferry's platform beside the layout of the official example.

    make bench-backfill [ROUNDS=3]

The layouts are started on this machine one after the other, from the same images, and are asked over GraphQL what the
UI asks when somebody clicks: `layouts/official.yaml` is the example's layout, `docker-compose.yml` Ferry's as it is
shipped. A backfill takes from the click to the materialization of its last partition, a run from the click to its
success, by the clock of this machine; where a run's time goes is read off its events and its container. Medians go to
`out/bench/backfill_50.json`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from asking import Dagster, free_port, wait_for
from stack import ROOT, Stack, command

DAYS = [str(date(2024, 1, 1) + timedelta(days=day)) for day in range(50)]
MONTHS = [f"{1992 + month // 12}-{month % 12 + 1:02}" for month in range(50)]
ORDERS = ("raw_orders", "validated_orders", "loaded_orders")
STAGES = {
    "submit": "webserver and code server make the run and put it into the queue",
    "queue": "the daemon finds it there",
    "create": "the launcher asks Docker for a container",
    "start": "Docker starts it",
    "import": "Python starts, imports Dagster and opens its storage",
    "load": "the code location is imported and makes its definitions",
    "prepare": "until the first step begins",
    "steps": "the steps, with their events",
    "success": "until the run is a success",
}
"""What a small run goes through between click and success, in order."""


class Ferry(Stack):
    """Ferry's platform with the demo's shops; the trivial asset is a location of its own."""

    overlay, second = "benchmarks/layouts/ferry.yaml", "trivial"


class Official(Dagster):
    """The layout of Dagster's example."""

    def __init__(self, project: str, tag: str) -> None:
        """Args: a name for the Compose project, and the tag of Ferry's images."""
        port = free_port()
        self.project, self.url = project, f"http://127.0.0.1:{port}"
        self._settings = [f"FERRY_PROJECT={project}", f"FERRY_TAG={tag}", f"FERRY_PORT={port}"]

    def compose(self, *words: str, check: bool = True) -> str:
        """`docker compose …` for this project."""
        files = ("-f", "benchmarks/layouts/official.yaml", "--project-directory", str(ROOT))
        return command("env", *self._settings, "docker", "compose", *files, *words, check=check)

    def start(self) -> None:
        """Start all services; returns when the webserver answers."""
        self.compose("build", "--quiet")
        self.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "300")

    def stop(self) -> None:
        """Remove the services, the containers of runs and the network."""
        services = set(self.compose("ps", "-aq", "--no-trunc", check=False).split())
        listed = command("docker", "ps", "-aq", "--no-trunc", "--filter", f"network={self.project}_network")
        for container in set(listed.split()) - services:
            command("docker", "rm", "-f", container, check=False)
        self.compose("down", "--volumes", "--timeout", "5", check=False)


def main() -> None:
    """Measure both layouts, print each round, and write the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of Ferry's platform")
    parser.add_argument("--official-rounds", type=int, default=1)
    options = parser.parse_args()
    tag = command(str(ROOT / "deploy/tag.sh")).strip()
    busy = [os.getloadavg()[0]]
    raw: dict[str, list[Any]] = {}

    with tempfile.TemporaryDirectory() as folder:
        ferry = Ferry("ferrybench", tag, f"{folder}/ferry")
        try:
            ferry.start()
            small_run(ferry, ["trivial"], DAYS[0], "trivial")  # what is read from disk for the first time
            for _ in range(options.rounds):
                note(raw, "ferry", backfill(ferry, ["trivial"], DAYS))
                note(raw, "ferry, orders", backfill(ferry, ORDERS, MONTHS))
                note(raw, "ferry, one run", small_run(ferry, ["trivial"], DAYS[0], "trivial"))
                note(raw, "ferry, one month of orders", small_run(ferry, ORDERS, MONTHS[-1], "ferry"))
        finally:
            ferry.stop()
    busy.append(os.getloadavg()[0])
    official = Official("ferrybench-official", tag)
    try:
        official.start()
        small_run(official, ["trivial"], DAYS[0], "trivial")
        for _ in range(options.official_rounds):
            note(raw, "official", backfill(official, ["trivial"], DAYS))
            note(raw, "official, one run", small_run(official, ["trivial"], DAYS[0], "trivial"))
            note(raw, "official, batched", backfill(official, ["trivial_batched"], DAYS))
    finally:
        official.stop()
    busy.append(os.getloadavg()[0])
    write(raw, busy)


def note(raw: dict[str, list[Any]], what: str, found: Any) -> None:
    """Keep one measurement and show it."""
    raw.setdefault(what, []).append(found)
    print(f"  {what:<28} {found}", flush=True)


def backfill(dagster: Dagster, assets: Sequence[str], partitions: Sequence[str]) -> float:
    """Seconds from the click that launches the backfill to the last materialization of the last asset."""
    began = time.time()
    launched = dagster.backfill(*assets, partitions=partitions)

    def last() -> float | None:
        said = dagster.graphql(
            """query($key: AssetKeyInput!, $partitions: [String!]!, $backfill: String!) {
                 assetNodeOrError(assetKey: $key) { ... on AssetNode {
                   latestMaterializationByPartition(partitions: $partitions) { timestamp } } }
                 partitionBackfillOrError(backfillId: $backfill) { ... on PartitionBackfill { status
                   error { message } } } }""",
            key={"path": [assets[-1]]},
            partitions=list(partitions),
            backfill=launched,
        )
        state = said["partitionBackfillOrError"]
        assert state["status"] in ("REQUESTED", "COMPLETED", "COMPLETED_SUCCESS"), state
        found = [
            float(each["timestamp"]) / 1000
            for each in said["assetNodeOrError"]["latestMaterializationByPartition"]
            if each is not None
        ]
        return max(found) if len(found) == len(partitions) and min(found) > began else None

    return round(wait_for("all partitions are materialized", last, 1200, pause=1) - began, 2)


def small_run(dagster: Dagster, assets: Sequence[str], partition: str, location: str) -> dict[str, float]:
    """Seconds of a run of one partition: `seconds` from click to success, and those of each of `STAGES`."""
    clicked = time.time()
    run_id = dagster.launch_partition(partition, *assets, location=location)
    dagster.succeeded(run_id)
    said = dagster.graphql(
        """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
             ... on MessageEvent { eventType message timestamp } } } } }""",
        id=run_id,
    )["logsForRun"]["events"]

    def at(kind: str, message: str = "") -> float:
        return next(
            float(each["timestamp"]) / 1000
            for each in said
            if each and each["eventType"] == kind and message in each["message"]
        )

    listed = command("docker", "ps", "-aq", "--filter", f"label=dagster/run_id={run_id}").split()
    started = command("docker", "inspect", "-f", "{{.State.StartedAt}}", *listed).strip()
    ends = [
        at("RUN_ENQUEUED"),
        at("RUN_STARTING"),
        at("ENGINE_EVENT", "Launching run in a new container"),
        datetime.fromisoformat(started[:26].rstrip("Z") + "+00:00").timestamp(),
        at("ENGINE_EVENT", "Started process for run"),
        at("RUN_START"),
        at("STEP_START"),
        max(float(each["timestamp"]) / 1000 for each in said if each and each["eventType"] == "STEP_SUCCESS"),
        at("RUN_SUCCESS"),
    ]
    spent = [end - begin for begin, end in zip([clicked, *ends], ends, strict=False)]
    return {
        "seconds": round(ends[-1] - clicked, 2),
        **{stage: round(seconds, 2) for stage, seconds in zip(STAGES, spent, strict=True)},
    }


def write(raw: dict[str, list[Any]], busy: list[float]) -> None:
    """The medians into `out/bench/backfill_50.json`."""
    median = {name: statistics.median(rounds) for name, rounds in raw.items() if "one" not in name}
    stages = {
        name: {stage: round(statistics.median(one[stage] for one in rounds), 2) for stage in rounds[0]}
        for name, rounds in raw.items()
        if "one" in name
    }
    result = {
        "ferry_s": median["ferry"],
        "official_s": median["official"],
        "ratio": round(median["ferry"] / median["official"], 3),
        "orders_s": median["ferry, orders"],
        "official_batched_s": median["official, batched"],
        "small_run_s": stages["ferry, one month of orders"]["seconds"],
        "stages": stages,
        "what": STAGES,
        "load_average": [round(each, 1) for each in busy],
        "cores": os.cpu_count(),
        "raw": raw,
    }
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "backfill_50.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({name: found for name, found in result.items() if name != "raw"}, indent=1))


if __name__ == "__main__":
    main()

"""A running Dagster, asked as the UI asks it: through GraphQL."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}
Answer = TypeVar("Answer")


def wait_for(what: str, probe: Callable[[], Answer | None], seconds: float, pause: float = 0.5) -> Answer:
    """The first true answer of `probe`, asked again after each `pause` until then; past `seconds` the test fails."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; last answer: {answer!r}")
        time.sleep(pause)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Dagster:
    """One webserver, at `url`."""

    url: str

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer; errors of the query fail the test."""
        request = urllib.request.Request(  # noqa: S310 - the stack's own address
            f"{self.url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                said = json.load(answer)
        except urllib.error.HTTPError as refusal:
            raise AssertionError(refusal.read().decode()) from None
        assert "errors" not in said, said["errors"]
        return said["data"]

    def launch(
        self,
        *assets: str | Sequence[str],
        location: str = "faults",
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Launch one run that materializes the assets; returns its id."""
        paths = [{"path": [name] if isinstance(name, str) else list(name)} for name in assets]
        query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } }
                 ... on PythonError { message } ... on InvalidSubsetError { message }
                 ... on RunConfigValidationInvalid { errors { message } } } }"""
        params = {
            "selector": {
                "repositoryLocationName": location,
                "repositoryName": "__repository__",
                "jobName": "__ASSET_JOB",
                "assetSelection": paths,
            },
            "runConfigData": dict(config or {}),
            "executionMetadata": {
                "tags": [{"key": key, "value": text} for key, text in (tags or {}).items()]
            },
        }
        said = self.graphql(query, params=params)["launchRun"]
        until = time.monotonic() + 30
        # Whatever goes wrong when the code server is asked, Dagster words so; on a busy machine that passes.
        while said["__typename"] == "InvalidSubsetError" and time.monotonic() < until:
            said = self.graphql(query, params=params)["launchRun"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return said["run"]["runId"]

    def launch_job(self, job: str, location: str) -> str:
        """Launch one run of a job without assets; returns its id."""
        said = self.graphql(
            """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={
                "selector": {
                    "repositoryLocationName": location,
                    "repositoryName": "__repository__",
                    "jobName": job,
                },
            },
        )["launchRun"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return said["run"]["runId"]

    def backfill(self, *assets: str, partitions: Sequence[str] | None = None) -> str:
        """Launch a backfill of the assets over some partitions, or all of them; returns its id."""
        chosen = {"allPartitions": True} if partitions is None else {"partitionNames": list(partitions)}
        said = self.graphql(
            """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"assetSelection": [{"path": [name]} for name in assets], **chosen},
        )["launchPartitionBackfill"]
        assert said["__typename"] == "LaunchBackfillSuccess", said
        return said["backfillId"]

    def cancel_backfill(self, backfill: str) -> None:
        """Ask that a backfill and its runs be cancelled."""
        said = self.graphql(
            """mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) {
                 __typename ... on PythonError { message } } }""",
            id=backfill,
        )["cancelPartitionBackfill"]
        assert said["__typename"] == "CancelBackfillSuccess", said

    def backfill_again(self, backfill: str) -> str:
        """Launch a backfill of what another one did not make; returns its id."""
        said = self.graphql(
            """mutation($params: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $params) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"parentRunId": backfill, "strategy": "FROM_FAILURE"},
        )["reexecutePartitionBackfill"]
        assert said["__typename"] == "LaunchBackfillSuccess", said
        return said["backfillId"]

    def backfill_ends(self, backfill: str, seconds: float = 240) -> str:
        """How a backfill ended, once it has."""

        def ended() -> str | None:
            said = self.graphql(
                """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
                     ... on PartitionBackfill { status } ... on PythonError { message } } }""",
                id=backfill,
            )["partitionBackfillOrError"]
            return said["status"] if said["status"] not in ("REQUESTED", "CANCELING", "FAILING") else None

        return wait_for(f"backfill {backfill} ends", ended, seconds)

    def unmade_partitions(self, asset: str) -> dict[str, set[str]]:
        """The partitions of an asset that is cut by time which the UI shows as `failed` and as `missing`."""
        said = self.graphql(
            """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionKeys
                 assetPartitionStatuses { ... on TimePartitionStatuses { ranges { startKey endKey status } } } } } }""",
            key={"path": [asset]},
        )["assetNodeOrError"]
        keys, ends = said["partitionKeys"], {"failed": set[str](), "missing": set(said["partitionKeys"])}
        for one in said["assetPartitionStatuses"]["ranges"]:
            some = keys[keys.index(one["startKey"]) : keys.index(one["endKey"]) + 1]
            ends["missing"] -= set(some)
            if one["status"] == "FAILED":
                ends["failed"] |= set(some)
        return ends

    def launch_partition(self, partition: str, *assets: str, location: str) -> str:
        """Launch one run that materializes a partition of the assets; returns its id."""
        return self.launch(*assets, location=location, tags={"dagster/partition": partition})

    def execute_again(self, run_id: str, strategy: str = "FROM_FAILURE") -> str:
        """Launch what a failed run did not do, or all of it (`ALL_STEPS`); returns the new run's id."""
        said = self.graphql(
            """mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={"parentRunId": run_id, "strategy": strategy},
        )["launchRunReexecution"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return said["run"]["runId"]

    def steps(self, run_id: str) -> dict[str, str]:
        """Step → how it ended in this run; steps that did not run are not there."""
        said = self.graphql(
            "query($id: ID!) { runOrError(runId: $id) { ... on Run { stepStats { stepKey status } } } }",
            id=run_id,
        )["runOrError"]["stepStats"]
        return {each["stepKey"]: each["status"] for each in said}

    def runs_with_tag(self, key: str, value: str) -> list[str]:
        """Ids of the runs that carry a tag, the newest first."""
        said = self.graphql(
            """query($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results { runId } } } }""",
            filter={"tags": [{"key": key, "value": value}]},
        )
        return [each["runId"] for each in said["runsOrError"]["results"]]

    def start_sensor(self, name: str) -> None:
        """Switch a sensor of the shop on."""
        said = self.graphql(
            "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
            s={"repositoryLocationName": "ferry", "repositoryName": "__repository__", "sensorName": name},
        )
        assert said["startSensor"]["__typename"] == "Sensor", said

    def stop_sensor(self, name: str) -> None:
        """Switch a sensor of the shop off."""
        self.graphql(
            "mutation($id: String!) { stopSensor(id: $id) { __typename } }",
            id=self._instigator("sensor", name),
        )

    def stop_schedule(self, name: str) -> None:
        """Switch a schedule of the shop off."""
        self.graphql(
            "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }",
            id=self._instigator("schedule", name),
        )

    def _instigator(self, kind: str, name: str) -> str:
        said = self.graphql(
            f"query($s: {kind.capitalize()}Selector!) {{ {kind}OrError({kind}Selector: $s) {{"
            f" ... on {kind.capitalize()} {{ id }} }} }}",
            s={"repositoryLocationName": "ferry", "repositoryName": "__repository__", f"{kind}Name": name},
        )
        return said[f"{kind}OrError"]["id"]

    def run(self, run_id: str) -> dict[str, Any]:
        """Status, tags and times of a run."""
        said = self.graphql(
            """query($id: ID!) { runOrError(runId: $id) { ... on Run {
                 runId status startTime endTime updateTime parentRunId tags { key value } } } }""",
            id=run_id,
        )["runOrError"]
        said["tags"] = {tag["key"]: tag["value"] for tag in said["tags"]}
        return said

    def finished(self, run_id: str, seconds: float = 120) -> dict[str, Any]:
        """The run, when it has ended one way or another."""

        def ended() -> dict[str, Any] | None:
            found = self.run(run_id)
            return found if found["status"] in FINISHED else None

        return wait_for(f"run {run_id} ends", ended, seconds)

    def succeeded(self, run_id: str, seconds: float = 120) -> dict[str, Any]:
        """The run, when it has succeeded; any other end fails the test with the run's messages."""
        found = self.finished(run_id, seconds)
        assert found["status"] == "SUCCESS", "\n".join(self.messages(run_id)[-15:])
        return found

    def reaches(self, run_id: str, status: str, seconds: float = 60) -> None:
        """Wait until the run has this status."""
        wait_for(f"run {run_id} is {status}", lambda: self.run(run_id)["status"] == status, seconds)

    def messages(self, run_id: str) -> list[str]:
        """What the run's event log says, one entry an event, errors included."""
        said = self.graphql(
            """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
                 ... on MessageEvent { message }
                 ... on EngineEvent { error { message causes: errorChain { error { message } } } }
                 ... on RunFailureEvent { error { message causes: errorChain { error { message } } } }
                 ... on ExecutionStepFailureEvent { error { message causes: errorChain { error { message } } } }
               } } } }""",
            id=run_id,
        )["logsForRun"]["events"]
        found = []
        for event in said:
            error = event.get("error") or {}
            causes = [each["error"]["message"] for each in error.get("causes", [])]
            found.append("\n".join(filter(None, [event.get("message"), error.get("message"), *causes])))
        return found

    def retry_of(self, run_id: str, seconds: float = 60) -> str:
        """The id of the run that Dagster started as an automatic retry of this one."""
        return wait_for(
            f"run {run_id} is retried",
            lambda: self.run(run_id)["tags"].get("dagster/auto_retry_run_id"),
            seconds,
        )

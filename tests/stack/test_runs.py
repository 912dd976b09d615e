"""Every run in a container of its own: its memory, what it cannot reach, and what is left of it."""

import time

import pytest

from stack import Stack, command, wait_for

MIB = 1024**2


def limit_of(stack: Stack, run_id: str) -> int:
    """The memory limit of the run's container; swap must be none."""
    settings = stack.container_of_run(run_id)["HostConfig"]
    assert settings["MemorySwap"] == settings["Memory"]
    return settings["Memory"]


def the_message(stack: Stack, run_id: str, part: str) -> str:
    """The one message of the run's event log that has this part."""
    (found,) = [each for each in stack.messages(run_id) if part in each]
    return found


def test_a_run_gets_the_memory_that_its_entities_declare(stack: Stack) -> None:
    """The limit stands on the container: declared on an op, the largest of several, overridden by a tag, capped."""
    little = {"ops": {"hungry": {"config": {"mebibytes": 10}}}}
    wanted = {
        stack.launch("plain"): 1024,
        stack.launch("modest"): 320,
        stack.launch("modest", "hungry", config=little): 320,
        stack.launch("hungry", "plain", tags={"ferry/memory": "400Mi"}, config=little): 400,
        stack.launch("plain", tags={"ferry/memory": "100Gi"}): 2048,
    }
    for run_id in wanted:
        stack.succeeded(run_id)
    assert {run_id: limit_of(stack, run_id) // MIB for run_id in wanted} == wanted


def test_a_run_that_needs_too_much_says_so_and_is_retried_once_with_more(stack: Stack) -> None:
    """192 MiB are declared, 150 MiB of data beside Python do not fit; the retry with 384 MiB succeeds.

    The kill is reported within 30 seconds, with the limit; meanwhile another run, Postgres and the UI go on.
    """
    bystander = stack.launch("plain")
    services = {
        name: stack.service(name)["State"]["StartedAt"]
        for name in ("postgres", "webserver", "daemon", "user-code")
    }
    run_id = stack.launch("hungry", config={"ops": {"hungry": {"config": {"mebibytes": 150}}}})
    failed = stack.finished(run_id)
    assert failed["status"] == "FAILURE"

    state = stack.container_of_run(run_id)["State"]
    assert state["OOMKilled"]
    killed = time.mktime(time.strptime(state["FinishedAt"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert failed["endTime"] - killed < 30
    message = the_message(stack, run_id, "out of memory")
    assert "out of memory, limit 192 MiB" in message
    assert "Retried once, with 384 MiB" in message

    retry = stack.retry_of(run_id)
    stack.succeeded(retry)
    assert limit_of(stack, retry) == 384 * MIB
    stack.succeeded(bystander)
    assert services == {name: stack.service(name)["State"]["StartedAt"] for name in services}


def test_a_retry_that_is_killed_for_memory_too_is_the_last(stack: Stack) -> None:
    """One retry with more, not two: the next word is with whoever declared the limit."""
    run_id = stack.launch("hungry", config={"ops": {"hungry": {"config": {"mebibytes": 900}}}})
    stack.finished(run_id)
    retry = stack.retry_of(run_id)
    assert stack.finished(retry)["status"] == "FAILURE"
    message = the_message(stack, retry, "out of memory")
    assert "out of memory, limit 384 MiB" in message
    assert "Not retried: this was the retry with more memory" in message
    decision = wait_for("Dagster decides", lambda: stack.run(retry)["tags"].get("dagster/will_retry"), 30)
    assert decision == "false"


def test_a_run_sees_neither_docker_nor_the_ui(stack: Stack) -> None:
    """No socket, no DOCKER_HOST, no root, and a network without the proxy, the webserver and the code server."""
    run_id = stack.launch("patient")
    stack.reaches(run_id, "STARTED")
    container = stack.container_of_run(run_id)
    try:
        assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"])
        assert {mount["Type"] for mount in container["Mounts"]} == {"volume"}
        assert not any(variable.startswith("DOCKER_HOST") for variable in container["Config"]["Env"])
        assert list(container["NetworkSettings"]["Networks"]) == [f"{stack.project}_runs"]
        assert command("docker", "exec", container["Id"], "id", "-u").strip() == "10001"
        probe = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
        command("docker", "exec", container["Id"], "python", "-c", probe, "postgres", "5432")
        control = stack.service("docker-proxy")["NetworkSettings"]["Networks"][f"{stack.project}_control"][
            "IPAddress"
        ]
        for host, port in (("docker-proxy", "2375"), (control, "2375"), ("webserver", "3000")):
            with pytest.raises(AssertionError, match="ended with 1"):
                command("docker", "exec", container["Id"], "python", "-c", probe, host, port)
    finally:
        command("docker", "kill", container["Id"])


def test_a_run_gets_the_connections_and_reports_what_it_saw(stack: Stack) -> None:
    """Whatever the daemon has under FERRY_ goes into runs; the asset's own metadata says what arrived."""
    run_id = stack.launch("plain")
    stack.succeeded(run_id)
    said = stack.graphql(
        """{ assetOrError(assetKey: {path: ["plain"]}) { ... on Asset { assetMaterializations(limit: 1) {
             metadataEntries { label ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue } } } } } }"""
    )["assetOrError"]["assetMaterializations"][0]
    found = {each["label"]: each.get("text", each.get("intValue")) for each in said["metadataEntries"]}
    assert found == {
        "docker_sockets": "none",
        "docker_host": "none",
        "user": 10001,
        "connections": ", ".join(
            f"FERRY_CONNECTIONS__{name}" for name in ("AIRBYTE", "CRM", "LANDING", "LEGACY", "NEW_NOTES")
        ),
    }


def test_what_a_run_printed_is_readable_when_its_container_is_gone(stack: Stack) -> None:
    """Compute logs lie on a volume, not in the container."""
    run_id = stack.launch("plain")
    stack.succeeded(run_id)
    command("docker", "rm", "-f", stack.container_of_run(run_id)["Id"])
    keys = stack.graphql(
        """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
             ... on LogsCapturedEvent { fileKey } } } } }""",
        id=run_id,
    )["logsForRun"]["events"]
    key = next(each["fileKey"] for each in keys if each.get("fileKey"))
    said = stack.graphql(
        "query($key: [String!]!) { capturedLogs(logKey: $key) { stdout } }", key=[run_id, "compute_logs", key]
    )
    assert "plain was here" in said["capturedLogs"]["stdout"]


def test_a_killed_container_is_reported_as_killed_and_retried(stack: Stack) -> None:
    """SIGKILL in the middle: the run fails within 30 s with that word, and a crash is retried by itself."""
    run_id = stack.launch("patient")
    stack.reaches(run_id, "STARTED")
    begun = time.time()
    command("docker", "kill", "--signal", "KILL", stack.container_of_run(run_id)["Id"])
    failed = stack.finished(run_id)
    assert failed["status"] == "FAILURE"
    assert failed["endTime"] - begun < 30
    assert any("killed from outside (SIGKILL), not for memory" in each for each in stack.messages(run_id))
    retry = stack.retry_of(run_id)
    stack.reaches(retry, "STARTED")
    command("docker", "rm", "-f", stack.container_of_run(retry)["Id"])
    stack.graphql(
        "mutation($id: String!) { terminateRun(runId: $id, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY)"
        " { __typename } }",
        id=retry,
    )


def test_a_cancelled_run_ends_and_so_does_its_container(stack: Stack) -> None:
    """The webserver stops the container through the proxy; the run has time to say that it was cancelled."""
    run_id = stack.launch("patient")
    stack.reaches(run_id, "STARTED")
    said = stack.graphql("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)
    assert said["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert stack.finished(run_id)["status"] == "CANCELED"
    wait_for("the container ends", lambda: not stack.container_of_run(run_id)["State"]["Running"], 30)


def test_a_memory_tag_that_is_no_size_fails_the_run_with_an_example(stack: Stack) -> None:
    """Nothing is launched; the run's event log says what to write."""
    run_id = stack.launch("plain", tags={"ferry/memory": "plenty"})
    assert stack.finished(run_id)["status"] == "FAILURE"
    assert any(
        "'plenty' is refused, because it is not a size. Write a size such as 512Mi" in each
        for each in stack.messages(run_id)
    )


def test_a_missing_image_is_named(stack: Stack) -> None:
    """The image of a queued run was removed: the run says which one, and how to have it again."""
    there, away = f"ferry-faults:{stack.tag}", "ferry-faults:put-away"
    command("docker", "tag", there, away)
    command("docker", "rmi", there)
    try:
        run_id = stack.launch("plain")
        assert stack.finished(run_id)["status"] == "FAILURE"
        assert any(f"image {there} is missing on the Docker host" in each for each in stack.messages(run_id))
    finally:
        command("docker", "tag", away, there)
        command("docker", "rmi", away)


def test_an_unreachable_docker_proxy_fails_the_run_with_its_address(stack: Stack) -> None:
    """While the proxy is away a run says so instead of waiting for ever; afterwards runs go on."""
    stack.compose("stop", "docker-proxy")
    try:
        run_id = stack.launch("plain")
        assert stack.finished(run_id)["status"] == "FAILURE"
        assert any(
            "no answer from Docker at tcp://docker-proxy:2375" in each for each in stack.messages(run_id)
        )
    finally:
        stack.compose("up", "-d", "--no-build", "--no-deps", "--wait", "docker-proxy")
    stack.succeeded(stack.launch("plain"))

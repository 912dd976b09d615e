"""The services: healthy for a reason, closed where they should be, and complete in their settings."""

import json
import subprocess
import urllib.request

import pytest

from stack import Stack, command, wait_for

SERVICES = ["postgres", "user-code", "webserver", "daemon", "janitor", "docker-proxy", "demo-db"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_healthy_limited_and_unprivileged(stack: Stack, name: str) -> None:
    """Every service has a health check that holds, a memory limit, rotated logs, and no capability to spare."""
    found = stack.service(name)
    assert found["State"]["Health"]["Status"] == "healthy"
    settings = found["HostConfig"]
    assert settings["Memory"] > 0
    assert settings["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["SecurityOpt"]
    assert settings["RestartPolicy"]["Name"] == "unless-stopped"
    assert settings["LogConfig"]["Config"]["max-file"] == "3"
    assert found["Config"]["User"] not in ("", "root", "0") or name == "docker-proxy"


def test_one_port_is_published_on_this_machine_alone(stack: Stack) -> None:
    """The UI has no login, so nobody else on the network may reach it; Postgres has no published port at all."""
    published = [
        (name, where["HostIp"])
        for name in SERVICES
        for places in (stack.service(name)["HostConfig"]["PortBindings"] or {}).values()
        for where in places
    ]
    assert published == [("webserver", "127.0.0.1")]


def test_one_container_sees_the_docker_socket(stack: Stack) -> None:
    """Whoever reaches the socket is root on the host."""
    with_socket = [
        name
        for name in SERVICES
        if any("docker.sock" in mount["Source"] for mount in stack.service(name)["Mounts"])
    ]
    assert with_socket == ["docker-proxy"]


def test_only_the_control_plane_reaches_the_docker_proxy(stack: Stack) -> None:
    """The network `control` has daemon, webserver and janitor, no other member, and no way out."""
    network = json.loads(command("docker", "network", "inspect", f"{stack.project}_control"))[0]
    members = {member["Name"].removeprefix(f"{stack.project}-") for member in network["Containers"].values()}
    assert members == {"docker-proxy-1", "webserver-1", "daemon-1", "janitor-1"}
    assert network["Internal"]


def test_the_ui_opens_without_a_sign_up_dialogue(stack: Stack) -> None:
    """Telemetry and the dialogue of the first use are off."""
    said = stack.graphql("{ shouldShowNux instance { info } }")
    assert said["shouldShowNux"] is False
    with urllib.request.urlopen(f"{stack.url}/server_info", timeout=10) as answer:  # noqa: S310 - the stack
        assert answer.status == 200


def test_both_code_locations_are_loaded(stack: Stack) -> None:
    """What the health checks say is what the webserver sees."""
    said = stack.graphql(
        "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"
    )
    entries = {
        each["name"]: each["locationOrLoadError"]["__typename"]
        for each in said["workspaceOrError"]["locationEntries"]
    }
    assert entries == {"ferry": "RepositoryLocation", "faults": "RepositoryLocation"}


def test_a_code_server_that_cannot_import_is_unhealthy_and_says_why(stack: Stack) -> None:
    """Its port is open and Dagster's own health check passes; only the loaded definitions tell."""
    name = f"{stack.project}-broken"
    stack.compose(
        *("run", "--detach", "--no-deps", "--name", name, "faults"),
        *("dagster", "code-server", "start", "-p", "4000", "-m", "broken"),
    )
    try:
        probe = ("docker", "exec", name, "python", "/opt/ferry/health/code_server.py")
        said = wait_for(
            "the health check names the error",
            lambda: _text_with(command(*probe, check=False), "customers.csv"),
            60,
        )
        assert "the code location does not load" in said
        assert "the mapping file customers.csv is missing" in said
        assert (
            command("docker", "exec", name, "dagster", "api", "grpc-health-check", "-p", "4000") is not None
        )
        wait_for(
            "Docker calls it unhealthy",
            lambda: (
                command("docker", "inspect", "-f", "{{.State.Health.Status}}", name).strip() == "unhealthy"
            ),
            120,
        )
    finally:
        command("docker", "rm", "-f", name, check=False)


def _text_with(text: str, part: str) -> str | None:
    return text if part in text else None


def test_a_daemon_that_stands_still_is_found_out(stack: Stack) -> None:
    """Its process lives, its heartbeats stop: the check fails, and passes again when it goes on.

    So as not to wait for two and a half minutes, the last heartbeats are made old in Dagster's storage.
    """
    name = f"{stack.project}-daemon-1"
    check = ("docker", "exec", name, *stack.service("daemon")["Config"]["Healthcheck"]["Test"][1:])
    daemon = (
        "import os, signal; [os.kill(int(p), signal.{}) for p in os.listdir('/proc') if p.isdigit() and p != '1'"
        " and b'ferry_daemon\\0run' in open(f'/proc/{{p}}/cmdline', 'rb').read()]"
    )
    command(*check)
    command("docker", "exec", name, "python", "-c", daemon.format("SIGSTOP"))
    try:
        aged = r"""regexp_replace(body, '"timestamp": [0-9.]+', '"timestamp": 1000000.0')"""
        assert stack.psql("postgres", "dagster", f"UPDATE daemon_heartbeats SET body = {aged} RETURNING 1")
        assert _fails(*check)
    finally:
        command("docker", "exec", name, "python", "-c", daemon.format("SIGCONT"))
    wait_for("the check passes again", lambda: not _fails(*check), 120, pause=3)


def _fails(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False, timeout=60).returncode != 0


def test_import_of_user_code_is_quick(stack: Stack) -> None:
    """Every run imports it again; what a run does not need stays out of the import. Counted in seconds of its CPU."""
    said = command(
        *("docker", "exec", f"{stack.project}-user-code-1", "python", "-c"),
        "import time; t = time.process_time(); import shop.definitions; print(time.process_time() - t)",
    )
    assert float(said) < 5

"""What becomes of the containers of runs: kept as evidence, removed when old, stopped when nobody owns them."""

import urllib.parse

import pytest
from test_docker_proxy import API, Proxy, proxy

from stack import Stack, command

__all__ = ["proxy"]


def look(stack: Stack) -> str:
    """Let the janitor look once, with no patience at all; what it says."""
    name = f"{stack.project}-janitor-1"
    once = ("python", "-m", "ferry_launcher.janitor", "once")
    return command("docker", "exec", "-e", "FERRY_RUN_KEEP_HOURS=0", name, *once)


def test_containers_of_runs_that_are_over_go_and_no_others(stack: Stack) -> None:
    """A day is not over: the container of a finished run is there. Without patience it goes, what it printed stays, and
    a run that goes on keeps its own, as do the services."""
    services = {name: stack.service(name)["Id"] for name in ("postgres", "daemon", "user-code")}
    over, begun = stack.launch("plain"), stack.launch("patient")
    stack.succeeded(over)
    stack.reaches(begun, "STARTED")
    container = stack.container_of_run(over)
    assert container["Config"]["Labels"]["ferry/project"] == stack.project
    assert stack.service("janitor")["State"]["Health"]["Status"] == "healthy"

    assert f"removed container {container['Id'][:12]}" in look(stack)
    left = stack.run_containers()
    assert container["Id"] not in left
    assert stack.container_of_run(begun)["Id"] in left
    assert stack.run(begun)["status"] == "STARTED"
    assert {name: stack.service(name)["Id"] for name in services} == services
    assert "removed" not in look(stack)
    command("docker", "kill", stack.container_of_run(begun)["Id"])


def test_a_container_whose_run_was_given_up_is_stopped_and_removed(stack: Stack) -> None:
    """Dagster marks a run as over while its container goes on: the janitor stops it, says so, and removes it."""
    run_id = stack.launch("patient")
    stack.reaches(run_id, "STARTED")
    container = stack.container_of_run(run_id)["Id"]
    # As when Dagster loses patience with a run that does not start: it says so to nobody.
    over = "UPDATE runs SET status = 'FAILURE', update_timestamp = timezone('utc', now())"
    assert stack.psql("postgres", "dagster", f"{over} WHERE run_id = '{run_id}' RETURNING 1")[:1] == ["1"]
    said = look(stack) + command("docker", "logs", f"{stack.project}-janitor-1")
    assert f"run {run_id} is over (FAILURE), its container is not: stopped" in said
    assert container not in stack.run_containers()


def filters(*labels: str, **others: list[str]) -> str:
    """A query as docker-py writes it."""
    listed = {"label": list(labels), **others}
    text = (
        "{"
        + ", ".join(f'"{key}": [' + ", ".join(f'"{v}"' for v in value) + "]" for key, value in listed.items())
        + "}"
    )
    return "filters=" + urllib.parse.quote_plus(text)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "filters=%7B%7D",
        filters("ferry/project={project}"),
        filters("dagster/run_id=00000000-0000-0000-0000-000000000000"),
        filters("ferry/project=other", "dagster/run_id=00000000-0000-0000-0000-000000000000"),
        filters("ferry/project={project}", "dagster/run_id=.*"),
        filters("ferry/project={project}", until=["1h"]),
        filters("ferry/project=other", until=["720h"]),
        filters("com.docker.compose.project={project}", until=["720h"]),
        filters("ferry/project={project}", until=["720h"]) + "&filters=%7B%7D",
        filters("ferry/project={project}", until=["720h"]) + "%00",
    ],
)
def test_nothing_else_can_be_pruned(stack: Stack, proxy: Proxy, query: str) -> None:
    """Two filters pass, this project's with one run's label or with 30 days; one more word or one less does not."""
    made = query.replace("%7Bproject%7D", stack.project)
    status, said = proxy.ask("POST", f"{API}/containers/prune?{made}")
    assert status == 403, said


def test_what_the_janitor_asks_passes(stack: Stack, proxy: Proxy) -> None:
    """A run that was never, and 30 days ago: nothing is removed, and both are answered."""
    for query in (
        filters(f"ferry/project={stack.project}", "dagster/run_id=00000000-0000-0000-0000-000000000000"),
        filters(f"ferry/project={stack.project}", until=["720h"]),
    ):
        status, said = proxy.ask("POST", f"{API}/containers/prune?{query}")
        assert status == 200, said
        assert isinstance(said, dict)
        assert not said["ContainersDeleted"]
        status, _ = proxy.ask("POST", f"{API}/containers/prune?{query}", {"a": 1})
        assert status == 403

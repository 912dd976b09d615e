"""What can be wrong at the start: each gets one message with what to do, and nothing is left running."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import Checkout

from stack import command


def stand_in_for_docker(folder: Path, lines: str) -> str:
    """A PATH on which `docker` is a script; what it does not answer goes to the real one."""
    programs = folder / "programs"
    programs.mkdir()
    script = programs / "docker"
    script.write_text(f'#!/bin/sh\n{lines}\nexec {shutil.which("docker")} "$@"\n')
    script.chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


def without_docker(folder: Path) -> dict[str, str]:
    """An environment whose PATH has the usual programs, but no docker."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("sh", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(programs)}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (without_docker, "No Docker here. Install Docker's engine with Compose"),
        (lambda _: {"DOCKER_HOST": "unix:///nowhere.sock"}, "Docker's engine does not answer. Start it"),
        (
            lambda at: {"PATH": stand_in_for_docker(at, '[ "$2" != version ] || { echo 2.17.2; exit; }')},
            "Expected Docker Compose 2.24 or newer, but found 2.17.2",
        ),
        (
            lambda at: {"PATH": stand_in_for_docker(at, '[ "$1" != compose ] || exit 1')},
            "Docker has no Compose v2",
        ),
        (
            lambda _: {"https_proxy": "http://127.0.0.1:9"},
            "The proxy of this network, 127.0.0.1:9, gives no answer",
        ),
    ],
    ids=["no docker", "no engine", "old compose", "no compose", "no proxy"],
)
def test_what_the_machine_lacks_is_named(
    checkout: Checkout, environment: Callable[[Path], dict[str, str]], said: str
) -> None:
    """One line that names the missing thing and how to have it."""
    status, words = checkout.start(**environment(checkout.folder))
    assert status == 1
    assert said in words
    assert len(words.splitlines()) == 1
    assert checkout.left("container") == []


def test_an_empty_secret_stops_the_start(checkout: Checkout) -> None:
    """No default password takes its place."""
    status, words = checkout.start(settings={"DAGSTER_POSTGRES_PASSWORD": ""})
    assert status == 1
    assert "DAGSTER_POSTGRES_PASSWORD" in words
    assert 'run "make up"' in words
    assert checkout.left("container") == []


def test_settings_are_made_once_with_a_random_password(checkout: Checkout) -> None:
    """A second start keeps the password, nobody else can read it, and the tag follows the content."""
    before = (checkout.folder / ".env").read_text()
    password = next(line for line in before.splitlines() if line.startswith("DAGSTER_POSTGRES_PASSWORD="))
    assert len(password.split("=")[1]) == 48
    assert (checkout.folder / ".env").stat().st_mode & 0o077 == 0
    (checkout.folder / "user_code" / "src" / "shop" / "more.py").write_text("MORE = 1\n")
    subprocess.run([checkout.folder / "deploy" / "settings.sh"], check=True)
    after = (checkout.folder / ".env").read_text()
    assert password in after.splitlines()
    assert [line for line in after.splitlines() if line.startswith("FERRY_TAG=")] != [
        line for line in before.splitlines() if line.startswith("FERRY_TAG=")
    ]


def test_a_port_in_use_stops_the_start(checkout: Checkout) -> None:
    """Before anything is built, and with the setting that chooses another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, words = checkout.start(settings={"FERRY_PORT": str(port)})
    assert status == 1
    assert f"Port {port} is in use by another program. Set FERRY_PORT in .env" in words
    assert checkout.left("container") == []


def test_a_limit_that_is_no_size_stops_the_start(checkout: Checkout) -> None:
    """Nothing that depends on it starts; what was started for the check is gone again. All mistakes are named."""
    status, words = checkout.start(settings={"FERRY_RUN_MEMORY": "plenty", "FERRY_POOLS": "legacy:2"})
    assert status == 1
    assert "FERRY_POOLS is 'legacy:2'. Write names of connections with numbers" in words
    assert "FERRY_RUN_MEMORY: 'plenty' is refused, because it is not a size" in words
    assert "Nothing was left running" in words
    assert checkout.left("container") == []


def test_a_volume_with_a_wrong_owner_stops_the_start(checkout: Checkout) -> None:
    """A volume of another image's user is named, with the command that gives it away."""
    volume = f"{checkout.project}_stage"
    command("docker", "volume", "create", "--label", f"com.docker.compose.project={checkout.project}", volume)
    command(
        "docker",
        "run",
        "--rm",
        "-v",
        f"{volume}:/v",
        "debian:trixie-slim",
        "sh",
        "-c",
        "touch /v/x; chmod 755 /v",
    )
    status, words = checkout.start()
    assert status == 1
    assert "/var/lib/ferry/stage belongs to user 0, so user 10001 cannot write there" in words
    assert "chown -R 10001" in words
    assert checkout.left("container") == []


def test_a_code_location_that_does_not_import_stops_the_start(checkout: Checkout) -> None:
    """The start says what the code says, and neither UI nor daemon is left without it."""
    definitions = checkout.folder / "user_code" / "src" / "shop" / "definitions.py"
    definitions.write_text(definitions.read_text() + '\nraise RuntimeError("the mapping file is missing")\n')
    status, words = checkout.start()
    assert status == 1
    assert "The service user-code does not start" in words
    assert "the mapping file is missing" in words
    assert checkout.left("container") == []

"""A copy of the checkout with a Compose project of its own, in which the commands of the Makefile are run."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stack import ROOT, command, free_port

COPIED = ("deploy", "user_code", "docker-compose.yml", "Dockerfile.dagster", "Dockerfile.user_code")
FILES = ("requirements.lock", ".env.example", ".dockerignore")


@dataclass
class Checkout:
    """A copy of the checkout with a Compose project of its own."""

    folder: Path
    project: str

    def script(self, *words: str, stdin: str = "", **environment: str) -> tuple[int, str]:
        """Exit status and words of a script of deploy/, called as the Makefile does."""
        done = subprocess.run(
            [self.folder / "deploy" / words[0], *words[1:]],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
            input=stdin,
        )
        return done.returncode, done.stdout + done.stderr

    def start(self, *, settings: dict[str, str] | None = None, **environment: str) -> tuple[int, str]:
        """Exit status and words of `make up`'s script; `settings` are written into .env before."""
        if settings:
            self.write(**settings)
        return self.script("start.sh", **environment)

    def write(self, **settings: str) -> None:
        """Put settings at the end of .env, where the last one of a name counts."""
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    def left(self, what: str) -> list[str]:
        """Names of the project's containers, networks or volumes (`what` in the singular), stopped ones included."""
        words = {"container": ("ps", "-a"), "network": ("network", "ls"), "volume": ("volume", "ls")}[what]
        label = f"label=com.docker.compose.project={self.project}"
        form = "{{.Names}}" if what == "container" else "{{.Name}}"
        return command("docker", *words, "--filter", label, "--format", form).split()


def copy_of_checkout(folder: Path) -> Checkout:
    """Copy what starting needs into `folder`, and let the checkout's own script write its settings."""
    for name in COPIED + FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    copy = Checkout(folder, f"ferrybad-{os.getpid()}")
    subprocess.run([folder / "deploy" / "settings.sh"], check=True, capture_output=True)
    copy.write(FERRY_PROJECT=copy.project, FERRY_PORT=str(free_port()))
    return copy

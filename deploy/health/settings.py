"""Start check of a service: are its settings complete, are its volumes its own?

    python settings.py COMMAND [ARGUMENT...]

checks and then becomes COMMAND. Prints one message a mistake and exits 1 instead, so that Compose stops there
and the services that wait for this one do not start.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HOME = Path(os.environ.get("DAGSTER_HOME", "/opt/dagster/home"))
VOLUMES = (HOME / "storage", Path("/var/lib/ferry/stage"))


def named_variables(config: Any) -> Iterator[str]:
    """The names in every `{env: NAME}` of a parsed dagster.yaml."""
    if isinstance(config, dict):
        if set(config) == {"env"}:
            yield config["env"]
        else:
            for value in config.values():
                yield from named_variables(value)
    elif isinstance(config, list):
        for value in config:
            yield from named_variables(value)


def mistakes(config: dict[str, Any], environment: dict[str, str], volumes: tuple[Path, ...]) -> Iterator[str]:
    """One sentence for each thing that is wrong, with what to do about it."""
    names = sorted(set(named_variables(config)))
    for name in names:
        if not environment.get(name):
            yield f"{name} is empty, but deploy/dagster.yaml needs it here. Set it in .env (see .env.example)."
    launcher = config["run_launcher"]["config"]
    for name in names:
        if name not in launcher["env_vars"] and not name.startswith(launcher["env_prefix"]):
            yield f"deploy/dagster.yaml names {name}, but runs do not get it. Add it to run_launcher.config.env_vars."
    runs = environment.get("FERRY_MAX_RUNS", "")
    if runs and not re.fullmatch("[1-9][0-9]*", runs):
        yield f"FERRY_MAX_RUNS is {runs!r}. Write a whole number, 1 or more."
    hours = environment.get("FERRY_RUN_KEEP_HOURS", "")
    if hours and not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", hours):
        yield f"FERRY_RUN_KEEP_HOURS is {hours!r}. Write a number of hours, such as 24 or 0.5."
    pools = environment.get("FERRY_POOLS", "").replace(" ", "")
    if pools and not re.fullmatch(r"\w+=[1-9][0-9]{0,3}(,\w+=[1-9][0-9]{0,3})*", pools):
        yield f"FERRY_POOLS is {pools!r}. Write names of connections with numbers, such as legacy=2,crm=4."
    yield from size_mistakes(environment)
    for volume in volumes:
        if volume.exists() and not os.access(volume, os.W_OK | os.X_OK):
            owner = volume.stat()
            yield (
                f"{volume} belongs to user {owner.st_uid}, so user {os.getuid()} cannot write there. "
                "Another image made the volume. Give it away: "
                f"docker run --rm -u 0 -v VOLUME:/v debian:trixie-slim chown -R {os.getuid()} /v"
            )


def size_mistakes(environment: dict[str, str]) -> Iterator[str]:
    """Mistakes in the memory limits, where the launcher that reads them is installed (not in user code)."""
    try:
        from ferry_launcher.memory import SizeError, parse_size
    except ModuleNotFoundError:
        return
    sizes = {}
    for name in ("FERRY_RUN_MEMORY", "FERRY_RUN_MEMORY_MAX"):
        if environment.get(name):
            try:
                sizes[name] = parse_size(environment[name], name)
            except SizeError as mistake:
                yield str(mistake)
    if len(sizes) == 2 and sizes["FERRY_RUN_MEMORY"] > sizes["FERRY_RUN_MEMORY_MAX"]:
        yield "FERRY_RUN_MEMORY is larger than FERRY_RUN_MEMORY_MAX. Raise the second or lower the first."


def main() -> None:
    """Check, then become the command."""
    config = yaml.safe_load((HOME / "dagster.yaml").read_text())
    found = list(mistakes(config, dict(os.environ), VOLUMES))
    if found:
        print("This service does not start:", *found, sep="\n  - ", file=sys.stderr)
        sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # no shell is the point: the command is PID 1's child and gets its signals


if __name__ == "__main__":
    main()

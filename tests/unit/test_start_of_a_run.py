"""What the container of a run imports before its first step, for whose end somebody waits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "launcher"))

from ferry_launcher.launcher import STARTED

LATE = {
    "pandas",
    "httpx",
    "jwt",
    "cryptography",
    "oauthlib",
    "openpyxl",
    "paramiko",
    "s3fs",
    "duckdb",
    "dagster_airbyte",
}
"""Takes long to import, and few runs need it."""

SCRIPT = """
import json, sys
import shop.definitions
from ferry.components import declared_in
made = shop.definitions.defs().get_repository_def()
graph = made.asset_graph
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
    "checks": sorted(f"{key.asset_key.to_user_string()} {key.name}" for key in graph.asset_check_keys),
    "jobs": sorted(job.name for job in made.get_all_jobs()),
    "documented": list(made.metadata),
    "kept": declared_in(shop.definitions.DEFS) is declared_in(shop.definitions.DEFS),
}))
"""


def located(**environment: str) -> dict[str, Any]:
    """What a new process that loads the shop's code location has imported and defined."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_run_imports_no_more_than_it_needs_and_has_the_same_definitions() -> None:
    """In a run's container the same assets, checks and jobs, without pandas, HTTP clients and all component types."""
    run, server = located(DAGSTER_RUN_JOB_NAME="__ASSET_JOB"), located(DAGSTER_RUN_JOB_NAME="")
    assert not LATE & set(run["modules"])
    assert run["documented"] == []
    assert server["documented"] != [], "the UI has no documentation of component types to show"
    assert run["kept"], "Dagster asks twice, and a run's folder does not change"
    assert not server["kept"], "whoever reloads the code location would see what was there before"
    for what in ("assets", "checks", "jobs"):
        assert run[what] == server[what] != []


def test_the_command_imports_no_more_than_it_needs_either() -> None:
    """`ferry run` has imported its commands and the way of a run through Dagster, and no client of an API."""
    code = "import sys, ferry.cli, ferry.components.run; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dagster" in done.stdout.split()
    assert not LATE & set(done.stdout.split())


def test_while_modules_are_imported_nobody_looks_for_garbage() -> None:
    """What imports leave behind is searched neither then nor later; what comes afterwards is."""
    code = """
import gc
from ferry.start import importing
before = gc.get_stats()
with importing():
    with importing():
        import xml.dom.minidom
    made = [[] for _ in range(100_000)]
    print(gc.get_stats() == before)
print(gc.get_freeze_count() > len(made), gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


def test_threads_share_the_heap_of_the_process() -> None:
    """However many threads hold memory at once, the C library has one heap: what one of them frees, all can use."""
    code = """
import ctypes, os, threading
import ferry.start
libc, together = ctypes.CDLL("libc.so.6"), threading.Barrier(8)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
def hold():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
stdout = libc.fdopen(1, b"w")
libc.malloc_info(0, stdout)
libc.fflush(stdout)
"""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=alone)
    assert done.stdout.count("<heap nr=") == 1


def test_a_container_of_a_run_is_dagster_without_a_search_for_garbage_in_what_it_imports(
    tmp_path: Path,
) -> None:
    """The launcher's words for `dagster` take its arguments, set aside what they import, and end with its status.

    Dagster loads code without the first entry of the path, which is to be that of the program, not the user's.
    """
    python, *options, program = STARTED
    told = (
        "import atexit, gc, sys;"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000, gc.isenabled(), *sys.path[1:2]));"
    )
    words, environment = (
        ("api", "execute_run", "--no-such-option"),
        {**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    done, plain = (
        subprocess.run([sys.executable, *how, *words], capture_output=True, text=True, env=environment)
        for how in ((*options, told + program), ("-m", "dagster"))
    )
    assert python == "python"
    assert done.stdout.split() == ["True", "True", str(tmp_path)]
    assert done.returncode == plain.returncode == 2
    assert done.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1] != ""

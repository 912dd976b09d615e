"""What was measured, in one place: `out/bench/latest.json`, a table, and `docs/speed.md` with its plots.

    python benchmarks/page.py

Reads what `migration.py`, `growth.py`, `copy_orders.py`, `contracts.py` and `backfill.py` left in `out/bench`; what was
not measured is left out.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

OUT, DOCS = Path("out/bench"), Path("docs")
GOALS = {
    "migration_sf1": ("customers, orders and lines: Ferry to the script by hand", "≤ 1.0", "1.5"),
    "copy_orders": ("one table, in process: Ferry's rows a second to `COPY`'s", "≥ 0.9", "0.6"),
    "times_pandas": ("the same to pandas' `to_sql`", "≥ 10", "10"),
    "times_dlt": ("the same to dlt's", "≥ 2", "2"),
    "copy_orders_command": (
        "one table, by the command `ferry run` with its start: rows a second to `COPY`'s",
        "",
        "",
    ),
    "replay_unchanged": ("the migration again, nothing changed, to the first", "≤ 0.3", "0.5"),
    "one_percent_changed": ("again, with one per cent of the rows changed", "≤ 0.4", "0.6"),
    "memory": ("largest peak of memory over all scales, MiB", "≤ 512", "512"),
    "memory_flat": ("largest to smallest peak", "≤ 1.05", ""),
    "reports": (
        "5 GB of orders through pandas reports (`make bench-reports`): peak of memory, MiB",
        "≤ 512",
        "512",
    ),
    "growth": ("scale 3 to scale 1, seconds", "≤ 3.1", "3.3"),
    "contracts": ("rows a second through a contract of nine columns", "≥ 3,000,000", "2,000,000"),
    "reconcile": ("share of reconciliation in the migration", "≤ 0.05", "0.15"),
    "backfill_50": ("fifty partitions through containers, to the official example's layout", "≤ 0.1", "0.2"),
    "small_run": ("a month of orders in a container, click to success, seconds", "≤ 6", "6"),
}


def main() -> None:
    """Collect, print and write."""
    found = {path.stem: json.loads(path.read_text()) for path in OUT.glob("*.json") if path.stem != "latest"}
    latest = {"machine": machine(), "figures": figures(found), **found}
    (OUT / "latest.json").write_text(json.dumps(latest, indent=1))
    table = Table(title="Speed and memory", title_justify="left")
    for heading in ("figure", "measured", "goal"):
        table.add_column(heading)
    for name, value in latest["figures"].items():
        table.add_row(name, f"{value:,}", GOALS[name][1])
    Console().print(table)
    plot(found)
    (DOCS / "speed.md").write_text(page(latest, found))


def figures(found: dict[str, Any]) -> dict[str, float]:
    """The figures that have goals, by name."""
    migration, growth = found.get("migration", {}), found.get("growth", {})
    copy, contracts = found.get("copy_orders", {}), found.get("contracts", {})
    known = {
        "migration_sf1": migration.get("migration_sf1"),
        "copy_orders": copy.get("of_copy"),
        "times_pandas": copy.get("times_pandas"),
        "times_dlt": copy.get("times_dlt"),
        "copy_orders_command": copy.get("command_of_copy"),
        "replay_unchanged": migration.get("replay_unchanged"),
        "one_percent_changed": migration.get("one_percent_changed"),
        "memory": growth.get("memory", {}).get("peak_rss_mib"),
        "memory_flat": growth.get("memory", {}).get("largest_to_smallest"),
        "reports": max(
            (one["peak_rss_mib"] for one in found.get("reports", {}).get("gigabytes", {}).values()),
            default=None,
        ),
        "growth": growth.get("growth"),
        "contracts": contracts.get("compiled, nine columns"),
        "reconcile": migration.get("reconcile"),
        "backfill_50": found.get("backfill_50", {}).get("ratio"),
        "small_run": found.get("backfill_50", {}).get("small_run_s"),
    }
    return {name: value for name, value in known.items() if value is not None}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
    }


def plot(found: dict[str, Any]) -> None:
    """Seconds of the migration, rows a second of one table, and memory by scale, as one picture."""
    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update(
        {"svg.hashsalt": "ferry", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    if "migration" in found:
        seconds = found["migration"]["seconds"]
        names = {"expert": "by hand", "ferry": "Ferry", "replay": "again", "one_percent": "1 % changed"}
        bars = left.bar([names[name] for name in seconds], list(seconds.values()), color="#3b6ea5")
        left.bar_label(bars, fmt="%.0f")
        left.set_title(f"migration, scale {found['migration']['scale']:g}: seconds")
    if "copy_orders" in found:
        speeds = found["copy_orders"]["rows_per_second"]
        bars = middle.bar(list(speeds), [speed / 1000 for speed in speeds.values()], color="#3b6ea5")
        middle.bar_label(bars, fmt="%.0f")
        middle.set_title("one table: thousand rows a second")
    if "growth" in found:
        scales = found["growth"]["scales"]
        right.plot(list(scales), [one["peak_rss_mib"] for one in scales.values()], "o-", color="#3b6ea5")
        right.axhline(found["growth"]["limit_mib"], color="#b04a3a", linestyle="--")
        right.set_ylim(0, found["growth"]["limit_mib"] * 1.1)
        right.set_title("peak memory by scale, MiB")
    figure.savefig(DOCS / "images" / "speed.svg", metadata={"Date": None})


def page(latest: dict[str, Any], found: dict[str, Any]) -> str:
    """`docs/speed.md`."""
    on = latest["machine"]
    rows = "\n".join(
        f"| `{name}` | {GOALS[name][0]} | **{value:,}** | {GOALS[name][1]} |"
        for name, value in latest["figures"].items()
    )
    raw = ""
    if "migration" in found:
        one = found["migration"]
        raw += "".join(
            f"| {way} | {', '.join(format(run['seconds'], '.1f') for run in runs)} |"
            f" {max(run.get('peak_rss_mib', 0) for run in runs) or '–'} |\n"
            for way, runs in one["raw"].items()
        )
    tables = one_table(found["copy_orders"]) if "copy_orders" in found else ""
    tables += containers(found["backfill_50"]) if "backfill_50" in found else ""
    return f"""# Speed and memory

`make bench` measures all of this anew and writes this page: ratios of things that ran side by side in one run, medians
where there were several rounds, through the path that users run (Dagster assets in process, contract, ledger, hashes,
reconciliation, `fsync` on, foreign keys put back and checked at the end). Measured on {on["cores"]} cores
({on["processor"]}, {on["memory_gib"]} GiB, Python {on["python"]}), client and server sharing them.

![Seconds of the migration, rows a second of one table, and memory by scale](images/speed.svg)

| figure | what | measured | goal |
| --- | --- | --- | --- |
{rows}

The migration is TPC-H's customers, orders and lines: new keys for customers and orders, the natural key for lines, id
maps, foreign keys. The script by hand ([expert.sh](../benchmarks/tpch/expert.sh)) does the bare move: binary `COPY`
through a pipe, maps and inserts set by set, keys and foreign keys at the end; no contract, no ledger, no rejects, no
reconciliation. Each round in seconds, and the peak of the process that carries the rows in MiB:

| way | seconds, round by round | peak |
| --- | --- | --- |
{raw}
`COPY` of one table only writes, from a file that lies there already. Each way is timed in a process that has imported
what it needs; for Ferry that is Dagster with its storage, and its time lasts from the plan to the report. `ferry run`
is the command as somebody types it, from the start of Python to its end.
{tables}"""


def one_table(one: dict[str, Any]) -> str:
    """Each way to move one table."""
    rows = "".join(
        f"| {way} | {', '.join(format(seconds, '.2f') for seconds in one['raw'][way])} | {speed:,} |\n"
        for way, speed in one["rows_per_second"].items()
    )
    return f"""
| way | seconds, round by round | rows a second |
| --- | --- | --- |
{rows}
With its start, the command moves {one["command_of_copy"]} of `COPY`'s rows a second,
{one["command_times_pandas"]} times pandas' and {one["command_times_dlt"]} times dlt's.
"""


def containers(one: dict[str, Any]) -> str:
    """The section on backfills and runs in containers."""
    names = list(one["stages"])
    heading = " | ".join(names)
    rows = "\n".join(
        f"| {stage} | {text} | " + " | ".join(f"{one['stages'][name][stage]:.2f}" for name in names) + " |"
        for stage, text in {"seconds": "**click to success**", **one["what"]}.items()
    )
    return f"""
## Backfills and runs in containers

`make bench-backfill` measures this: Ferry's platform as it is shipped, and the layout of Dagster's example for Docker
([official.yaml](../benchmarks/layouts/official.yaml)) from the same images, one after the other, asked over GraphQL
what the UI asks when somebody clicks. Seconds from the click to the materialization of the last of fifty partitions:

| what | seconds |
| --- | --- |
| an asset that does nothing, Ferry | {one["ferry_s"]:.1f} |
| the same asset, official layout | {one["official_s"]:.1f} |
| the same asset, official layout, one run for all partitions as Ferry's policy says | {one["official_batched_s"]:.1f} |
| fifty months of the shop's orders, Ferry | {one["orders_s"]:.1f} |

Most of the difference is the policy: one run for all partitions, not one for each. The rest is that the daemon looks at
backfills when something has happened to one ([ferry_daemon.py](../deploy/daemon/ferry_daemon.py)), not every thirty
seconds, that connections to Dagster's database are kept, and that a run imports no more than it needs and looks for
no garbage meanwhile.

Where the seconds of one small run go (medians; the load average before, between and after was
{", ".join(map(str, one["load_average"]))} on {one["cores"]} cores):

| stage | until | {heading} |
| --- | --- |{" --- |" * len(names)}
{rows}
"""


if __name__ == "__main__":
    main()

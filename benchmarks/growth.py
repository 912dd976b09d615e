"""Memory and time as the data grows: the migration of `migration.py` at several scales, under 512 MiB.

    python benchmarks/growth.py [--scales 0.1 1 3] [--rounds 3]

The process that carries the rows runs in a control group that holds it to 512 MiB, where this account may make one
(`limited` says whether). Medians go to `out/bench/growth.json`.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from migration import DURABLE, ferry, fill

from shop.demo.server import EmbeddedServer

LIMIT_MIB = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[0.1, 1.0, 3.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "ferry-bench")
    options = parser.parse_args()
    server = EmbeddedServer(options.home, DURABLE).start()
    found: dict[str, dict[str, Any]] = {}
    for scale in options.scales:
        fill(server, scale)
        runs = [ferry(server, options.home, fresh=True, limit=LIMIT_MIB) for _ in range(options.rounds)]
        found[f"{scale:g}"] = {
            "rows": runs[0]["rows"],
            "seconds": statistics.median(run["seconds"] for run in runs),
            "peak_rss_mib": max(run["peak_rss_mib"] for run in runs),
            "limited": all(run["limited"] for run in runs),
        }
        print(f"scale {scale:g}: {found[f'{scale:g}']}", flush=True)
    peaks = [one["peak_rss_mib"] for one in found.values()]
    result: dict[str, Any] = {
        "limit_mib": LIMIT_MIB,
        "rounds": options.rounds,
        "scales": found,
        "memory": {"peak_rss_mib": max(peaks), "largest_to_smallest": round(max(peaks) / min(peaks), 3)},
    }
    if {"1", "3"} <= set(found):
        result["growth"] = round(found["3"]["seconds"] / found["1"]["seconds"], 3)
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.json").write_text(json.dumps(result, indent=1))
    server.stop()


if __name__ == "__main__":
    main()

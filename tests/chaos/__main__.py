"""`python -m chaos`: as many trials as asked for, with a progress bar, and one line that says what they found."""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chaos.trial import arena


def main() -> int:
    """Run the trials; exit status 0 only if all of them are clean."""
    words = argparse.ArgumentParser(prog="python -m chaos", description=main.__doc__)
    words.add_argument("--trials", type=int, default=200)
    words.add_argument("--seed", type=int, default=1, help="the first trial's; the next ones count up")
    asked = words.parse_args()
    console = Console()
    lost = duplicated = twice = wrong = 0
    kinds: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as home:
        console.print("Making the shop, its oracle and targets half-way …")
        with arena(Path(home)) as made, Progress(*columns, console=console) as bar:
            task = bar.add_task("trials", total=asked.trials)
            for seed in range(asked.seed, asked.seed + asked.trials):
                told = made.trial(seed)
                found = told.judgement
                lost, duplicated = lost + found.lost, duplicated + found.duplicated
                twice, wrong = twice + found.mapped_twice, wrong + found.unaccounted
                kinds["killed in time" if told.killed else "over before the kill"] += 1
                kinds[told.scenario] += 1
                for victim in told.victim.split(", "):
                    kinds[f"{victim} killed"] += 1
                if not found.clean:
                    bar.print(
                        f"seed {seed}: {told.scenario}, {told.victim} killed at {told.moment}: {found.said}"
                    )
                bar.advance(task)
    console.print(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())), highlight=False)
    if wrong:
        console.print(f"{wrong} ledgers do not add up", style="red")
    print(f"{asked.trials} trials, {lost} lost, {duplicated} duplicated, {twice} mapped twice")
    return int(bool(lost or duplicated or twice or wrong))


if __name__ == "__main__":
    sys.exit(main())

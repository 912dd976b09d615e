"""`python -m chaos`: as many trials as asked for, with a progress bar, and one line that says what they found."""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chaos.trial import arena
from chaos.worker import MOMENTS


def main() -> int:
    """Run the trials; exit status 0 only if all of them are clean."""
    words = argparse.ArgumentParser(prog="python -m chaos", description=main.__doc__)
    words.add_argument("--trials", type=int, default=200)
    words.add_argument("--seed", type=int, default=1, help="the first trial's; the next ones count up")
    asked = words.parse_args()
    console = Console()
    done = lost = duplicated = twice = wrong = 0
    kinds: Counter[str] = Counter()
    places: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as home:
        console.print("Making the shop, its oracle and targets half-way …")
        with arena(Path(home)) as made, Progress(*columns, console=console) as bar:
            task = bar.add_task("trials", total=asked.trials)
            try:
                for seed in range(asked.seed, asked.seed + asked.trials):
                    told = made.trial(seed)
                    found = told.judgement
                    done, lost, duplicated = done + 1, lost + found.lost, duplicated + found.duplicated
                    twice, wrong = twice + found.mapped_twice, wrong + found.unaccounted
                    kinds["killed in time" if told.killed else "over before the kill"] += 1
                    kinds[told.scenario] += 1
                    kinds.update(f"{victim} killed" for victim in told.victim.split(", "))
                    places.update(told.places)
                    if not found.clean:
                        what = f"{told.scenario}, {told.victim} killed at {told.moment}"
                        bar.print(f"seed {seed}: {what}: {found.said}")
                    bar.advance(task)
            except KeyboardInterrupt:
                bar.print("Stopped; what was tried until then:")
    console.print(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())), highlight=False)
    console.print(
        "Killed " + ", ".join(f"{place} {count}" for place, count in sorted(places.items())), highlight=False
    )
    if never := sorted(set(MOMENTS) - {place.partition(" ")[2] for place in places}):
        console.print(f"Never killed at: {', '.join(never)}", highlight=False)
    if wrong:
        console.print(f"{wrong} ledgers do not add up", style="red")
    print(f"{done} trials, {lost} lost, {duplicated} duplicated, {twice} mapped twice")
    return int(bool(lost or duplicated or twice or wrong or done < asked.trials))


if __name__ == "__main__":
    sys.exit(main())

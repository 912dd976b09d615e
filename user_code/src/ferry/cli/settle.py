"""The command `ferry settle`: load children whose parents have come, decide about the rest."""

import dataclasses
from typing import TYPE_CHECKING

from ferry.cli.migration import known_names, migration_of, seen_in_dagster
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import console, print_json
from ferry.plan import plan_migration
from ferry.settings import read_settings

if TYPE_CHECKING:
    from ferry.settle import Settled


def settle(entities: Entities = None, defs: Defs = None, as_json: Json = False) -> None:
    """Load children whose parents have come, and decide about the rest where all parents are complete."""
    from ferry.settle import settle as settle_all

    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings)
    with seen_in_dagster(plans, settings):
        results = settle_all(plans, settings, only=known_names(plans, entities))
    if as_json:
        return print_json([dataclasses.asdict(result) for result in results])
    for result in results:
        console.print(f"{result.entity}: {', '.join(settled_words(result))}")
    return None


def settled_words(result: "Settled") -> list[str]:
    """What settling did to an entity, as a person reads it; what did not happen is left out."""
    counts = {
        "loaded": result.loaded,
        "references filled in": result.linked,
        "parents made up": result.stubs,
        "rejected": sum(result.rejected.values()),
        f"wait for {', '.join(result.waits_for)}": result.waiting,
        "no longer in the source": result.vanished,
        "removed": result.removed,
    }
    return [f"{n:,} {what}" for what, n in counts.items() if n or what == "loaded"]

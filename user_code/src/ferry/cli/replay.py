"""The command `ferry replay`: judge and load the rejected rows again."""

import dataclasses

from ferry.cli.deliver import show
from ferry.cli.migration import known_names, migration_of, seen_in_dagster
from ferry.cli.options import Defs, Entities, Json, Key, Reason
from ferry.cli.output import console, print_json
from ferry.plan import plan_migration
from ferry.settings import read_settings


def replay(
    entities: Entities = None,
    reason: Reason = None,
    key: Key = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Judge and load the rejected rows again, then settle their children and deliver what has an API behind it."""
    from ferry.deliver import deliver_all
    from ferry.replay import replay as replay_all
    from ferry.settle import settle as settle_all

    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings)
    chosen = known_names(plans, entities)
    with seen_in_dagster(plans, settings):
        results = replay_all(plans, settings, chosen, reason=reason, key=tuple(key) if key else None)
        settle_all(plans, settings)
        delivered = {one.entity: one for one in deliver_all(plans, settings, "cli")}
    if as_json:
        sent = {name: {"delivered": dataclasses.asdict(one)} for name, one in delivered.items()}
        return print_json([{**dataclasses.asdict(one), **sent.get(one.entity, {})} for one in results])
    for result in results:
        console.print(
            f"{result.entity}: {result.tried:,} tried, {result.loaded:,} loaded, {result.waiting:,} waiting,"
            f" {result.rejected:,} rejected again",
        )
    if delivered:
        show(list(delivered.values()))
    return None

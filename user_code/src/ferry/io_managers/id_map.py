"""Hands the published id map of a loaded asset to whoever depends on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from ferry import id_map
from ferry.components.entity import asset_keys
from ferry.components.resources import FerryResource
from ferry.declaration import migration_in
from ferry.pipeline import LOADED
from ferry.plan import plan_migration

if TYPE_CHECKING:
    import pandas as pd


class IdMap:
    """A published id map that is read when it is asked for: whole, or in batches that fit in memory."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Args: the batches, `(old_id, new_id)`."""
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batch after batch, once."""
        return iter(self._batches)

    def to_pandas(self) -> "pd.DataFrame":
        """All pairs as a DataFrame `(old_id, new_id)`."""
        return pa.Table.from_batches(list(self._batches)).to_pandas()


class IdMapIOManager(dg.ConfigurableIOManager):
    """Hands the id map of a `loaded_…_and_id_mapping` asset to whoever depends on it.

    The map itself is a table in the target, written with the rows; there is nothing for this manager to store.
    An input annotated as `IdMap` is read in batches; anything else gets a DataFrame `(old_id, new_id)`.
    """

    folder: str
    ferry: dg.ResourceDependency[FerryResource]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Nothing to do: the load wrote the map in the rows' own transactions."""

    def load_input(self, context: dg.InputContext) -> object:
        """The map of the upstream asset."""
        migration = migration_in(Path(self.folder))
        name = next(n for n, e in migration.entities.items() if asset_keys(e)[LOADED] == context.asset_key)
        settings = self.ferry.settings()
        plan = plan_migration(migration, settings, only=(name,))[name]
        pairs = IdMap(id_map.stream(settings.url(plan.declaration.target.connection), plan))
        return pairs if context.dagster_type.typing_type is IdMap else pairs.to_pandas()

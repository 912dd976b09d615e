"""Ferry's settings as a Dagster resource, so that they show in the UI and can be overridden for a code location."""

import dagster as dg
from pydantic import Field

from ferry.settings import Settings, read_settings


class FerryResource(dg.ConfigurableResource):
    """How Ferry runs here. What is not set comes from the environment (`FERRY_…`); URLs come from there only."""

    stage_uri: str | None = Field(default=None, description="where staged Parquet lies: a path or URI")
    chunk_rows: int | None = Field(
        default=None, gt=0, description="rows of one part, loaded in one transaction"
    )
    retries: int | None = Field(default=None, ge=0, description="how often a transient error is tried again")

    def settings(self) -> Settings:
        """The environment's settings with this resource's fields over them."""
        changed = {name: value for name, value in self.model_dump().items() if value is not None}
        return read_settings(**changed)

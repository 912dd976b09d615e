"""What a note may be."""

from ferry.contract import Contract


class Note(Contract):
    """One row of the table that Airbyte writes."""

    id: int
    body: str

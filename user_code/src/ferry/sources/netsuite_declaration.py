"""What can be declared of a query to NetSuite."""

from __future__ import annotations

from typing import Literal

from ferry.sources.declared import Declared


class SuiteColumn(Declared):
    """A column: its type, and the SuiteQL expression that it comes from (its own name by default)."""

    type: str
    sql: str = ""


class SuiteQuery(Declared):
    """What is read.

    Attributes:
        table: of SuiteQL: `transaction`, `customer`, `transactionline`, …, joins included.
        columns: the columns. SuiteQL hands all values over as text, so they are parsed as their type;
            dates and times are asked for in ISO form.
        id: the expression of a unique whole number that gives the total order.
        modified: the expression of the time of the last change, if there is one.
        where: a condition that always applies.
        paging: `keyset` on the id, which has no cap; `offset` in the order of (modified, id), whose
            windows split before 100,000 rows.
    """

    table: str
    columns: dict[str, SuiteColumn | str]
    id: str = "id"
    modified: str = "lastmodifieddate"
    where: str = ""
    paging: Literal["keyset", "offset"] = "keyset"

"""What a target's database says, as errors that tell what to do next."""

from itertools import takewhile
from typing import Any

import adbc_driver_manager as adbc
import psycopg

from ferry.contract.verdict import withheld
from ferry.errors import FerryError, PermanentError, TransientError
from ferry.plan import EntityPlan

# What a single row can be refused for. Anything else that the database says is not about one row.
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException)
PASSING = (
    psycopg.OperationalError,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    adbc.OperationalError,
)


def refusal(error: psycopg.Error, plan: EntityPlan) -> dict[str, Any]:
    """What the target said of one row that it refused: column or constraint, rule and message.

    Where the contract has personal fields, what could repeat the row's values is left out.
    """
    said, detail = error.diag.message_primary or str(error), error.diag.message_detail
    if plan.personal:
        detail = None
        if not isinstance(error, psycopg.IntegrityError):
            said = withheld(said)
    return {
        "column": error.diag.column_name or error.diag.constraint_name or "",
        "rule": (error.diag.constraint_name and "constraint") or type(error).__name__,
        "value": None,
        "message": " ".join(filter(None, [said, detail])),
    }


def told(error: psycopg.Error | adbc.Error, where: str) -> FerryError:
    """What the database said, through either driver, as an error that says whether trying again can help."""
    return _passing(error, where) if isinstance(error, PASSING) or _full(error) else _refused(error, where)


def _passing(error: psycopg.Error | adbc.Error, where: str) -> TransientError:
    """The error of a lost connection, a deadlock, a lock that somebody holds or a full disk."""
    undone = "The transaction was undone; the next try goes on where the ledger ends"
    match error:
        case psycopg.errors.LockNotAvailable():
            what, help_ = (
                "somebody else holds a lock",
                "See pg_locks for who it is, or wait longer (FERRY_LOCK_TIMEOUT_SECONDS)",
            )
        case _ if _full(error):
            what, help_ = "the target has no space left", "Make room there"
        case _:
            what, help_ = "the target broke off", ""
    return TransientError(what, where=where, why=_said(error), next=f"{help_}. {undone}".removeprefix(". "))


def _full(error: Exception) -> bool:
    """A disk that is full, or a file that may not grow, which PostgreSQL has no code of its own for."""
    return isinstance(error, psycopg.errors.DiskFull) or "File too large" in str(error)


def _refused(error: psycopg.Error | adbc.Error, where: str) -> FerryError:
    """The error of a statement that the target will refuse again."""
    return PermanentError(
        "the target refused the load", where=where, why=_said(error), next="Nothing of it was kept"
    )


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # From here on PostgreSQL shows the statement.
    lines = list(takewhile(lambda line: not line.startswith("LINE "), lines))
    return " ".join(lines[:2]) if lines else type(error).__name__

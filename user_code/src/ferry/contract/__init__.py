"""What a row may be: one Pydantic model an entity, judged at columnar speed with Pydantic's own verdict.

A contract is the only declaration of what a source row may look like. `compile_contract` reads Pydantic's
core schema (the very structure Pydantic validates with) and compiles a closed, documented subset of it to
checks over whole Arrow columns (`docs/contracts.md`). A columnar check only ever says "surely accepted";
every value it doubts, and every rule outside the subset, goes through Pydantic itself, which also words the
errors. So the verdict is Pydantic's, row by row, however a rule was checked. Contracts judge: no value is
ever changed.

Importing this package loads Pydantic alone. Arrow and Polars come with the first compiled contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ferry.contract.model import Contract, Int16, Int32, Int64, Personal

if TYPE_CHECKING:
    from ferry.contract.columns import ContractColumn
    from ferry.contract.explain import RulePath
    from ferry.contract.judge import CompiledContract, compile_contract
    from ferry.contract.verdict import Verdict

__all__ = [
    "CompiledContract",
    "Contract",
    "ContractColumn",
    "Int16",
    "Int32",
    "Int64",
    "Personal",
    "RulePath",
    "Verdict",
    "compile_contract",
]

_HOMES = {
    "CompiledContract": "judge",
    "ContractColumn": "columns",
    "RulePath": "explain",
    "Verdict": "verdict",
    "compile_contract": "judge",
}


def __getattr__(name: str) -> object:
    """Load what judges only when somebody judges: a contract module must import in a moment."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

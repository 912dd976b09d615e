"""The oracle: what a migration of the shop must give, by plain SQL that shares nothing with the engine."""

from oracle.oracle import Oracle, Outcome

__all__ = ["Oracle", "Outcome"]

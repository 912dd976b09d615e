"""The stack that the tests here share."""

from stack_fixture import stack

__all__ = ["stack"]

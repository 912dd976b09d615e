"""An error says what, where, why and what next; its class alone says whether trying again can help."""

import pytest

from ferry import errors
from ferry.errors import DeclarationError, FerryError, PermanentError, PromiseBroken, TransientError


def test_the_message_is_one_line_of_the_parts_that_are_known() -> None:
    """`where: what. why. next.`, each part once, with one full stop."""
    whole = FerryError(
        "3 rows wait", where="orders, 2021-03", why="customers come later.", next="Load customers"
    )
    assert str(whole) == "orders, 2021-03: 3 rows wait. customers come later. Load customers."
    assert str(FerryError("3 rows wait")) == "3 rows wait."
    assert str(FerryError("3 rows wait", next="Settle")) == "3 rows wait. Settle."


def test_the_same_as_data() -> None:
    """For `--json` and for Dagster's metadata: the parts by name, the class, and whether to try again."""
    error = TransientError("the target broke off", where="orders", retry_after=2.5)
    assert error.as_dict() == {
        "error": "TransientError", "what": "the target broke off", "where": "orders", "why": "", "next": "",
        "retryable": True,
    }  # fmt: skip
    assert error.retry_after == 2.5


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [(DeclarationError, False), (PermanentError, False), (PromiseBroken, False), (TransientError, True)],
)
def test_only_a_passing_fault_is_tried_again(kind: type[FerryError], retryable: bool) -> None:
    """A broken promise or a wrong declaration comes back as it was; a lost connection may not."""
    assert kind("it").retryable is retryable


def test_every_error_of_the_engine_is_one_that_the_command_words() -> None:
    """No public class in `ferry.errors` escapes `except FerryError`."""
    found = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert len(found) >= 5
    assert all(issubclass(one, FerryError) for one in found)

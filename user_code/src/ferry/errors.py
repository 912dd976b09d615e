"""What can go wrong, in words an operator can act on.

Every error says what happened, where, why and what to do next, and its class says whether trying again can
help. Dagster's retry settings follow from the class (see `ferry.components`), never from the text.
"""


class FerryError(Exception):
    """An error with a message for people; no secret and no stack trace belongs in it.

    Args:
        what: the fact, in one sentence: ``3 rows have a customer_id with no new key``.
        where: the place: ``orders, 2021-03, chunk 12`` or ``defs/orders/defs.yaml: references[0].to``.
        why: the cause, when it is known.
        next: what the reader can do about it.
    """

    retryable = False

    def __init__(self, what: str, *, where: str = "", why: str = "", next: str = "") -> None:  # noqa: A002
        self.what, self.where, self.why, self.next = what, where, why, next
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line: `where: what. why. next.` with the empty parts left out; a question keeps its mark."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        parts = (part for part in (head, self.why, self.next) if part)
        return " ".join(part if part.endswith("?") else part.rstrip(".") + "." for part in parts)

    def as_dict(self) -> dict[str, str | bool]:
        """The same for `--json` and for Dagster's metadata."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "next": self.next,
            "retryable": self.retryable,
        }


class DeclarationError(FerryError):
    """A declaration, contract or setting is wrong; nothing was written."""


class PermanentError(FerryError):
    """Trying again changes nothing: somebody has to decide or repair."""


class TransientError(FerryError):
    """The same call may go through later.

    Args:
        retry_after: seconds the other side asked us to wait, if it said so.
    """

    retryable = True

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        why: str = "",
        next: str = "",  # noqa: A002
        retry_after: float | None = None,
    ) -> None:
        self.retry_after = retry_after
        super().__init__(what, where=where, why=why, next=next)


class PromiseBroken(PermanentError):  # noqa: N818 - the noun says it: a promise of the README did not hold
    """Accounting or hashes do not agree; the transaction was rolled back and nothing of it was kept."""

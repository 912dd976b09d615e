"""Bulk mutations: a file of variables goes up, an operation runs one mutation with each line, a file of answers comes.

An operation is found again after its starter has died: by the id that was noted, or by the name of its mutation, which
is made of the request's key. Nothing is taken for done that has no line in the answers.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ferry.errors import DeclarationError, PermanentError, TransientError
from ferry.sources.calls import Caller
from ferry.sources.shopify import judged

# Shopify takes no larger file.
MOST_BYTES = 100_000_000
RUNNING = ("CREATED", "RUNNING", "CANCELING")
BUSY = ("OPERATION_IN_PROGRESS", "LIMIT_REACHED")
LATER = ("NO_SUCH_FILE", "INTERNAL_FILE_SERVER_ERROR")
LONGEST = 24 * 3600.0
LISTED_SINCE = "2026-01"
_FIELDS = "id status errorCode url partialDataUrl query"
_STAGE = (
    "mutation($input: [StagedUploadInput!]!) { done: stagedUploadsCreate(input: $input) {"
    " stagedTargets { url resourceUrl parameters { name value } } userErrors { field message } } }"
)
_RUN = (
    "mutation($mutation: String!, $path: String!) {"
    " done: bulkOperationRunMutation(mutation: $mutation, stagedUploadPath: $path) {"
    " bulkOperation { id status } userErrors { field message code } } }"
)
_LOOK = f"query($id: ID!) {{ node(id: $id) {{ ... on BulkOperation {{ {_FIELDS} }} }} }}"

Answers = dict[int, tuple[dict[str, Any] | None, str]]


class BulkMutations:
    """Runs bulk mutations in one shop.

    Args:
        caller: calls that may be repeated.
        once: the same with one try each, for the call that starts an operation.
        version: of the API.
        poll: seconds between two looks.
    """

    def __init__(self, caller: Caller, once: Caller, version: str, poll: float) -> None:
        self.caller, self.once, self.version, self.poll = caller, once, version, poll

    def run(
        self, name: str, text: str, lines: list[dict[str, Any]], operation: str, note: Callable[[str], None]
    ) -> Answers:
        """Run a mutation with each line, or wait for the operation that does so already.

        Args:
            name: of the mutation, by which its operation is known.
            text: the mutation.
            lines: the variables.
            operation: the id that was noted before; empty if none was.
            note: keeps the id.

        Returns:
            Line number → what the mutation gave, and what was wrong with the line (empty if nothing was).

        Raises:
            TransientError: the operation broke off or is gone; some lines may have taken effect.
            PermanentError: the shop takes no such operation.
        """
        if not operation:
            operation = self.found(name) or self._start(name, text, lines)
            note(operation)
        told = self._ended(operation)
        if told is None or told["status"] != "COMPLETED":
            note("")
            how = f"ended as {told['status']}" if told else "is no longer there"
            denied = told is not None and told.get("errorCode") == "ACCESS_DENIED"
            kind = PermanentError if denied else TransientError
            raise kind(
                f"bulk operation {operation} {how}",
                where="the shop",
                why=str((told or {}).get("errorCode") or ""),
                next="Grant the missing scope"
                if denied
                else "Deliver again: what it did is found, the rest sent",
            )
        return self._answers(told, len(lines)) if told.get("url") else {}

    def found(self, name: str) -> str | None:
        """The id of the operation of a mutation, if it runs or has done its work."""
        if self.version >= LISTED_SINCE:
            query = (
                '{ bulkOperations(first: 50, query: "operation_type:mutation", sortKey: CREATED_AT, reverse: true)'
                f" {{ nodes {{ {_FIELDS} }} }} }}"
            )
            listed = self._ask(query)["bulkOperations"]["nodes"]
        else:
            newest = self._ask(f"{{ currentBulkOperation(type: MUTATION) {{ {_FIELDS} }} }}")
            listed = [newest["currentBulkOperation"]] if newest["currentBulkOperation"] else []
        for one in listed:
            if name in one["query"] and one["status"] in (*RUNNING, "COMPLETED"):
                return one["id"]
        return None

    def _start(self, name: str, text: str, lines: list[dict[str, Any]]) -> str:
        """Upload the lines and start the operation, once one of the shop's places for operations is free."""
        body = "".join(json.dumps(line, default=str) + "\n" for line in lines).encode()
        if len(body) > MOST_BYTES:
            raise DeclarationError(
                f"{len(lines):,} rows are {len(body):,} bytes, and a bulk operation takes {MOST_BYTES:,}",
                where="target.api.shopify.bulk",
                next="Lower `size`",
            )
        until = time.monotonic() + LONGEST
        path = self._upload(name, body)
        while True:
            try:
                told = self._ask(_RUN, {"mutation": text, "path": path}, self.once)["done"]
            except TransientError:
                # The answer is lost; the operation may run.
                if (running := self.found(name)) is not None:
                    return running
                if time.monotonic() > until:
                    raise
                time.sleep(self.poll)
                continue
            if told["bulkOperation"]:
                return told["bulkOperation"]["id"]
            errors = told["userErrors"]
            why = "; ".join(one["message"] for one in errors) or "it gives no reason"
            codes = {one.get("code") for one in errors}
            if codes & set(LATER):
                path = self._upload(name, body)
            elif not codes & set(BUSY) and "in progress" not in why:
                raise PermanentError("the shop refuses the bulk mutation", where=name, why=why)
            if time.monotonic() > until:
                raise TransientError("no place for a bulk operation becomes free", where="the shop", why=why)
            time.sleep(self.poll)

    def _upload(self, name: str, body: bytes) -> str:
        """Put a file where the shop says; gives its path there."""
        asked = {"resource": "BULK_MUTATION_VARIABLES", "filename": f"{name}.jsonl", "mimeType": "text/jsonl",
                 "httpMethod": "POST"}  # fmt: skip
        told = self._ask(_STAGE, {"input": [asked]})["done"]
        if told["userErrors"] or not told["stagedTargets"]:
            raise PermanentError(
                "the shop takes no file for a bulk mutation",
                where="stagedUploadsCreate",
                why="; ".join(one["message"] for one in told["userErrors"]),
            )
        target = told["stagedTargets"][0]
        fields = {one["name"]: one["value"] for one in target["parameters"]}
        self.caller.upload(target["url"], fields, f"{name}.jsonl", body)
        return fields["key"]

    def _ended(self, operation: str) -> dict[str, Any] | None:
        """An operation when it has ended; None if the shop does not know it any more."""
        until = time.monotonic() + LONGEST
        while True:
            told = self._ask(_LOOK, {"id": operation})["node"]
            if told is None or told["status"] == "EXPIRED":
                return None
            if told["status"] not in RUNNING:
                return told
            if time.monotonic() > until:
                raise TransientError(f"bulk operation {operation} does not end", where="the shop")
            time.sleep(self.poll)

    def _answers(self, told: dict[str, Any], lines: int) -> Answers:
        """The file of answers by line; a file that ends too early is fetched once more."""
        found: Answers = {}
        for _ in range(2):
            with tempfile.TemporaryDirectory(prefix="ferry-") as folder:
                file = Path(folder) / "answers.jsonl"
                self.caller.download(told["url"], file)
                found = _read(file)
            if len(found) == lines:
                break
        return {number: answer for number, answer in found.items() if 0 <= number < lines}

    def _ask(self, query: str, variables: dict[str, Any] | None = None, caller: Caller | None = None) -> Any:
        body = {"query": query, "variables": variables or {}}
        return (caller or self.caller).call("POST", "graphql.json", json=body, judge=judged, cost=10)


def _read(file: Path) -> Answers:
    found: Answers = {}
    with file.open("rb") as stream:
        for text in stream:
            try:
                one = json.loads(text)
            except ValueError:
                continue  # a line that was cut off is a line that is missing
            errors = one.get("errors") or []
            problem = "; ".join(str(error.get("message", error)) for error in errors)
            told = next(iter((one.get("data") or {}).values()), None)
            found[int(one["__lineNumber"])] = (told, problem)
    return found

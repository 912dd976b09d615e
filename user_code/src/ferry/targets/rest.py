"""Rows to a REST API, so that none is created twice: a key with each request, or a look before a repetition."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ferry.errors import PermanentError, TransientError
from ferry.settings import Settings
from ferry.sources.calls import Answer, Caller, Refused, Throttled
from ferry.sources.declared import checked
from ferry.sources.rest import caller_of
from ferry.sources.rest_declaration import RestConnection, RestDeclaration
from ferry.targets.api_declaration import RestTarget
from ferry.targets.item import Item, Result, placed

# What a status says of one row. Anything else that is refused is about all of them: credentials, address, permission.
ROW_REFUSED = (400, 409, 413, 415, 422)
GONE = (404, 410)


class RestTargetApi:
    """One resource of an API, called over limits that all runs of this machine share."""

    def __init__(self, declared: RestTarget, connection: str, settings: Settings, where: str) -> None:
        """Args: the declaration, the connection's name, the settings with its parts, and the place for errors."""
        self.declared = declared
        parts = settings.parts(connection, f"{where}: target.api.connection")
        checked(RestConnection, parts, f"FERRY_CONNECTIONS__{connection.upper()}")
        same = declared.model_dump(include={"path", "rate", "retries", "throttled"})
        self.caller = self._caller(parts | same, settings.state_root)
        # Where a repetition is no repetition to the API, one try is one try; what became of it is looked up.
        once = same | {"retries": same["retries"] | {"attempts": 1}}
        self.once = (
            self.caller if declared.idempotency_header else self._caller(parts | once, settings.state_root)
        )

    def _caller(self, given: dict[str, Any], state_dir: Path) -> Caller:
        caller = caller_of(RestDeclaration.parse(given), state_dir)
        caller.who = "the target API"
        return caller

    @property
    def batch(self) -> int:
        """How many rows one request takes."""
        return self.declared.bulk.size if self.declared.bulk else 1

    @property
    def upserts(self) -> bool:
        """Creating a row that is there is no update."""
        return False

    @property
    def seals(self) -> bool:
        """What went inside a row can be changed as the row can."""
        return False

    def find(self, items: list[Item]) -> list[Result]:
        """Those of some rows that are over there, for an API that would not recognise a repetition."""
        if self.declared.find is None:
            return []
        return [Result(item.key, found) for item in items if (found := self._find(item)) is not None]

    def create(self, items: list[Item], note: Callable[[str], None]) -> list[Result]:  # noqa: ARG002 - one call is all
        """Create rows that belong to one request, or find those that an earlier try created.

        Raises:
            TransientError: patience ended; what became of the rows is not known.
            PermanentError: the API refuses all of them: credentials, permission, address.
        """
        if self.declared.bulk:
            return self._create_many(items)
        return [self._create(item) for item in items]

    def _create(self, item: Item) -> Result:
        header = self.declared.idempotency_header
        if header:
            headers = {header: str(item.request)}
            return self._row(
                item, lambda: self.caller.call("POST", self.declared.path, json=item.body, headers=headers)
            )
        tries, doubtful = self.declared.retries.attempts, False
        while True:
            found = self._find(item) if doubtful else None
            if found is not None:
                return Result(item.key, found)
            try:
                return self._row(item, lambda: self.once.call("POST", self.declared.path, json=item.body))
            except Throttled:
                raise
            except TransientError:
                tries, doubtful = tries - 1, True
                if tries <= 0:
                    raise

    def _create_many(self, items: list[Item]) -> list[Result]:
        bulk = self.declared.bulk
        assert bulk is not None
        listed: Any = [item.body for item in items]
        body = placed({}, bulk.items, listed) if bulk.items else listed
        headers = {self.declared.idempotency_header: str(items[0].request)}
        answer = self.caller.call("POST", bulk.path, json=body, headers=headers)
        told = dug(answer.json(), bulk.results)
        if not isinstance(told, list) or len(told) != len(items):
            raise PermanentError(
                f"the bulk answer has no result for each of {len(items)} rows",
                where=answer.request,
                why=answer.excerpt,
                next="Compare target.api.rest.bulk with the API's reference",
            )
        results = []
        for item, one in zip(items, told, strict=True):
            found = dug(one, self.declared.id)
            problem = "" if found is not None else self.caller.hide(str(dug(one, bulk.error) or one))[:500]
            results.append(Result(item.key, None if found is None else str(found), problem))
        return results

    def update(self, item: Item) -> Result:
        """Bring a row over there up to date; repeating it changes nothing."""
        path = f"{self.declared.path}/{item.remote_id}"
        told = self._row(item, lambda: self.caller.call(self.declared.update, path, json=item.body))
        return Result(item.key, item.remote_id, told.problem)

    def delete(self, remote_id: str) -> None:
        """Take a row back; one that is gone already is gone."""
        try:
            self.caller.call("DELETE", f"{self.declared.path}/{remote_id}", judge=lambda answer: answer)
        except Refused as error:
            if error.status not in GONE:
                raise

    def read(self, remote_id: str) -> dict[str, Any] | None:
        """A row as it is over there, None if it is not."""
        try:
            return self.caller.call("GET", f"{self.declared.path}/{remote_id}").json()
        except Refused as error:
            if error.status in GONE:
                return None
            raise

    def named(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """The body with the row's key in it, where the API is to find it by that."""
        find = self.declared.find
        return placed(body, find.field, key) if find else body

    def seen(self, body: dict[str, Any]) -> dict[str, Any]:
        """All of a body is read back."""
        return body

    def _row(self, item: Item, call: Any) -> Result:
        try:
            answer: Answer = call()
        except Refused as error:
            if error.status not in ROW_REFUSED:
                raise
            return Result(item.key, None, f"{error.what}: {error.why}"[:500])
        found = dug(answer.json(), self.declared.id)
        if found is None and item.remote_id is None:
            raise PermanentError(
                f"the answer has no id at {self.declared.id!r}", where=answer.request, why=answer.excerpt
            )
        return Result(item.key, item.remote_id or str(found))

    def _find(self, item: Item) -> str | None:
        find = self.declared.find
        assert find is not None
        answer = self.caller.call("GET", self.declared.path, params={find.param: item.key})
        records = dug(answer.json(), find.records) if find.records else answer.json()
        if isinstance(records, list) and len(records) > 1:
            raise PermanentError(
                f"the API has {len(records)} rows with the key {item.key}",
                where=answer.request,
                next="Remove all but one there; Ferry sends a key once",
            )
        return str(dug(records[0], self.declared.id)) if records else None


def dug(told: Any, place: str) -> Any:
    """What lies at a dotted place, None if nothing does."""
    for step in place.split(".") if place else ():
        told = told.get(step) if isinstance(told, dict) else None
    return told

"""What a user writes: `Contract` to inherit from and `Personal` to mark a field with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticKnownError, core_schema

if TYPE_CHECKING:
    from ferry.contract.judge import CompiledContract

PERSONAL = "ferry_personal"
NUL_RULE = "nul_character"
_NUL_MESSAGE = "String should not contain a NUL character, which no PostgreSQL text can hold"
# Keys of a core schema under which no schema lives, but user data that may look like one.
_NOT_SCHEMAS = frozenset({"metadata", "config", "default", "expected", "members", "cls", "ref", "function"})


Int16 = Annotated[int, Field(ge=-(2**15), lt=2**15)]
"""What PostgreSQL's `smallint` holds."""
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
"""What PostgreSQL's `integer` holds."""
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What PostgreSQL's `bigint` holds."""


class Personal:
    """Marks a field whose values belong to a person: `email: Annotated[EmailStr, Personal()]`.

    It changes no verdict. In errors, metadata, logs and `ferry.rejected_rows` details the value is shown as
    `***`, and a message is withheld when its wording could repeat the value.
    """

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> Any:
        """Leave the mark in the core schema, where it is found however deep the annotation is nested."""
        schema: dict[str, Any] = dict(handler(source))
        schema["metadata"] = dict(schema.get("metadata") or {}, **{PERSONAL: True})
        return schema

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Carry the mark into the contract's JSON Schema as `x-personal`."""
        document = handler(schema)
        handler.resolve_ref_schema(document)["x-personal"] = True
        return document

    def __eq__(self, other: object) -> bool:
        """Every mark is the same mark."""
        return isinstance(other, Personal)

    def __hash__(self) -> int:
        """Equal marks have equal hashes."""
        return hash(Personal)

    def __repr__(self) -> str:
        """As it was written."""
        return "Personal()"


class MemberOf:
    """Lets an Enum field accept the *values* of its members, type included, and nothing else.

    Strict Pydantic wants instances of the Enum, which no database or file can deliver. The value must have
    the very type of a member's value (`1` is not `"1"`, `True` is not `1`).
    """

    def __init__(self, enum: type[Enum]) -> None:
        """Look the members' values up once."""
        self.enum = enum
        self.members = {(type(member.value), member.value): member for member in enum}
        quoted = [repr(member.value) for member in enum]
        self.expected = (
            " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]])) if quoted else "nothing"
        )

    def __call__(self, value: object) -> object:
        """The member that has this value, or Pydantic's own `enum` error."""
        if isinstance(value, self.enum):
            return value
        try:
            return self.members[(type(value), value)]
        except (KeyError, TypeError):
            raise PydanticKnownError("enum", {"expected": self.expected}) from None


def is_enum_by_value(node: Mapping[str, Any]) -> bool:
    """Whether this core schema is an Enum judged by the values of its members."""
    return node.get("type") == "function-before" and isinstance(node["function"].get("function"), MemberOf)


def is_text_without_nul(node: Mapping[str, Any]) -> bool:
    """Whether this core schema is a text in two steps: the declared rules, then no NUL."""
    return node.get("type") == "chain" and node["steps"][-1].get("custom_error_type") == NUL_RULE


def _enum_by_value(node: dict[str, Any], enum: type[Enum]) -> dict[str, Any]:
    by_value = core_schema.no_info_before_validator_function(MemberOf(enum), node)  # type: ignore[arg-type]
    return _with_mark_of(node, dict(by_value))


def _text_without_nul(node: dict[str, Any]) -> dict[str, Any]:
    # Two steps inside pydantic-core, no Python call per value; the JSON Schema is that of the first step.
    free_of_nul = core_schema.custom_error_schema(
        core_schema.str_schema(pattern=r"^[^\x00]*$", regex_engine="rust-regex", strip_whitespace=False),
        custom_error_type=NUL_RULE,
        custom_error_message=_NUL_MESSAGE,
    )
    return _with_mark_of(node, dict(core_schema.chain_schema([node, free_of_nul])))  # type: ignore[list-item]


def _with_mark_of(node: dict[str, Any], wrapped: dict[str, Any]) -> dict[str, Any]:
    if (node.get("metadata") or {}).get(PERSONAL):
        wrapped["metadata"] = {PERSONAL: True}
    return wrapped


def _for_source_rows(node: Any, resolve: Callable[[Any], Any]) -> Any:
    """A core schema with each Enum judged by value and each text kept free of NUL; the rest as it is."""
    if isinstance(node, (list, tuple)):
        return type(node)(_for_source_rows(item, resolve) for item in node)
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if is_text_without_nul(node) or is_enum_by_value(node):
        return node  # a nested contract has been through here already
    if kind == "definition-ref":
        try:
            target = resolve(node)
        except LookupError:  # a model that refers to itself is not complete yet; it comes here on its own
            return node
        return _enum_by_value(node, target["cls"]) if target.get("type") == "enum" else node
    if kind == "enum":
        return _enum_by_value(node, node["cls"])
    if kind == "union":
        # A label keeps the error's location short: ('code', 'str') rather than the whole chain spelled out.
        choices = [
            (_for_source_rows(choice, resolve), choice["type"])
            if isinstance(choice, dict) and choice.get("type") in ("str", "enum")
            else _for_source_rows(choice, resolve)
            for choice in node["choices"]
        ]
        return {**node, "choices": choices}
    rewritten = {
        key: value
        if key in _NOT_SCHEMAS or (kind == "dict" and key == "keys_schema")
        else _for_source_rows(value, resolve)
        for key, value in node.items()
    }
    return _text_without_nul(rewritten) if kind == "str" else rewritten


class Contract(BaseModel):
    """What one source row may be; inherit from it and declare the source's columns as fields.

    Strict and frozen: a contract judges, it never converts (a text `"5"` is no `int`). Two rules are Ferry's
    and are part of the model itself, so `Order.model_validate(row)` says the same as a compiled contract: an
    Enum is judged by its members' values, and text may not contain NUL. Validators may look at values but
    whatever they return is thrown away.
    """

    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Pydantic's schema of the model, made fit for rows that come from a database or a file."""
        schema = handler(source)
        # Pydantic keeps a model's schema aside and hands over a reference to it.
        return _for_source_rows(handler.resolve_ref_schema(schema), handler.resolve_ref_schema)

    @classmethod
    def compiled(cls) -> CompiledContract:
        """This contract ready to judge Arrow batches; compiled once a class."""
        from ferry.contract.judge import compile_contract

        return compile_contract(cls)

    @classmethod
    def dagster_type(cls) -> Any:
        """A `DagsterType` for your own pandas or Arrow assets: `@asset(dagster_type=…)`."""
        from ferry.dagster_types import dagster_type

        return dagster_type(cls)

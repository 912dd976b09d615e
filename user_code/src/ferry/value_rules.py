"""What may be declared of values: how text is read (`parse`), and how a target column is made (`mapping`).

Values change by these rules alone. A value that a rule cannot read or make is rejected with its row, never replaced.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ParseRule(_Strict):
    """How the text of one source column is read: `integer`, `numeric(12,2)`, `date`, …; see `parse.TYPES`.

    Without `format` dates and times are ISO 8601. `zone` is the zone of a `timestamptz` whose text names none.
    """

    type: str = "text"
    decimal: str = Field(default=".", min_length=1, max_length=1)
    thousands: str = Field(default="", max_length=1)
    format: str | None = None
    zone: str | None = None
    true: tuple[str, ...] = ("true",)
    false: tuple[str, ...] = ("false",)
    null: tuple[str, ...] = ()
    empty_is_null: bool = False
    trim: bool = False

    @model_validator(mode="before")
    @classmethod
    def _a_type_alone(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else _words(value)


def _words(value: Any) -> Any:
    """YAML reads `true: ja` as a key that is no text, and `null:` likewise; `no` as a value is false."""
    if not isinstance(value, dict):
        return value
    names = {True: "true", False: "false", None: "null"}
    named = {names.get(key, key) if not isinstance(key, str) else key: one for key, one in value.items()}
    for name in ("true", "false", "null"):
        if name in named:
            given = named[name]
            listed = given if isinstance(given, list | tuple) else [given]
            named[name] = tuple(_text(one) for one in listed)
    return named


def _text(value: Any) -> Any:
    """A plain value of YAML as the text that was probably written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, str) else str(value)


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Given = Annotated[str | None, BeforeValidator(_text)]


class MappingRule(_Strict):
    """How one target column is made: of a `constant`, of columns, by an `expression` or by a function in `mapping.py`.

    `from` a column goes through `split` and `part`, `json` or `lookup`; then everything through `cast` and `default`.
    """

    constant: Given = None
    source: Annotated[tuple[str, ...], BeforeValidator(_one_or_several)] = Field(alias="from", default=())
    split: str | None = Field(default=None, min_length=1)
    part: int | None = Field(default=None, ge=1)
    json_path: str | None = Field(alias="json", default=None, pattern=r"^\$")
    lookup: dict[Annotated[str, BeforeValidator(_text)], Given] | str | None = None
    otherwise: Given = None
    concat: tuple[str, ...] = ()
    separator: str = Field(alias="with", default="")
    expression: str | None = Field(default=None, min_length=1)
    python: str | None = None
    cast: str | None = None
    default: Given = None

    @model_validator(mode="after")
    def _one_origin(self) -> "MappingRule":
        given = {
            "constant": self.constant is not None,
            "concat": bool(self.concat),
            "expression": self.expression is not None,
            "python": self.python is not None,
        }
        origins = [name for name, is_there in given.items() if is_there]
        if not origins and len(self.source) == 1:
            origins = ["from"]
        if len(origins) != 1:
            raise ValueError("needs one of `from` (a column), `constant`, `concat`, `expression`, `python`")
        if self.source and origins[0] not in ("from", "python"):
            raise ValueError(f"`from` does not go with `{origins[0]}`")
        steps = [name for name in ("split", "json_path", "lookup") if getattr(self, name) is not None]
        if steps and (origins != ["from"] or len(steps) > 1):
            raise ValueError(
                "`split`, `json` and `lookup` each take one column, `from`, and exclude each other"
            )
        if (self.split is None) != (self.part is None):
            raise ValueError("`split` and `part` belong together")
        if self.otherwise is not None and self.lookup is None:
            raise ValueError("`otherwise` is for `lookup`")
        return self

"""What a `source` may be beside a table of a database: the attributes of Shopify, NetSuite, REST and files."""

from __future__ import annotations

from typing import Literal

from ferry.sources.declared import Columns, Declared, FieldSpec
from ferry.sources.file_declaration import FileKind
from ferry.sources.netsuite_declaration import SuiteQuery
from ferry.sources.rest_declaration import RestResource

Unfit = Literal["carry", "fail"]
ShopifyEntityName = Literal[
    "customers", "orders", "line_items", "products", "variants", "customer_metafields", "order_metafields",
    "product_metafields",
]  # fmt: skip


class Paged(Declared):
    """What all of them have.

    Attributes:
        connection: whose URL and credentials are `FERRY_CONNECTIONS__<NAME>`.
        key: the columns that tell rows apart.
        updated_at: the column that grows when a row changes.
        unfit: what becomes of a value that is not of its field's type: `carry` rejects its row, `fail` the window.
    """

    connection: str
    key: Columns = ("id",)
    updated_at: str | None = None
    unfit: Unfit = "carry"


class FromShopify(Paged):
    """An entity of a shop.

    Attributes:
        shopify: which one.
        via: `bulk` operations, GraphQL `pages`, or the `rest` of old.
        fields: columns that take the place of the ready ones: a type, or `{type: …, path: …}`.
    """

    shopify: ShopifyEntityName
    via: Literal["bulk", "pages", "rest"] = "bulk"
    fields: dict[str, FieldSpec | str] | None = None

    @property
    def shows_changes(self) -> bool:
        """Whether a look shows that a window is as it was read, every row that it has counted."""
        return self.via != "rest" and self.shopify != "variants" and not self.shopify.endswith("_metafields")

    @property
    def kind(self) -> str:
        """The word that tells this kind of source from the others."""
        return "shopify"

    @property
    def label(self) -> str:
        """What is read, for people."""
        return self.shopify


class FromNetSuite(Paged):
    """A query of an account.

    Attributes:
        netsuite: table, columns, condition and paging; see `ferry.sources.netsuite.SuiteQuery`.
    """

    netsuite: SuiteQuery

    @property
    def shows_changes(self) -> bool:
        """As for a shop: by the count, and by the column that says when a row changed."""
        return bool(self.netsuite.modified)

    @property
    def kind(self) -> str:
        """The word that tells this kind of source from the others."""
        return "netsuite"

    @property
    def label(self) -> str:
        """What is read, for people."""
        return self.netsuite.table


class FromRest(Paged):
    """A resource of a REST API.

    Attributes:
        rest: path, fields, paging, window, limits; see `ferry.sources.rest_declaration.RestResource`.
    """

    rest: RestResource

    @property
    def shows_changes(self) -> bool:
        """As for a shop, if it was declared how."""
        return bool(self.rest.unchanged and (self.rest.count or self.rest.paging.total))

    @property
    def kind(self) -> str:
        """The word that tells this kind of source from the others."""
        return "rest"

    @property
    def label(self) -> str:
        """What is read, for people."""
        return self.rest.path.strip("/")


class FromFiles(Paged, FileKind):
    """Files below the connection's URL.

    Attributes:
        files: their names, with `*` and `**` for any; `{partition}` stands for the key of a partition.
    """

    files: str
    unfit: Unfit = "carry"

    @property
    def kind(self) -> str:
        """The word that tells this kind of source from the others."""
        return "files"

    @property
    def label(self) -> str:
        """What is read, for people."""
        return self.files

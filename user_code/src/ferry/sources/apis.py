"""Shopify, NetSuite and REST APIs behind the seam: a connection's credentials and a declaration become a client."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, SecretStr

from ferry.errors import DeclarationError
from ferry.sources import netsuite
from ferry.sources.calls import Patience
from ferry.sources.declaration import FromNetSuite, FromRest, FromShopify
from ferry.sources.declared import Declared, checked, columns_of
from ferry.sources.netsuite import Account
from ferry.sources.netsuite_declaration import SuiteColumn
from ferry.sources.page import Pages
from ferry.sources.paged import PagedSource
from ferry.sources.rest import RestSource
from ferry.sources.rest_declaration import RestConnection, RestDeclaration
from ferry.sources.shape import Field
from ferry.sources.shopify import ENTITIES, Shop, ShopifyEntity, ShopifySource
from ferry.sources.shopify_bulk import ShopifyBulkSource
from ferry.sources.shopify_rest import shopify_rest


class ShopConnection(Declared):
    """A shop: what `FERRY_CONNECTIONS__<NAME>` has for it.

    Attributes:
        url: `https://name.myshopify.com`.
        token: the Admin API access token.
        version: the API version.
        poll: seconds before the first look at a bulk operation; later ones are up to fifteen times as far apart.
        attempts, patience, first_wait, longest_wait: see `ferry.sources.calls.Patience`.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    url: str
    token: SecretStr
    version: str = "2026-01"
    poll: float = 1.0
    attempts: int = 6
    patience: float = 900.0
    first_wait: float = 0.5
    longest_wait: float = 60.0


class Shopify(PagedSource):
    """Shops on Shopify."""

    kind: ClassVar[str] = "shopify"

    def client(self, name: str, work_dir: Path, partition: str) -> Pages:  # noqa: ARG002
        """Bulk operations, GraphQL pages or REST, as declared."""
        source = self._source(name)
        had = checked(ShopConnection, self.parts, self.variable)
        patience = Patience(had.attempts, had.patience, had.first_wait, had.longest_wait)
        shop = Shop(
            had.url, had.token.get_secret_value(), self.settings.state_root, had.version, patience=patience
        )
        if source.via == "rest":
            return shopify_rest(shop, source.shopify, work_dir=work_dir, unfit=source.unfit)
        entity = self._entity(name)
        if source.via == "pages":
            return ShopifySource(shop, entity, work_dir=work_dir, unfit=source.unfit)
        poll = (had.poll, 15 * had.poll)
        return ShopifyBulkSource(shop, entity, work_dir=work_dir, poll=poll, unfit=source.unfit)

    def fields(self, name: str) -> list[Field]:
        """The ready columns of the entity, or those that the declaration has instead."""
        if self._source(name).via != "rest":
            return self._entity(name).fields
        shop = Shop("https://none", "none", self.settings.state_root)
        return shopify_rest(shop, self._source(name).shopify).declared.columns() or []

    def _source(self, name: str) -> FromShopify:
        source = self.declared(name)
        assert isinstance(source, FromShopify)
        return source

    def _entity(self, name: str) -> ShopifyEntity:
        source = self._source(name)
        fields = columns_of(source.fields)
        entity = ENTITIES[source.shopify]
        return entity if fields is None else replace(entity, fields=fields)


class NetSuite(PagedSource):
    """Accounts of NetSuite, by SuiteQL."""

    kind: ClassVar[str] = "netsuite"

    def client(self, name: str, work_dir: Path, partition: str) -> Pages:  # noqa: ARG002
        """The declared query."""
        account = checked(Account, self.parts, self.variable)
        source = self._source(name)
        return netsuite.NetSuiteSource(
            account,
            source.netsuite,
            state_dir=self.settings.state_root,
            work_dir=work_dir,
            unfit=source.unfit,
        )

    def fields(self, name: str) -> list[Field]:
        """The columns of the query."""
        return [
            netsuite.field_of(column, said) for column, said in self._source(name).netsuite.columns.items()
        ]

    def window_key(self, name: str, column: str) -> str:
        """The expression that the column comes from."""
        said = self._source(name).netsuite.columns.get(column)
        return said.sql if isinstance(said, SuiteColumn) and said.sql else column

    def _source(self, name: str) -> FromNetSuite:
        source = self.declared(name)
        assert isinstance(source, FromNetSuite)
        return source


class RestApi(PagedSource):
    """Any REST API, as it was declared."""

    kind: ClassVar[str] = "rest"

    def client(self, name: str, work_dir: Path, partition: str) -> Pages:  # noqa: ARG002
        """The declared resource at the connection's URL, with its credentials."""
        source = self._source(name)
        # Checked by itself first, so that a fault in it is named after its variable and shows no value.
        checked(RestConnection, self.parts, self.variable)
        paths = {field.name: field.path or field.name for field in self.fields(name)}
        resource = source.rest.model_dump(exclude_unset=True)
        given: dict[str, Any] = {**resource, **self.parts, "unfit": source.unfit}
        if "[]" not in source.rest.records.rstrip("[]"):
            given.setdefault("key", [paths.get(column, column) for column in source.key])
            if source.updated_at:
                given.setdefault("version", paths.get(source.updated_at, source.updated_at))
        declared = RestDeclaration.parse(given, f"{self.migration[name].path}: source.rest")
        return RestSource(declared, state_dir=self.settings.state_root, work_dir=work_dir)

    def fields(self, name: str) -> list[Field]:
        """The declared fields; raises `DeclarationError` if there are none."""
        fields = columns_of(self._source(name).rest.fields)
        if not fields:
            raise DeclarationError(
                "an API does not say what its columns are",
                where=f"{self.migration[name].path}: source.rest.fields",
                next='Declare them: `fields: {id: int, total: "decimal(12,2)", …}`',
            )
        return fields

    def _source(self, name: str) -> FromRest:
        source = self.declared(name)
        assert isinstance(source, FromRest)
        return source

"""Shopify's schema as far as the emulator goes, how its fields are resolved, and what a query costs."""
# The schema's lines are long.
# ruff: noqa: E501

from __future__ import annotations

import base64
from typing import Any

from graphql import InlineFragmentNode, value_from_ast_untyped

_CONNECTIONS = {
    "Order": "CREATED_AT UPDATED_AT PROCESSED_AT ID", "Customer": "CREATED_AT UPDATED_AT NAME ID",
    "Product": "CREATED_AT UPDATED_AT TITLE ID", "ProductVariant": "TITLE SKU POSITION ID",
}  # fmt: skip
_ROOTS = {
    "Order": "orders",
    "Customer": "customers",
    "Product": "products",
    "ProductVariant": "productVariants",
}

SDL = """
scalar DateTime
scalar Decimal
scalar UnsignedInt64
scalar URL
interface Node { id: ID! }
type PageInfo { hasNextPage: Boolean! endCursor: String }
enum CountPrecision { EXACT AT_LEAST }
type Count { count: Int! precision: CountPrecision! }
type MoneyV2 { amount: Decimal! currencyCode: String! }
type MoneyBag { shopMoney: MoneyV2! presentmentMoney: MoneyV2! }
type CustomerEmailAddress { emailAddress: String! }
type CustomerPhoneNumber { phoneNumber: String! }
type AccessScope { handle: String! description: String! }
type AppInstallation { id: ID! accessScopes: [AccessScope!]! }
type ApiVersion { handle: String! supported: Boolean! displayName: String! }
type Shop { id: ID! name: String! myshopifyDomain: String! }
type Metafield implements Node { id: ID! namespace: String! key: String! type: String! value: String!
  createdAt: DateTime! updatedAt: DateTime! }
type Customer implements Node { id: ID! legacyResourceId: UnsignedInt64! firstName: String lastName: String
  email: String phone: String defaultEmailAddress: CustomerEmailAddress defaultPhoneNumber:
      CustomerPhoneNumber
  state: String! numberOfOrders: UnsignedInt64! note: String tags: [String!]! createdAt: DateTime!
      updatedAt: DateTime!
  metafields(first: Int, after: String): MetafieldConnection! }
type LineItem implements Node { id: ID! title: String! sku: String quantity: Int! product: Product
  variant: ProductVariant originalUnitPriceSet: MoneyBag! }
type Order implements Node { id: ID! legacyResourceId: UnsignedInt64! name: String! email: String customer:
Customer
  note: String currencyCode: String! totalPriceSet: MoneyBag! displayFinancialStatus: String displayFulfillmentStatus:
      String!
  cancelledAt: DateTime processedAt: DateTime! createdAt: DateTime! updatedAt: DateTime! tags: [String!]!
  lineItems(first: Int, after: String): LineItemConnection! metafields(first: Int, after: String):
  MetafieldConnection! }
type Product implements Node { id: ID! legacyResourceId: UnsignedInt64! title: String! handle: String! vendor:
String!
  productType: String! status: String! tags: [String!]! createdAt: DateTime! updatedAt: DateTime!
  variants(first: Int, after: String): ProductVariantConnection!
  metafields(first: Int, after: String): MetafieldConnection! }
type ProductVariant implements Node { id: ID! legacyResourceId: UnsignedInt64! title: String! sku: String
  price: Decimal! position: Int! product: Product! createdAt: DateTime! updatedAt: DateTime! }
type BulkOperation implements Node { id: ID! status: String! errorCode: String objectCount: UnsignedInt64!
  rootObjectCount: UnsignedInt64! fileSize: UnsignedInt64 url: URL partialDataUrl: URL query: String!
      type: String!
  createdAt: DateTime! completedAt: DateTime }
type UserError { field: [String!] message: String! }
type BulkPayload { bulkOperation: BulkOperation userErrors: [UserError!]! }
type BulkMutationUserError { field: [String!] message: String! code: String }
type BulkMutationPayload { bulkOperation: BulkOperation userErrors: [BulkMutationUserError!]! }
enum BulkOperationType { QUERY MUTATION }
enum BulkOperationsSortKeys { CREATED_AT COMPLETED_AT }
type BulkOperationConnection { nodes: [BulkOperation!]! }
enum StagedUploadTargetGenerateUploadResource { BULK_MUTATION_VARIABLES FILE IMAGE }
enum StagedUploadHttpMethodType { POST PUT }
input StagedUploadInput { resource: StagedUploadTargetGenerateUploadResource! filename: String! mimeType: String!
  httpMethod: StagedUploadHttpMethodType }
type StagedUploadParameter { name: String! value: String! }
type StagedMediaUploadTarget { url: URL resourceUrl: URL parameters: [StagedUploadParameter!]! }
type StagedUploadsCreatePayload { stagedTargets: [StagedMediaUploadTarget!] userErrors: [UserError!]! }
type Mutation {
  stagedUploadsCreate(input: [StagedUploadInput!]!): StagedUploadsCreatePayload
  bulkOperationRunMutation(mutation: String!, stagedUploadPath: String!, clientIdentifier: String): BulkMutationPayload
  orderCreate(order: OrderCreateOrderInput!, options: OrderCreateOptionsInput): OrderCreatePayload
  orderUpdate(input: OrderInput!): OrderUpdatePayload
  orderDelete(orderId: ID!): OrderDeletePayload bulkOperationRunQuery(query: String!, groupObjects: Boolean! = false): BulkPayload
  bulkOperationCancel(id: ID!): BulkPayload
  customerSet(identifier: CustomerSetIdentifiers, input: CustomerSetInput!): CustomerSetPayload
  customerDelete(input: CustomerDeleteInput!): CustomerDeletePayload
  productSet(identifier: ProductSetIdentifiers, input: ProductSetInput!, synchronous: Boolean! = true): ProductSetPayload
  productDelete(input: ProductDeleteInput!): ProductDeletePayload }
input UniqueMetafieldValueInput { namespace: String key: String! value: String! }
input CustomerSetIdentifiers { customId: UniqueMetafieldValueInput email: String id: ID phone: String }
input ProductSetIdentifiers { customId: UniqueMetafieldValueInput handle: String id: ID }
input CustomerSetInput { firstName: String lastName: String email: String phone: String note: String tags: [String!] }
input ProductSetInput { title: String handle: String vendor: String productType: String status: String tags: [String!]
  productOptions: [OptionSetInput!] variants: [ProductVariantSetInput!] }
input OptionSetInput { name: String values: [OptionValueSetInput!] }
input OptionValueSetInput { name: String }
input VariantOptionValueInput { optionName: String name: String }
input ProductVariantSetInput { optionValues: [VariantOptionValueInput!]! sku: String price: Decimal }
input OrderIdentifierInput { customId: UniqueMetafieldValueInput id: ID }
input MetafieldInput { namespace: String key: String type: String value: String }
input MoneyInput { amount: Decimal! currencyCode: String! }
input MoneyBagInput { shopMoney: MoneyInput! }
input OrderCreateAssociateCustomerAttributesInput { id: ID email: String }
input OrderCreateCustomerInput { toAssociate: OrderCreateAssociateCustomerAttributesInput }
input OrderCreateLineItemInput { variantId: ID productId: ID title: String sku: String quantity: Int! priceSet: MoneyBagInput }
input OrderCreateOrderInput { customer: OrderCreateCustomerInput email: String name: String note: String tags: [String!]
  currency: String processedAt: DateTime financialStatus: String lineItems: [OrderCreateLineItemInput!]
  metafields: [MetafieldInput!] }
input OrderCreateOptionsInput { inventoryBehaviour: String sendReceipt: Boolean }
input OrderInput { id: ID! email: String note: String phone: String poNumber: String tags: [String!] }
input CustomerDeleteInput { id: ID! }
input ProductDeleteInput { id: ID! }
type CustomerSetPayload { customer: Customer userErrors: [UserError!]! }
type ProductSetPayload { product: Product userErrors: [UserError!]! }
type CustomerDeletePayload { deletedCustomerId: ID userErrors: [UserError!]! }
type ProductDeletePayload { deletedProductId: ID userErrors: [UserError!]! }
type OrderCreatePayload { order: Order userErrors: [UserError!]! }
type OrderUpdatePayload { order: Order userErrors: [UserError!]! }
type OrderDeletePayload { deletedId: ID userErrors: [UserError!]! }
"""
for _kind in (*_CONNECTIONS, "LineItem", "Metafield"):
    SDL += (
        f"type {_kind}Edge {{ cursor: String! node: {_kind}! }}\n"
        f"type {_kind}Connection {{ edges: [{_kind}Edge!]! nodes: [{_kind}!]! pageInfo: PageInfo! }}\n"
    )
SDL += "type Query { shop: Shop! node(id: ID!): Node currentAppInstallation: AppInstallation!\n"
SDL += "publicApiVersions: [ApiVersion!]!\n"
SDL += "currentBulkOperation(type: BulkOperationType = QUERY): BulkOperation\n"
SDL += "bulkOperations(first: Int, query: String, sortKey: BulkOperationsSortKeys = CREATED_AT, reverse: Boolean = false):"
SDL += " BulkOperationConnection!\norderByIdentifier(identifier: OrderIdentifierInput!): Order\n"
for _kind, _root in _ROOTS.items():
    SDL += f"{_root}(first: Int, after: String, query: String, sortKey: {_kind}SortKeys = ID, reverse: Boolean = false): {_kind}Connection!\n"
    SDL += f"{_root}Count(query: String, limit: Int = 10000): Count\n"
SDL += "}\n"
for _kind, _keys in _CONNECTIONS.items():
    SDL += f"enum {_kind}SortKeys {{ {_keys} }}\n"


def resolved(source: Any, info: Any, **given: Any) -> Any:
    """A field of an object; a list that is a connection inside it in pages, as the object's own connection is."""
    name = info.field_name
    value = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
    if callable(value):
        return value(info, **given)
    if name not in ("lineItems", "variants", "metafields") or not isinstance(value, list):
        return value
    first, after = given.get("first"), given.get("after")
    if first is None or not 0 < first <= 250:
        raise ValueError("you must provide one of first or last, from 1 to 250")
    begin = 0
    if after is not None:
        last = base64.b64decode(after).decode()
        begin = next((at + 1 for at, one in enumerate(value) if one["id"] == last), -1)
        if begin < 0:
            raise ValueError("Invalid cursor for current pagination sort.")
    page = value[begin : begin + first]
    cursors = [base64.b64encode(one["id"].encode()).decode() for one in page]
    end = after if info.context and info.context.inside_repeats and after else next(reversed(cursors), None)
    return {
        "nodes": page, "edges": [{"node": one, "cursor": c} for one, c in zip(page, cursors, strict=True)],
        "pageInfo": {"hasNextPage": begin + first < len(value), "endCursor": end},
    }  # fmt: skip


def cost_of(document: Any, variables: dict[str, Any]) -> int:
    """The points that a query asks for before it runs, by what its connections could hand out at most."""

    def of(node: Any, times: int) -> int:
        if not getattr(node, "selection_set", None):
            return 0
        total = 0
        for one in node.selection_set.selections:
            if isinstance(one, InlineFragmentNode):
                total += of(one, times)
                continue
            given = {a.name.value: value_from_ast_untyped(a.value, variables) for a in one.arguments}
            if "first" in given:
                total += times * 2 + of(one, times * int(given["first"] or 0))
            elif one.name.value in ("edges", "pageInfo", "nodes"):
                total += (times if one.name.value == "nodes" else 0) + of(one, times)
            elif one.selection_set:
                total += times + of(one, times)
            elif one.name.value.endswith("Count"):
                total += 10
        return total

    main = document.definitions[0]
    return max(1, of(main, 1)) + (10 if main.operation.value == "mutation" else 0)

"""A shop on Shopify moves into a new one: declarations that a user copies, and the new shop's tables."""

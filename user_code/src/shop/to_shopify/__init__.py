"""The old shop moves into a shop on Shopify: declarations that a user copies, and the journal's tables."""

"""What a customer of the old shop may be: as for any other target."""

from shop.defs.customers.contract import Customer

__all__ = ["Customer"]

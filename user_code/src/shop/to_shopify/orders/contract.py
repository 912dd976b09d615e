"""What a order of the old shop may be: as for any other target."""

from shop.defs.orders.contract import Order

__all__ = ["Order"]

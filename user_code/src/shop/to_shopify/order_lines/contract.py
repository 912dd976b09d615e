"""What a line of the old shop may be: as for any other target."""

from shop.defs.order_lines.contract import OrderLine

__all__ = ["OrderLine"]

"""What a article of the old shop may be: as for any other target."""

from shop.defs.products.contract import Product

__all__ = ["Product"]

"""Its declarations."""

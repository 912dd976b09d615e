"""A code location that does not import."""

raise RuntimeError("the mapping file customers.csv is missing")

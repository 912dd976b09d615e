"""The demo's world: an embedded PostgreSQL, a legacy shop full of history and dirt, and a new shop."""

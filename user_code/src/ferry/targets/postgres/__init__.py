"""The SQL of a load into PostgreSQL, each module building on those before it.

Rows arrive by `COPY` in a temporary table (`incoming`). Joins tell what is known of them (`resolve`), each gets its
outcome, its key and its hash (`classify`, `hashes`), and one statement writes them all (`load`). Rows whose parent has
no new key yet, and references that are filled in later, are in `waiting`; what else is done to the map, in `entries`.

Functions take the entity's plan and make a statement or a part of one; they execute nothing. In all of them `i` is an
incoming row, `r` a resolved and `c` a classified one, `t` a row of the target, `m` an entry of the map.
"""

"""Resolved rows with their outcome, their new key and their hash."""

from psycopg import sql

from ferry.plan import EntityPlan
from ferry.targets.postgres.hashes import comparable, row_hash
from ferry.targets.postgres.resolve import resolve


def classify(
    plan: EntityPlan, known: bool, as_null: frozenset[int], place: sql.Composable | None = None
) -> sql.Composed:
    """Give each row its outcome, its key, its hash and, where it was known, whether it differs.

    With a `place`, a row that another partition has in a newer version differs in nothing: that one stays. A row
    that was not loaded yet waits for a parent in doubt as well; what is there stays, and is put right.
    """
    outdated = _outdated(plan, place) if known and place and plan.may_meet else sql.SQL("false")
    waits = [n for n, edge in enumerate(plan.edges) if edge.waits and n not in as_null]
    whens: list[sql.Composable] = []
    if waits:
        new = sql.SQL("true")
        if known and plan.has_map:
            new = sql.SQL("(r.n0 is null or r.status = 'tombstone')")
        elif known:
            new = sql.SQL("{} is null").format(sql.Identifier("t", plan.target_key[0]))
        whens.append(
            sql.SQL("when {} or {} and ({}) then 'waiting'").format(
                sql.SQL(" or ").join(sql.Identifier("r", f"m{n}") for n in waits),
                new,
                sql.SQL(" or ").join(sql.Identifier("r", f"d{n}") for n in waits),
            )
        )
    if plan.has_map and known:
        whens.append(
            sql.SQL("when r.status = 'preserved' and not {} then 'preserved'").format(_takes_over(plan))
        )
    if plan.declaration.match:
        fresh = sql.SQL("r.n0 is null and r.x0 is not null") if known else sql.SQL("r.x0 is not null")
        then = sql.SQL("'known'") if plan.declaration.match.then == "update" else sql.SQL("'preserved'")
        whens.append(sql.SQL("when {} then {}").format(fresh, then))
    key = _known_key(plan, known)
    join = sql.SQL("")
    if known:
        # A key that is in the map, or natural, says nothing about the row: somebody may have deleted it.
        whens.append(
            sql.SQL("when {} is not null then 'known'").format(sql.Identifier("t", plan.target_key[0]))
        )
        join = sql.SQL("left join {} t on {}").format(
            plan.target.identifier,
            sql.SQL(" and ").join(
                sql.SQL("t.{} = {}").format(sql.Identifier(name), value)
                for name, value in zip(plan.target_key, key, strict=True)
            ),
        )
    outcome = (
        sql.SQL("case {} else 'insert' end").format(sql.SQL(" ").join(whens))
        if whens
        else sql.SQL("'insert'")
    )
    differs: sql.Composable = sql.SQL("false")
    if known and plan.written and plan.declaration.mode != "insert_only":
        differs = sql.SQL("not ({}) and ({}) is distinct from ({})").format(
            outdated,
            sql.SQL(", ").join(comparable(plan, "t", name) for name in plan.written),
            sql.SQL(", ").join(comparable(plan, "r", name) for name in plan.written),
        )
    made = plan.declaration.target.key.source != "natural"
    inner = sql.SQL("select r.*, {} as outcome, {} as changed, {} as outdated{} from r {}").format(
        outcome,
        differs,
        outdated,
        sql.SQL("").join(
            sql.SQL(", {} as {}").format(value, sql.Identifier(f"f{position}"))
            for position, value in enumerate(key)
        ),
        join,
    )
    if made:
        name = plan.target_key[0]
        keyed = sql.SQL(
            "select r.*, coalesce(r.f0, case when r.outcome = 'insert' then {} end) as {} from ({}) r"
        )
        inner = keyed.format(new_key(plan), sql.Identifier(f"c_{name}"), inner)
    hashed = row_hash(plan, "c")
    if known and plan.declaration.mode == "insert_only":
        # A row that is there is left as it is, so what it holds is what there should be.
        inner = sql.SQL("select c.*, {} as hash_there from ({}) c left join {} t on {}").format(
            row_hash(plan, "t"),
            inner,
            plan.target.identifier,
            sql.SQL(" and ").join(
                sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
                for name in plan.target_key
            ),
        )
        hashed = sql.SQL("case when c.outcome = 'known' then c.hash_there else {} end").format(hashed)
    return sql.SQL("select c.*, {} as hash from ({}) c").format(hashed, inner)


def _outdated(plan: EntityPlan, place: sql.Composable) -> sql.Composable:
    """Whether the target has a row `r` from another partition, and in a newer version.

    So it does not matter which of them is loaded first. Of two files that have the same version, or none, the one
    whose key comes last counts; an API that shows a row in another window than before has moved it there.
    """
    newer = sql.SQL("false")
    if plan.version:
        newer = sql.SQL(
            "coalesce(r.known_version > r.version, r.known_version is not null and r.version is null)"
        )
    if plan.declaration.source.kind == "files":
        same = sql.SQL("r.known_version is not distinct from r.version") if plan.version else sql.SQL("true")
        newer = sql.SQL('({} or {} and r.known_partition > ({}) collate "C")').format(newer, same, place)
    return sql.SQL("coalesce(r.is_ours and r.known_partition <> {} and {}, false)").format(place, newer)


def _takes_over(plan: EntityPlan) -> sql.Composable:
    match = plan.declaration.match
    return sql.SQL("true" if match and match.then == "update" else "false")


def _known_key(plan: EntityPlan, known: bool) -> list[sql.Composable]:
    if plan.declaration.target.key.source == "natural":
        return [sql.Identifier("r", f"c_{name}") for name in plan.target_key]
    options: list[list[sql.Composable]] = [[] for _ in plan.target_key]
    for position in range(len(plan.target_key)):
        if known:
            options[position].append(sql.Identifier("r", f"n{position}"))
        if plan.declaration.match:
            options[position].append(sql.Identifier("r", f"x{position}"))
    return [
        sql.SQL("coalesce({})").format(sql.SQL(", ").join(choice))
        if choice
        else sql.SQL("null::{}").format(sql.SQL(plan.target.columns[name].type))  # type: ignore[arg-type]
        for name, choice in zip(plan.target_key, options, strict=True)
    ]


def new_key(plan: EntityPlan) -> sql.Composable:
    """The key that a row `r` gets which has none yet."""
    key = plan.declaration.target.key
    column = plan.target.columns[plan.target_key[0]]
    match key.source:
        case "identity":
            # `nextval` for each row is safe when loads run side by side; reserving a range is not.
            return sql.SQL("nextval({}::regclass)::{}").format(
                sql.Literal(column.sequence),
                sql.SQL(column.type),  # type: ignore[arg-type]
            )
        case "uuid7":
            # A version 7 UUID from the clock and the random bits of a version 4 one, on any server version.
            return sql.SQL(
                "encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing substring(int8send("
                "(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6), 52, 1), 53, 1),"
                " 'hex')::uuid"
            )
        case "uuid5":
            return sql.SQL("r.made::uuid")
        case _:
            return sql.SQL("({})").format(sql.SQL(key.expression or "null"))  # type: ignore[arg-type]


def resolved(plan: EntityPlan) -> sql.Composed:
    """The incoming rows as the target should hold them (for reconciliation): `row_no`, key, columns, hash."""
    return sql.SQL("with r as materialized ({}), c as ({}) select * from c").format(
        resolve(plan, True, {}), classify(plan, True, frozenset())
    )

"""Any graph of references, with any dirt, loaded in any order, in part, twice or interrupted: one settled target."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ferry.pipeline import carry
from ferry.plan import MigrationPlan
from ferry.settle import settle
from small import Small

PARTS = ("a", "b")
Key = tuple[int, ...]


@dataclass(frozen=True)
class Edge:
    """A reference: whose key, whether the target's column is NOT NULL, and what becomes of an orphan."""

    to: str
    required: bool
    on_missing: str


@dataclass(frozen=True)
class Row:
    """One source row; `tag` tells it apart on both sides, `refs` are old keys, or None."""

    tag: int
    key: Key
    part: str | None
    refs: tuple[Key | None, ...]


@dataclass(frozen=True)
class Graph:
    """Entities with their edges, the width of their keys, and their rows."""

    edges: dict[str, tuple[Edge, ...]]
    width: dict[str, int]
    rows: dict[str, tuple[Row, ...]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Two to four entities that refer to each other and to themselves as they like; few keys, so that many clash."""
    names = [f"e{i}" for i in range(draw(st.integers(2, 4)))]
    edge = st.builds(
        lambda to, kind: Edge(to, kind == "required", "set_null" if kind == "set_null" else "reject"),
        st.sampled_from(names),
        st.sampled_from(["required", "set_null", "optional"]),
    )
    edges = {name: tuple(draw(st.lists(edge, max_size=2))) for name in names}
    width = {name: draw(st.sampled_from([1, 1, 2])) for name in names}
    tags = iter(range(1, 1000))
    rows = {}
    for name in names:
        rows[name] = tuple(
            Row(
                next(tags),
                draw(_key(width[name])),
                draw(st.sampled_from(["a", "a", "b", "b", None, "elsewhere"])),
                tuple(
                    draw(_key(width[e.to]) if e.required else st.none() | _key(width[e.to]))
                    for e in edges[name]
                ),
            )
            for _ in range(draw(st.integers(0, 9)))
        )
    return Graph(edges, width, rows)


def _key(width: int) -> st.SearchStrategy[Key]:
    # The second part is mostly the same, so that composite keys meet as often as single ones.
    parts = [st.integers(1, 12), st.sampled_from([1, 1, 1, 2])]
    return st.tuples(*parts[:width])


def expected(graph: Graph) -> tuple[dict[str, set[tuple[int | None, ...]]], dict[int, str]]:
    """What must be in the target, by entity (tag, and each parent's tag), and each rejected tag with its reason.

    Written down from the rules: all rows of a repeated key go, and those that no partition takes; then, until nothing
    changes, every row that needs a parent who is not left.
    """
    often = {name: Counter(row.key for row in rows) for name, rows in graph.rows.items()}
    left = {
        name: {row.key: row for row in rows if often[name][row.key] == 1 and row.part != "elsewhere"}
        for name, rows in graph.rows.items()
    }

    def lacks(name: str, row: Row) -> list[tuple[str, Key]]:
        return [
            (edge.to, ref)
            for edge, ref in zip(graph.edges[name], row.refs, strict=True)
            if edge.on_missing == "reject" and ref is not None and ref not in left[edge.to]
        ]

    while gone := [(name, row) for name in left for row in left[name].values() if lacks(name, row)]:
        for name, row in gone:
            del left[name][row.key]
    reasons = {}
    for name, rows in graph.rows.items():
        for row in rows:
            if often[name][row.key] > 1:
                reasons[row.tag] = "duplicate_key"
            elif row.part == "elsewhere":
                reasons[row.tag] = "outside_partitions"
            elif row.key not in left[name]:
                never = any(not often[to][key] for to, key in lacks(name, row))
                reasons[row.tag] = "missing_parent" if never else "parent_rejected"
    found = {
        name: {
            (
                row.tag,
                *(
                    left[edge.to][ref].tag if ref in left[edge.to] else None
                    for edge, ref in zip(graph.edges[name], row.refs, strict=True)
                ),
            )
            for row in rows.values()
        }
        for name, rows in left.items()
    }
    return found, reasons


def build(small: Small, graph: Graph) -> None:
    """Make both sides and the declarations."""
    for name, edges in graph.edges.items():
        keys = [f"k{i}" for i in range(graph.width[name])]
        columns = {f"r{n}": [f"r{n}_{i}" for i in range(graph.width[e.to])] for n, e in enumerate(edges)}
        flat = [column for some in columns.values() for column in some]
        typed = ", ".join(f"{column} int" for column in [*keys, *flat])
        small.source(f"create table {name} (tag int, part text, {typed})")
        with psycopg.connect(small.migrating.source_url) as source:
            for row in graph.rows[name]:
                refs = [
                    part
                    for e, ref in zip(edges, row.refs, strict=True)
                    for part in (ref or (None,) * graph.width[e.to])
                ]
                values = [row.tag, row.part, *row.key, *refs]
                source.execute(
                    f"insert into {name} values ({', '.join(['%s'] * len(values))})".encode(), values
                )
        made = "".join(f", r{n} bigint{' not null' if e.required else ''}" for n, e in enumerate(edges))
        small.target(
            f"create table {name} (new_id bigint generated always as identity primary key, tag int, part text{made})"
        )
        small.declare(
            name,
            "tag: int; part: str | None",
            key=keys,
            partition={"by": "part", "values": list(PARTS)},
            references=[
                {"column": columns[f"r{n}"], "to": e.to, "into": [f"r{n}"], "on_missing": e.on_missing}
                for n, e in enumerate(edges)
            ],
        )
    for name, edges in graph.edges.items():
        for n, edge in enumerate(edges):
            small.target(
                f"alter table {name} add foreign key (r{n}) references {edge.to} deferrable initially immediate"
            )


def load(small: Small, plans: MigrationPlan, name: str, part: str, stop: int | None) -> None:
    """Load a partition, or leave off after some events, as a run does that is stopped."""
    events = carry(plans, name, (part,), small.migrating.settings)
    for count, event in enumerate(events):
        assert type(event).__name__ != "PartitionFailed", event
        if count == stop:
            events.close()
            return


@settings(
    max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(graph=graphs(), data=st.data())
def test_the_settled_target_is_what_the_rules_say(
    new_database: Callable[..., str], graph: Graph, data: st.DataObject
) -> None:
    """Row for row with each parent, reason for reason, and every row accounted for."""
    every = [(name, part) for name in graph.edges for part in PARTS]
    order = data.draw(st.permutations(every))
    first = data.draw(st.lists(st.tuples(st.sampled_from(every), st.integers(0, 3)), max_size=3))
    settled_at = data.draw(st.integers(0, len(order)))
    with tempfile.TemporaryDirectory() as place:
        small = Small(new_database, Path(place))
        small.migrating.chunk_rows = 3
        build(small, graph)
        plans = small.migrating.plans()
        for (name, part), stop in first:
            load(small, plans, name, part, stop)
        for position, (name, part) in enumerate(order):
            if position == settled_at:
                settle(plans, small.migrating.settings)
            load(small, plans, name, part, None)
        again = data.draw(st.sampled_from(every))
        load(small, plans, *again, None)
        settle(plans, small.migrating.settings)
        rows, reasons = expected(graph)
        for name, edges in graph.edges.items():
            select = "".join(f", p{n}.tag" for n in range(len(edges)))
            joins = "".join(f" left join {e.to} p{n} on p{n}.new_id = c.r{n}" for n, e in enumerate(edges))
            found = small.rows(f"select c.tag{select} from {name} c{joins}")
            assert sorted(found, key=str) == sorted(rows[name], key=str), (name, graph, order, first)
        kept = small.rows("select (row->>'tag')::int, reason from ferry.rejected_rows")
        assert sorted(kept) == sorted(reasons.items()), (graph, order, first)
        ends = small.rows(
            "select coalesce(sum(extracted), 0)::int, coalesce(sum(inserted + updated + unchanged), 0)::int,"
            " coalesce(sum(rejected), 0)::int, coalesce(sum(waiting), 0)::int from ferry.ledger"
        )
        total = sum(len(some) for some in graph.rows.values())
        assert ends == [(total, total - len(reasons), len(reasons), 0)]

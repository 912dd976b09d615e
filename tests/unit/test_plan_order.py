"""The order in which entities are taken: parents first, and circles found."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ferry.edges import strongly_connected


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Up to eight nodes with any edges between them, themselves included."""
    nodes = [f"n{number}" for number in range(draw(st.integers(0, 8)))]
    edges = st.lists(st.sampled_from(nodes), unique=True, max_size=4).map(tuple) if nodes else st.just(())
    return {node: draw(edges) for node in nodes}


def reachable(graph: dict[str, tuple[str, ...]], start: str) -> set[str]:
    """All nodes to which a way of one or more edges leads."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += graph[node]
    return seen


@given(graphs())
def test_components_are_the_sets_of_nodes_that_reach_each_other(graph: dict[str, tuple[str, ...]]) -> None:
    """By the definition: two nodes are in one component if, and only if, each reaches the other."""
    components = strongly_connected(graph)
    assert sorted(node for component in components for node in component) == sorted(graph)
    place = {node: number for number, component in enumerate(components) for node in component}
    ways = {node: reachable(graph, node) for node in graph}
    for one, other in itertools.combinations(graph, 2):
        assert (place[one] == place[other]) == (one in ways[other] and other in ways[one])


@given(graphs())
def test_what_is_depended_on_comes_first(graph: dict[str, tuple[str, ...]]) -> None:
    """No edge leads to a later component."""
    components = strongly_connected(graph)
    place = {node: number for number, component in enumerate(components) for node in component}
    assert all(place[parent] <= place[node] for node, parents in graph.items() for parent in parents)


@given(graphs(), st.randoms())
def test_the_order_does_not_depend_on_the_order_of_files(
    graph: dict[str, tuple[str, ...]], random: object
) -> None:
    """The same declarations give the same order, however they were found."""
    shuffled = list(graph)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert strongly_connected({node: graph[node] for node in shuffled}) == strongly_connected(graph)


def test_a_chain_longer_than_pythons_stack_is_ordered() -> None:
    """Ten thousand entities in a row are no reason to fail."""
    chain = {f"n{number:05}": (f"n{number - 1:05}",) if number else () for number in range(10_000)}
    assert strongly_connected(chain) == [(name,) for name in chain]

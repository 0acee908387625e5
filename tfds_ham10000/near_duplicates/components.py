"""Connected components of a graph, whose edges are pairs of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scipy.cluster.hierarchy import DisjointSet


def connected_components(
    names: Sequence[str], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Returns the smallest name of the connected component of each name.

    Pairs with a name that is not in `names` are ignored.
    """
    components = DisjointSet(names)
    for first, second in pairs:
        if first in components and second in components:
            components.merge(first, second)
    return {
        name: smallest
        for component in components.subsets()
        for smallest in [min(component)]
        for name in component
    }

"""The cheapest one-to-one assignment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


def cheapest(edges: Mapping[tuple[int, int], float]) -> dict[int, int]:
    """Left -> right of the assignment that matches as many as possible, at the least total cost.

    `edges` maps (left, right) to a cost >= 0; pairs not in it cannot be matched. Successive shortest augmenting
    paths (Bellman-Ford on the residual graph; Ahuja, Magnanti and Orlin, Network Flows, 1993, section 9.7), one
    connected part of the graph at a time.
    """
    graph: dict[int, dict[int, float]] = defaultdict(dict)
    for (left, right), cost in edges.items():
        graph[left][right] = cost
    match: dict[int, int] = {}
    owner: dict[int, int] = {}
    for start in graph:
        _augment(start, graph, match, owner)
    return match


def _augment(
    start: int, graph: Mapping[int, Mapping[int, float]], match: dict[int, int], owner: dict[int, int]
) -> None:
    """Match `start` along the cheapest path of exchanges, if there is one."""
    costs: dict[int, float] = {start: 0.0}
    came: dict[int, int] = {}  # right -> left it was reached from
    reached: dict[int, float] = {}  # right -> cost
    queue = [start]
    while queue:
        left = queue.pop(0)
        for right, cost in graph[left].items():
            total = costs[left] + cost
            if right == match.get(left) or total >= reached.get(right, float("inf")) - 1e-9:
                continue
            reached[right], came[right] = total, left
            other = owner.get(right)
            if other is not None and total - graph[other][right] < costs.get(other, float("inf")) - 1e-9:
                costs[other] = total - graph[other][right]
                queue.append(other)
    free = [right for right in reached if right not in owner]
    if not free:
        return
    right = min(free, key=lambda one: reached[one])
    while True:
        left = came[right]
        previous = match.get(left)
        match[left], owner[right] = right, left
        if left == start or previous is None:
            return
        right = previous

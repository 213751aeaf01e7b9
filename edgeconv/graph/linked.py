"""Values that belong together: disjoint sets that grow together as links are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeconv.graph.ir import Value


class Linked:
    """Disjoint sets of values. Iterating gives all values seen, in the order they came."""

    def __init__(self) -> None:
        self._parent: dict[Value, Value] = {}

    def root(self, value: Value) -> Value:
        """The value that stands for the set of `value`, a new set if it was not seen before."""
        parent = self._parent
        while parent.setdefault(value, value) is not value:
            parent[value] = parent[parent[value]]
            value = parent[value]
        return value

    def join(self, values: Sequence[Value]) -> None:
        """Put the values in one set, that of the first."""
        for value in values:
            self._parent[self.root(value)] = self.root(values[0])

    def __iter__(self) -> Iterator[Value]:
        return iter(self._parent)

    def __contains__(self, value: Value) -> bool:
        return value in self._parent

    def sets(self) -> dict[Value, list[Value]]:
        """The values of each set, in the order they came, by the value that stands for it."""
        found: dict[Value, list[Value]] = {}
        for value in list(self._parent):
            found.setdefault(self.root(value), []).append(value)
        return found

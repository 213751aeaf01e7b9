"""Elements that belong together: disjoint sets that grow together as links are found."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Linked(Generic[T]):
    """Disjoint sets of elements. Iterating gives all that were seen, in the order they came."""

    def __init__(self) -> None:
        self._parent: dict[T, T] = {}

    def root(self, element: T) -> T:
        """What stands for the set of `element`, a new set if it was not seen before."""
        parent = self._parent
        while parent.setdefault(element, element) != element:
            parent[element] = parent[parent[element]]
            element = parent[element]
        return element

    def join(self, elements: Sequence[T]) -> None:
        """Put the elements in one set, that of the first."""
        for element in elements:
            self._parent[self.root(element)] = self.root(elements[0])

    def __iter__(self) -> Iterator[T]:
        return iter(self._parent)

    def __contains__(self, element: T) -> bool:
        return element in self._parent

    def sets(self) -> dict[T, list[T]]:
        """The elements of each set, in the order they came, by what stands for it."""
        found: dict[T, list[T]] = {}
        for element in list(self._parent):
            found.setdefault(self.root(element), []).append(element)
        return found

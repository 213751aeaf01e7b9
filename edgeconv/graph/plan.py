"""Where every value of a graph lies: its layout, and whose storage it uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeconv.graph.ir import Value
from edgeconv.layout import Layout


@dataclass
class Plan:
    """Layouts and storage of all values.

    Attributes:
        layouts: the layout of each value.
        nhwc: images that want all channels of a pixel side by side.
        rows: images that stay row-major between convolutions along rows (see grouped_layout).
        aliases: values that are another's storage under another shape: nothing is computed.
        placed: values written into a part of another's storage, and where it starts, in bytes.
        joined: values that are complete once all that is placed in them is: nothing is computed.
    """

    layouts: dict[Value, Layout] = field(default_factory=dict)
    nhwc: set[Value] = field(default_factory=set)
    rows: frozenset[Value] = frozenset()
    aliases: dict[Value, Value] = field(default_factory=dict)
    placed: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    joined: set[Value] = field(default_factory=set)

    def root(self, value: Value) -> Value:
        """The value whose storage `value` uses."""
        return self.storage(value)[0]

    def storage(self, value: Value) -> tuple[Value, int]:
        """The value whose storage `value` uses, and how many bytes behind its start."""
        offset = 0
        while value in self.aliases or value in self.placed:
            if value in self.aliases:
                value = self.aliases[value]
            else:
                value, distance = self.placed[value]
                offset += distance
        return value, offset

    def is_free(self, value: Value) -> bool:
        """Whether the value needs no kernel."""
        return value in self.aliases or value in self.joined

"""Convolutions of few filters: all taps, or all phases, at once, as channels of one convolution.

Few filters leave most lanes of a vector idle, and a transposed convolution of wide stride has too
many phases for a kernel each (`graph.parts`). Instead,

- either each pixel is multiplied by the whole kernel, a 1×1 convolution with a filter a tap, and
  `fold` adds up the windows where they overlap;
- or, mostly for wide strides, a convolution with a filter a phase makes all outputs that lie at one
  pixel, and `fold` only puts them in their places.

These forms multiply by zeros where a kernel is no multiple of the stride, or is dilated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeconv.graph.ir import Graph, Node
from edgeconv.graph.parts import has_constant_weights, phases

MOST_PHASES = 16  # as convolutions of their own; each is a kernel to compile
GAIN = 0.7  # of the estimated cycles, from which on the detour over memory pays
MOST_GROWTH = 2  # of the input, when it becomes windows; beyond it windows must be few:
LARGE = 1 << 23  # elements


def phases_to_channels(graph: Graph, lanes: int) -> int:
    """Rewrite where it pays on vectors of `lanes`, or must be; the number of rewrites."""
    count = 0
    for index, node in reversed(list(enumerate(graph.nodes))):
        if (
            node.op != "conv2d"
            or node.attrs.get("depth")
            or node.output.dtype != "float32"
            or node.attrs["stride"] != (1, 1)
            or not has_constant_weights(node)
        ):
            continue
        spread = _Spread(node)
        form = spread.best_form(lanes)
        if form != "parts":
            graph.nodes[index : index + 1] = spread.rewritten(graph, by_taps=form == "taps")
            count += 1
    return count


class _Spread:
    """A convolution of strided input seen from its input: each pixel spreads over a window.

    `window` · stride is the window's size, the kernel's rounded up; `cut` is what the whole output
    has before the node's.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.stride = node.attrs.get("input_stride", (1, 1))
        self.dilation = node.attrs["dilation"]
        self.filters, self.channels, *kernel = node.inputs[1].shape
        self.kernel = kernel
        extents = [d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True)]
        self.window = tuple(-(-e // s) for e, s in zip(extents, self.stride, strict=True))
        self.cut = tuple(e - 1 - p for e, p in zip(extents, node.attrs["padding"][:2], strict=True))

    def best_form(self, lanes: int) -> str:
        """ "parts", "taps" or "phases", by rough cycles."""
        node = self.node
        stride, window, taps = map(math.prod, (self.stride, self.window, self.kernel))
        n, _, *spatial = node.inputs[0].shape
        pixels = n * math.prod(spatial)
        places = (
            math.prod(-(-o // s) for o, s in zip(node.output.shape[2:], self.stride, strict=True))
            * n
        )
        outputs = self.filters * stride  # of one place

        def multiply(filters: int, taps: int) -> float:
            vectors = math.ceil(filters / lanes)
            # a single vector waits for the load of each pixel, less if several taps share it
            alone = 0.6 if taps > 1 else 1.0
            return taps * vectors * self.channels * (0.5 if vectors > 1 else alone)

        stores = 1.5 * outputs / min(self.stride[1], lanes) + outputs / lanes
        adds = 2 * outputs * window / lanes
        forms = {
            "parts": places * multiply(self.filters, taps),
            "taps": pixels * (multiply(outputs * window, 1) + adds) + places * stores,
            "phases": places * (multiply(outputs, window) + stores),
        }
        if node.attrs["groups"] > 1:
            del forms["taps"]
        if stride > MOST_PHASES or self._has_gaps():
            del forms["parts"]
        else:
            grown = outputs * window > MOST_GROWTH * self.channels
            behind = node.attrs.get("has_residual")  # what can only be added in a pass of its own
            large = grown and pixels * outputs * window > LARGE
            gain = min(forms.values()) / forms["parts"]
            if node.attrs["groups"] > 1 or behind or large or gain > GAIN:
                return "parts"
        return min(forms, key=lambda form: forms[form])

    def _has_gaps(self) -> bool:
        """Whether some phase has no taps."""
        x, out = self.node.inputs[0].shape, self.node.output.shape
        axes = zip(
            x[2:],
            out[2:],
            self.kernel,
            self.dilation,
            self.node.attrs["padding"][:2],
            self.stride,
            strict=True,
        )
        return any(len(phase.taps) == 0 for axis in axes for phase in phases(*axis))

    def rewritten(self, graph: Graph, *, by_taps: bool) -> list[Node]:
        """A convolution, `fold`, and what was fused behind the node."""
        node, a = self.node, self.node.attrs
        x, weight = node.inputs[:2]
        bias = node.inputs[2:3] if a.get("has_bias") else []
        residual = node.inputs[-1] if a.get("has_residual") else None
        activation = a.get("activation")
        filters, padding, cut = self._taps() if by_taps else self._phases()
        inner = graph.make(
            "conv2d",
            [x, graph.constant(weight.name, filters)],
            name=f"{node.name}.{'taps' if by_taps else 'phases'}",
            source=node.source,
            stride=(1, 1),
            padding=padding,
            dilation=(1, 1),
            groups=a["groups"],
            has_bias=False,
            input_shuffle=a.get("input_shuffle", 1),
        )
        made = [inner]
        fold = graph.make(
            "fold",
            [inner.output, *bias],
            name=node.name,
            source=node.source,
            window=self.window if by_taps else (1, 1),
            stride=self.stride,
            start=cut,
            size=node.output.shape[2:],
            activation=None if residual else activation,
        )
        made.append(fold)
        if residual is not None:
            behind: dict[str, Any] = {"name": node.name, "source": node.source}
            made.append(graph.make("add", [fold.output, residual], **behind))
            if activation is not None:
                op, attrs = activation
                made.append(graph.make(op, [made[-1].output], **behind, **dict(attrs)))
        made[-1].outputs = node.outputs
        return made

    def _windows(self) -> np.ndarray:
        """The weights [K, C/groups, j, a, jj, b] of tap (j·stride + a, jj·stride + b)."""
        data = self.node.inputs[1].data
        assert data is not None
        (rows, columns), (down, across) = self.window, self.stride
        full = np.zeros((*data.shape[:2], rows * down, columns * across), data.dtype)
        r, s = self.kernel
        taken = (self.dilation[0] * np.arange(r))[:, None], self.dilation[1] * np.arange(s)
        full[:, :, taken[0], taken[1]] = data[:, :, ::-1, ::-1]
        return full.reshape(*data.shape[:2], rows, down, columns, across)

    def _taps(self) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
        """Filters for each tap, padding, and what `fold` is to cut off."""
        filters = self._windows().transpose(2, 4, 0, 3, 5, 1)
        return filters.reshape(-1, self.channels, 1, 1), (0, 0, 0, 0), self.cut

    def _phases(self) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
        """The same for filters for each phase."""
        filters = self._windows()[:, :, ::-1, :, ::-1].transpose(0, 3, 5, 1, 2, 4)
        x, out = self.node.inputs[0].shape[2:], self.node.output.shape[2:]
        first = [c // s for c, s in zip(self.cut, self.stride, strict=True)]
        last = [(o - 1 + c) // s for o, c, s in zip(out, self.cut, self.stride, strict=True)]
        before = [w - 1 - f for w, f in zip(self.window, first, strict=True)]
        after = [q - (d - 1) for q, d in zip(last, x, strict=True)]
        cut = tuple(c % s for c, s in zip(self.cut, self.stride, strict=True))
        return filters.reshape(-1, self.channels, *self.window), (*before, *after), cut

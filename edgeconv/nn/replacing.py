"""Swaps the dense convolutions of a model for structured ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgeconv.errors import EdgeconvError
from edgeconv.nn.bsconv import BSConvS, BSConvU
from edgeconv.nn.ddc import DDC
from edgeconv.nn.grouped import GroupedBottleneck
from edgeconv.nn.sliding import SlidingChannelConv2d

_BLOCKS = (BSConvU, BSConvS, DDC, GroupedBottleneck, SlidingChannelConv2d)

Where = Callable[[str, nn.Conv2d], bool]


@dataclass(frozen=True)
class Replaced:
    """A convolution that was swapped: its name in the model, and parameters before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Kept:
    """A convolution that stays, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Replacement:
    """What `replace` did; `model` is the changed one."""

    model: nn.Module
    replaced: tuple[Replaced, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        lines = [f"{r.name}: {r.before:,} parameters, now {r.after:,}" for r in self.replaced]
        lines += [f"{k.name}: kept, {k.reason}" for k in self.kept]
        before, after = (sum(getattr(r, x) for r in self.replaced) for x in ("before", "after"))
        return "\n".join([*lines, f"{len(self.replaced)} replaced: {before:,}, now {after:,}"])


def replace(
    model: nn.Module,
    block: Any,
    *,
    where: Where | None = None,
    keep_first: bool = True,
    in_place: bool = False,
    **options: Any,
) -> Replacement:
    """Put blocks in the place of the dense k×k convolutions of a model.

    A block takes over channels, kernel, stride, padding, dilation, padding mode, whether there is
    a bias, device and type. Its weights are new: train the model. Grouped convolutions stay, 1×1
    too (`SlidingChannelConv2d` replaces them), and the first one, which reads the image.

    Args:
        block: `BSConvU`, `BSConvS`, `DDC`, `SlidingChannelConv2d`, `GroupedBottleneck`, or another
            class with `from_conv(conv, **options)`.
        where: called with name and convolution; False keeps it.
        keep_first: keep the convolution that was registered first.
        in_place: change `model` itself instead of a copy.
        options: for the block, such as p=1/6, groups=8.

    Raises:
        EdgeconvError: not a block, or the model is a lone convolution to be changed in place.
    """
    if not hasattr(block, "from_conv"):
        raise EdgeconvError(f"{block!r} is no block: it has no from_conv(conv, **options)")
    result = model if in_place else copy.deepcopy(model)
    replaced: list[Replaced] = []
    kept: list[Kept] = []
    made: dict[int, nn.Module] = {}  # a convolution used in several places stays one
    for number, (name, conv) in enumerate(_convolutions(result)):
        reason = _reason(name, conv, block, where, keep_first and number == 0)
        if not reason:
            try:
                made[id(conv)] = _make(conv, block, options)
            except EdgeconvError as error:
                reason = str(error)
        if reason:
            kept.append(Kept(name, reason))
        else:
            replaced.append(Replaced(name, _parameters(conv), _parameters(made[id(conv)])))
    if id(result) in made:
        if in_place:
            raise EdgeconvError("the model is one convolution, which can't be replaced in place")
        return Replacement(made[id(result)], tuple(replaced), tuple(kept))
    for parent in list(result.modules()):
        for key, child in list(parent._modules.items()):  # named_children() skips second names
            if id(child) in made:
                parent._modules[key] = made[id(child)]
    return Replacement(result, tuple(replaced), tuple(kept))


def _convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """All 2-D convolutions outside of blocks, each once, in the order of registration."""
    inside = {id(m) for b in model.modules() if isinstance(b, _BLOCKS) for m in b.modules()}
    return [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and id(m) not in inside
    ]


def _reason(name: str, conv: nn.Conv2d, block: Any, where: Where | None, first: bool) -> str:
    """Why a convolution stays, or ""."""
    if conv.groups != 1:
        return f"it has {conv.groups} groups"
    if conv.kernel_size == (1, 1) and not getattr(block, "replaces_pointwise", False):
        return "it is 1×1"
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}"
    if first:
        return "it is the first"
    if where is not None and not where(name, conv):
        return "`where` says so"
    return ""


def _make(conv: nn.Conv2d, block: Any, options: dict[str, Any]) -> nn.Module:
    made: nn.Module = block.from_conv(conv, **options)
    return made.to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

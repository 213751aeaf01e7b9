"""The public function `compress`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from edgeconv.compression import choosing, fitting, measuring
from edgeconv.compression.decomposition import Decomposition, decompose
from edgeconv.compression.dense_convs import DenseConv, find
from edgeconv.compression.report import CompressedLayer, Compression, KeptLayer
from edgeconv.compression.rewriting import Factors, rewrite
from edgeconv.compression.saving import external_files
from edgeconv.compression.values import facts, shape_outputs
from edgeconv.errors import EdgeconvError
from edgeconv.importer import import_model, read_model
from edgeconv.inspection import inspect_graph

Source = str | os.PathLike[str] | bytes | onnx.ModelProto


def compress(
    model: Source,
    *,
    method: Literal["depthwise"] = "depthwise",
    ratio: float | None = None,
    energy: float | None = None,
    rank: int | None = None,
    calibration: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Compression:
    """Rewrite dense convolutions as depthwise and pointwise ones: lossy, and plain ONNX.

    Each dense k×k convolution may become a depthwise one with `rank` filters for each input
    channel and a 1×1 (He et al. 2019). Ranks follow from `ratio`, `energy` or both; layers that
    would not get cheaper stay. With calibration data the decomposition is that of the layers'
    responses, and every 1×1 is fitted to the original network's outputs.

    Args:
        model: path, serialised bytes or a ModelProto.
        method: "depthwise", the only one.
        ratio: multiply-accumulates of the whole network before over after, at least this.
        energy: share of the squared norm of the weights (with calibration: of the responses) that
            each layer keeps at least.
        rank: the same for every layer, also where that saves nothing; kernel size: exact.
        calibration: typical inputs by name, one after another along the first axis; tens of
            images of a network of batch 1.
        only, skip: names of convolutions, or patterns such as "layer4*".
        input_shapes: fixes dynamic inputs while compressing; the result's stay dynamic.
        progress: called with a short text at each stage.

    Raises:
        ModelError, UnsupportedOperator: the model can't be read or compiled.
        InputError: the calibration data or input shapes don't fit.
        EdgeconvError: no dense convolution, no layer that gets cheaper, a ratio out of reach.
    """
    _check(method, ratio, energy, rank)
    report = progress or (lambda _: None)
    report("reading the model")
    source = read_model(model)
    before = inspect_graph(import_model(source, input_shapes))
    known = facts(source, input_shapes)
    convs, kept = find(source, known, only, skip)
    given = None if calibration is None else measuring.samples(known, calibration)
    report("decomposing")
    covariance: Mapping[DenseConv, np.ndarray] = {}
    if given is not None:
        covariance = fitting.covariances(source, input_shapes, convs, known, given)
    parts = {conv: decompose(conv.weight, covariance.get(conv)) for conv in convs}
    ranks = _ranks(parts, before.macs, ratio, energy, rank)
    chosen = {conv: (parts[conv], r) for conv, r in ranks.items() if r}
    kept += [_stays(conv, parts[conv], energy) for conv, r in ranks.items() if not r]
    if given is None:
        factors = {c: _factors(c, p, r) for c, (p, r) in chosen.items()}
    else:
        factors = fitting.fit(source, known, chosen, given, report)
    result = rewrite(source, factors)
    shape_outputs(result, known)
    report("comparing outputs")
    inputs = measuring.noise(known) if given is None else given
    values = [known.values[conv.output] for conv in chosen]
    errors = measuring.errors(source, result, values, input_shapes, inputs)
    after = inspect_graph(import_model(read_model(result), input_shapes))
    files = external_files(Path(model)) if isinstance(model, (str, os.PathLike)) else ()
    outputs = [o.name for o in source.graph.output]
    return Compression(
        result,
        tuple(_layer(c, p, r, errors[c.output]) for c, (p, r) in chosen.items()),
        tuple(kept),
        before.macs,
        after.macs,
        before.parameters,
        after.parameters,
        {name: errors[name] for name in outputs if name in errors},
        calibrated=given is not None,
        external=bool(files),
        source_files=files,
    )


def _check(method: str, ratio: float | None, energy: float | None, rank: int | None) -> None:
    """EdgeconvError unless the arguments make sense together."""
    if method != "depthwise":
        raise EdgeconvError(f"the only method is 'depthwise', not {method!r}")
    if ratio is None and energy is None and rank is None:
        raise EdgeconvError("say how far to go: a ratio (of work, such as 2), an energy, or a rank")
    if rank is not None and (ratio is not None or energy is not None):
        raise EdgeconvError("a rank goes with neither a ratio nor an energy")
    if ratio is not None and not (math.isfinite(ratio) and ratio > 1):
        raise EdgeconvError(f"a ratio is work before over work after, above 1, not {ratio:g}")
    if energy is not None and not 0 < energy <= 1:
        raise EdgeconvError(f"an energy is a share, above 0 and up to 1, not {energy:g}")
    if rank is not None and rank < 1:
        raise EdgeconvError(f"a rank is at least 1, not {rank}")


def _ranks(
    parts: Mapping[DenseConv, Decomposition],
    total: int,
    ratio: float | None,
    energy: float | None,
    rank: int | None,
) -> dict[DenseConv, int]:
    """The rank of each layer; 0: it stays."""
    if rank is not None:
        return {conv: min(rank, conv.full_rank) for conv in parts}
    options = [_options(conv, part) for conv, part in parts.items()]
    if ratio is not None:
        ranks = choosing.by_ratio(options, total, ratio, energy or 0.0)
    else:
        assert energy is not None
        ranks = choosing.by_energy(options, energy)
        if not any(ranks):
            best = max((o.energy[-1] for o in options if o.energy), default=0.0)
            raise EdgeconvError(
                f"no layer gets cheaper while it keeps {energy:g} of its energy; the most one "
                f"keeps is {math.floor(best * 1e4) / 1e4:g}"
            )
    return dict(zip(parts, ranks, strict=True))


def _factors(conv: DenseConv, part: Decomposition, rank: int) -> Factors:
    """Without data: the decomposition itself."""
    return Factors(part.filters[:, :rank], part.mixing[:, :, :rank], conv.bias)


def _options(conv: DenseConv, part: Decomposition) -> choosing.Options:
    macs = [conv.macs_at(rank) for rank in range(1, conv.full_rank + 1)]
    return choosing.options(conv.macs, macs, part.energy)


def _stays(conv: DenseConv, part: Decomposition, energy: float | None) -> KeptLayer:
    options = _options(conv, part)
    if not options.macs:
        reason = "no rank lowers its work"
    elif energy is not None and not options.from_energy(energy):
        reason = f"no cheaper rank keeps {energy:g} of its energy"
    else:
        reason = "the ratio is reached without it"
    return KeptLayer(conv.name, reason)


def _layer(conv: DenseConv, part: Decomposition, rank: int, error: float) -> CompressedLayer:
    return CompressedLayer(
        conv.name,
        conv.weight.shape,
        rank,
        conv.full_rank,
        float(part.energy[rank]),
        conv.macs,
        conv.macs_at(rank),
        error,
    )

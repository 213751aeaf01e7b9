"""Runs parts of a model between its dense convolutions, compiled by edgeconv."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeconv import api
from edgeconv.compression.values import Arrays, Facts, info, reads
from edgeconv.runtime import Model


class Segments:
    """Computes values of a model step by step; the caller puts some of them in by itself.

    `supplied` are outputs of nodes that the caller computes: these nodes never run here.
    """

    def __init__(self, model: onnx.ModelProto, facts: Facts, supplied: Sequence[str]) -> None:
        self.model, self.facts = model, facts
        outside = set(supplied)
        self.pending = [n for n in model.graph.node if not outside.intersection(n.output)]
        self.supplied = {
            name: list(reads(n)) for n in model.graph.node for name in n.output if name in outside
        }
        self.computed: set[str] = {v.name for v in facts.inputs}

    def advance(self, wanted: str, environments: Sequence[list[Arrays]]) -> None:
        """Compute what `wanted` needs, in every environment and sample, in place."""
        if wanted in self.computed:
            return
        nodes = self._needed(wanted)
        ran = {id(n) for n in nodes}
        self.pending = [n for n in self.pending if id(n) not in ran]
        made = {name for n in nodes for name in n.output if name}
        later = {name for n in self.pending for name in reads(n)}
        later.update(name for names in self.supplied.values() for name in names)
        outputs = [name for name in dict.fromkeys(n for x in nodes for n in x.output)
                   if name in made and (name in later or name == wanted)]  # fmt: skip
        compiled = self._compile(nodes, outputs)
        for environment in environments:
            for sample in environment:
                sample.update(compiled.run({s.name: sample[s.name] for s in compiled.inputs}))
        self.computed |= set(outputs)

    def supply(self, name: str) -> None:
        """The caller has put this value into the environments."""
        self.computed.add(name)
        self.supplied.pop(name, None)

    def forget(self, environments: Sequence[list[Arrays]]) -> None:
        """Free what nothing reads any more."""
        live = {name for n in self.pending for name in reads(n)}
        live.update(name for names in self.supplied.values() for name in names)
        for environment in environments:
            for sample in environment:
                for name in sample.keys() - live:
                    del sample[name]

    def _needed(self, wanted: str) -> list[onnx.NodeProto]:
        """Pending nodes that `wanted` is computed by, in order."""
        needed, chosen = {wanted}, []
        for node in reversed(self.pending):
            if needed.intersection(node.output) and not self._constant(node):
                chosen.append(node)
                needed.update(n for n in reads(node) if n not in self.computed)
        return chosen[::-1]

    def _constant(self, node: onnx.NodeProto) -> bool:
        return all(self.facts.array(n) is not None for n in node.output if n in self.facts.values)

    def _compile(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> Model:
        """A network of these nodes."""
        made = {name for n in nodes for name in n.output}
        read = dict.fromkeys(name for n in nodes for name in reads(n) if name not in made)
        inputs, weights = [], []
        for name in read:
            value = self.facts.values.get(name)
            if value is None:
                continue  # a value inside a subgraph
            if value.data is not None:
                weights.append(numpy_helper.from_array(np.asarray(value.data), name))
            else:
                inputs.append(info(value))
        results = [info(self.facts.values[name]) for name in outputs]
        graph = helper.make_graph(nodes, "segment", inputs, results, weights)
        part = helper.make_model(
            graph,
            opset_imports=list(self.model.opset_import),
            ir_version=max(self.model.ir_version, 4),
        )
        return api.compile(part, threads=1)

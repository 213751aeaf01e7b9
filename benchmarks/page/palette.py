"""One colour and one shape an engine, the same in every chart, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping

ENGINES: Mapping[str, tuple[str, str, str]] = {  # (on light, on dark, shape)
    "edgeconv": ("#d9431e", "#ff7a52", "circle"),
    "edgeconv_tuned": ("#8f2a0e", "#ffb59b", "diamond"),
    "onnxruntime": ("#2563c4", "#6ea8ff", "square"),
    "openvino": ("#7a4fc0", "#b79bf2", "diamond"),
    "tflite": ("#b97b00", "#f0b840", "up"),
    "ncnn": ("#12855f", "#4cc99b", "down"),
    "mnn": ("#0a8ea0", "#4ed0e0", "square"),
    "executorch": ("#80663a", "#c9ab75", "diamond"),
    "torch": ("#b02f83", "#f080c4", "up"),
    "torch_cl": ("#cf6aa9", "#f6abd8", "down"),
    "inductor": ("#55636f", "#a3b3c2", "bar"),
    "inductor_cl": ("#8795a1", "#7b8a98", "bar"),
    "tvm": ("#5e7f1f", "#a8cf5a", "square"),
    "tvm_tuned": ("#3f6b3a", "#86c97d", "diamond"),
}
KINDS: Mapping[str, tuple[str, str]] = {
    "dense": ("#2563c4", "#6ea8ff"),
    "pointwise": ("#0a8ea0", "#4ed0e0"),
    "grouped": ("#d9431e", "#ff7a52"),
    "depthwise": ("#b97b00", "#f0b840"),
    "other": ("#8795a1", "#7b8a98"),
}


def shape(engine: str) -> str:
    """Of an engine's marks."""
    return ENGINES[engine][2] if engine in ENGINES else "circle"


def variables(column: int) -> str:
    """CSS variables of the light (0) or dark (1) theme."""
    engines = {f"--e-{name}": row[column] for name, row in ENGINES.items()}
    kinds = {f"--k-{name}": row[column] for name, row in KINDS.items()}
    return "".join(f"{key}:{value};" for key, value in {**engines, **kinds}.items())


def rules() -> str:
    """CSS classes that set a colour as `--c`, which marks and lines draw with."""
    engines = "".join(f".e-{name}{{--c:var(--e-{name})}}" for name in ENGINES)
    return engines + "".join(f".k-{name}{{--c:var(--k-{name})}}" for name in KINDS)

"""ONNX Runtime's CPU provider through IO binding."""

from __future__ import annotations

from pathlib import Path

from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer


def prepare(path: Path, inputs: Arrays, threads: int) -> Bound:
    """A session whose inputs and outputs are bound once."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    kept = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
    for name, value in kept.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    # Without RunOptions: making those costs the Python wrapper 65 us a call.
    return Bound(lambda: session.run_with_iobinding(binding), binding.copy_outputs_to_cpu)


PEER = Peer(
    "onnxruntime",
    "ONNX Runtime",
    ("onnxruntime",),
    ("onnxruntime",),
    prepare,
    "CPU provider, all optimisations, IO binding",
)

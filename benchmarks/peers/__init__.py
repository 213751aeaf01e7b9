"""The engines edgeconv is compared with, one file each; edgeconv is one of them.

All are optional. `find` tells which are installed, and the pip line that adds the others.
"""

from __future__ import annotations

from edgeconv.benchmarks.peers import (
    edgeconv,
    edgeconv_tuned,
    executorch,
    mnn,
    ncnn,
    onnxruntime,
    openvino,
    pytorch,
    tflite,
    tvm,
    tvm_tuned,
)
from edgeconv.benchmarks.peers.base import Arrays, Bound, Peer, Unsupported

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        edgeconv.PEER,
        edgeconv_tuned.PEER,
        onnxruntime.PEER,
        openvino.PEER,
        tflite.PEER,
        ncnn.PEER,
        mnn.PEER,
        executorch.PEER,
        pytorch.EAGER,
        pytorch.CHANNELS_LAST,
        pytorch.INDUCTOR,
        pytorch.INDUCTOR_CHANNELS_LAST,
        tvm.PEER,
        tvm_tuned.PEER,
    )
}
OWN, TUNED, REFERENCE = "edgeconv", "edgeconv_tuned", "onnxruntime"
OURS = (OWN, TUNED)  # neither is an "other engine"


def find(names: list[str] | None = None) -> tuple[list[Peer], list[Peer]]:
    """(installed, absent) of the engines named, or of all but those that run on request.

    Raises:
        KeyError: there is no engine of that name.
    """
    known = [name for name, peer in PEERS.items() if not peer.on_request]
    wanted = [PEERS[n] for n in (known if names is None else names)]
    return [p for p in wanted if p.available], [p for p in wanted if not p.available]


__all__ = [
    "OURS",
    "OWN",
    "PEERS",
    "REFERENCE",
    "TUNED",
    "Arrays",
    "Bound",
    "Peer",
    "Unsupported",
    "find",
]

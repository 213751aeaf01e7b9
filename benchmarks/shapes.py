"""Files of convolutions in the shape grammar, one a line, and those of the networks in `shapes/`.

    python -m edgeconv.benchmarks.shapes [NETWORK...]

writes `shapes/NETWORK.txt`: each convolution of the network once, in order of first appearance.
What follows a `#` is a comment.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import onnx

from edgeconv.benchmarks import models, networks
from edgeconv.errors import EdgeconvError, ShapeError
from edgeconv.graph.parts import parts
from edgeconv.importer import import_model, read_model
from edgeconv.workload import Conv2d

FOLDER = Path(__file__).resolve().parent / "shapes"


def read(path: Path) -> list[Conv2d]:
    """The convolutions of a file, each once.

    Raises:
        EdgeconvError: it can't be read, holds none, or a line is not of the grammar.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeconvError(f"can't read the shapes in {path}: {error}") from error
    found: dict[Conv2d, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            try:
                found[Conv2d.parse(text)] = None
            except ShapeError as error:
                raise ShapeError(f"{path}:{number}: {error}") from error
    if not found:
        raise EdgeconvError(f"{path} holds no shapes; write one a line")
    return list(found)


def names() -> list[str]:
    """The networks that have a file."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def find(name: str) -> Path:
    """The file a network's name, or a path, stands for.

    Raises:
        EdgeconvError: neither.
    """
    if name in names():
        return FOLDER / f"{name}.txt"
    path = Path(name)
    if path.is_file():
        return path
    raise EdgeconvError(
        f"no file {name}, and no shapes of that name; there are {', '.join(names())}"
    )


def of_network(model: onnx.ModelProto) -> Counter[Conv2d]:
    """How often each 2-D convolution occurs, in order of first appearance."""
    graph = import_model(read_model(model))
    return Counter(parts(node)[0].conv for node in graph.nodes if node.op == "conv2d")


def text(name: str, model: onnx.ModelProto) -> str:
    """The file of a network."""
    lines = [f"# Convolutions of {name}; written by `python -m edgeconv.benchmarks.shapes {name}`"]
    for conv, count in of_network(model).items():
        lines.append(f"{conv}  # {count} times" if count > 1 else str(conv))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help="default: all that edgeconv can import")
    chosen = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in chosen.networks or [*models.NETWORKS, *networks.light_names()]:
        path = FOLDER / f"{networks.title(name)}.txt"
        path.write_text(text(networks.title(name), networks.load(name)), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()

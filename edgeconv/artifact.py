"""One file for a compiled network: native library, packed constants, and a manifest in plain JSON.

The file is a zip archive without compression. Members: manifest.json, code.so (or code.o where no
linker for the target was at hand), constants.bin. Hashes in the manifest are checked before use.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import tvm

from edgeconv.build import Layer, Program
from edgeconv.errors import ArtifactError, BuildError
from edgeconv.linking import find_linker, link, no_linker, object_code
from edgeconv.memory import aligned_bytes
from edgeconv.targets import Device

FORMAT = 1
_MEMBERS = ("manifest.json", "constants.bin")


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Manifest:
    """Everything about a compiled network but its code and constants."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]
    device: Device
    threads: int
    workspace_bytes: int
    edgeconv_version: str
    tvm_version: str
    model_sha256: str

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Manifest:
        """The inverse of `to_json`; KeyError, TypeError or ValueError on wrong data."""

        def spec(item: dict[str, Any]) -> TensorSpec:
            return TensorSpec(
                str(item["name"]), tuple(int(d) for d in item["shape"]), item["dtype"]
            )

        def layer(item: dict[str, Any]) -> Layer:
            refused = tuple((str(name), str(why)) for name, why in item["refused"])
            return Layer(**{**item, "source": tuple(item["source"]), "refused": refused})

        device = {**data["device"], "features": tuple(data["device"]["features"])}
        return Manifest(
            name=data["name"],
            inputs=tuple(map(spec, data["inputs"])),
            outputs=tuple(map(spec, data["outputs"])),
            layers=tuple(map(layer, data["layers"])),
            device=Device(**device),
            threads=int(data["threads"]),
            workspace_bytes=int(data["workspace_bytes"]),
            edgeconv_version=data["edgeconv_version"],
            tvm_version=data["tvm_version"],
            model_sha256=data["model_sha256"],
        )


@dataclass(frozen=True)
class Artifact:
    """A compiled network: the manifest, the code (a module in memory, or bytes), the constants."""

    manifest: Manifest
    constants: np.ndarray  # aligned
    module: Any | None = None  # built in this process
    shared_library: bytes | None = None
    object_file: bytes | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the artifact; either the whole file appears, or nothing.

        Raises:
            ArtifactError: the file can't be written.
            BuildError: linking failed.
        """
        target = Path(path).resolve()  # a link stays a link, to a new file
        if target.exists() and not target.is_file():
            raise ArtifactError(f"can't write {path}: it exists and is not a regular file")
        code, name = self._code()
        constants = self.constants.data
        manifest = self.manifest.to_json()
        header = {
            "format": FORMAT,
            "code": name,
            "sha256": {
                name: _sha256(code),
                "constants.bin": _sha256(constants),
                "manifest": _sha256(_canonical(manifest)),
            },
            "manifest": manifest,
        }
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=target.parent, prefix=f".{target.name}-", delete=False
            ) as file:
                temporary = Path(file.name)
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    archive.writestr("manifest.json", json.dumps(header, indent=1))
                    archive.writestr(name, code)
                    archive.writestr("constants.bin", constants)
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException as error:  # Ctrl-C too leaves nothing behind
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise ArtifactError(f"can't write {target}: {reason}") from error
            raise
        return target

    def _code(self) -> tuple[bytes, str]:
        if self.shared_library is not None:
            return self.shared_library, "code.so"
        code = self.object_file if self.module is None else object_code(self.module)
        assert code is not None
        device = self.manifest.device
        linker = find_linker(device)
        return (code, "code.o") if linker is None else (link(code, linker, device.arch), "code.so")

    def linked(self) -> bytes:
        """The shared library, for whatever device it is.

        Raises:
            BuildError: it was not linked yet, and there is no linker for the device here, or it
                failed.
        """
        code, name = self._code()
        if name != "code.so":
            raise BuildError(no_linker(self.manifest.device))
        return code

    def open_module(self) -> Any:
        """The native module, ready to run here.

        Raises:
            ArtifactError: it was compiled for another CPU, or never linked.
        """
        device = self.manifest.device
        if not device.is_native:
            raise ArtifactError(
                f"this model was compiled for '{device.name}' ({device.arch}, {device.cpu}), which "
                "this machine can't run; compile it with --target host, or run it on a board "
                "(--device)"
            )
        if self.module is not None:
            return self.module
        code = self.shared_library
        if code is None:
            linker = find_linker(device)
            if linker is None or self.object_file is None:
                raise ArtifactError(
                    "this artifact holds an object file that was never linked; install a C "
                    "compiler (`edgeconv doctor` says which) and open it again"
                )
            code = link(self.object_file, linker, device.arch)
        with tempfile.TemporaryDirectory(prefix="edgeconv-") as folder:
            path = Path(folder, "code.so")
            path.write_bytes(code)
            return tvm.runtime.load_module(str(path))


def _read_into(target: np.ndarray, member: IO[bytes]) -> None:
    """Fill the bytes of `target`; weights are large, so they are never in memory twice."""
    position = 0
    while chunk := member.read(1 << 20):
        target[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
        position += len(chunk)
    if position != target.size:
        raise ValueError("constants.bin is cut short")


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(data: dict[str, Any]) -> bytes:
    """JSON that is the same for equal data."""
    return json.dumps(data, sort_keys=True).encode()


def from_program(
    program: Program, name: str, device: Device, threads: int, model_sha256: str, version: str
) -> Artifact:
    """The artifact of a freshly compiled program."""
    manifest = Manifest(
        name=name,
        inputs=tuple(TensorSpec(*t) for t in program.inputs),
        outputs=tuple(TensorSpec(*t) for t in program.outputs),
        layers=program.layers,
        device=device,
        threads=threads,
        workspace_bytes=program.workspace_bytes,
        edgeconv_version=version,
        tvm_version=tvm.__version__,
        model_sha256=model_sha256,
    )
    return Artifact(manifest, program.constants, module=program.library)


def read(path: str | os.PathLike[str]) -> Artifact:
    """Read and check an artifact; no native code is loaded.

    Raises:
        ArtifactError: missing, damaged, or of another format.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArtifactError(f"an artifact is opened by its path, not by {type(path).__name__}")
    source = Path(path)
    try:
        with zipfile.ZipFile(source) as archive:
            header = json.loads(archive.read("manifest.json"))
            if header["format"] != FORMAT:
                raise ArtifactError(
                    f"{source} has artifact format {header['format']}, this edgeconv reads "
                    f"{FORMAT}; compile the model again"
                )
            code_name = header["code"]
            if code_name not in ("code.so", "code.o"):
                raise ValueError(f"unknown code member {code_name!r}")
            members: dict[str, Any] = {code_name: archive.read(code_name)}
            constants = aligned_bytes(archive.getinfo("constants.bin").file_size)
            with archive.open("constants.bin") as member:
                _read_into(constants, member)
            members["constants.bin"] = constants.data
        members["manifest"] = _canonical(header["manifest"])
        hashes = header["sha256"]
        for name, data in members.items():
            if _sha256(data) != hashes[name]:
                raise ArtifactError(f"{source} is damaged: {name} does not match its hash")
        manifest = Manifest.from_json(header["manifest"])
    except ArtifactError:
        raise
    except FileNotFoundError as error:
        raise ArtifactError(f"{source} does not exist") from error
    except IsADirectoryError as error:
        raise ArtifactError(f"{source} is a folder, not an artifact") from error
    except OSError as error:
        raise ArtifactError(f"can't read {source}: {error.strerror or error}") from error
    except Exception as error:  # zipfile and its decompressors raise many kinds
        raise ArtifactError(
            f"{source} is not an edgeconv artifact, or is damaged ({error}); "
            "compile the model again"
        ) from error
    code = members[code_name]
    if code_name == "code.so":
        return Artifact(manifest, constants, shared_library=code)
    return Artifact(manifest, constants, object_file=code)

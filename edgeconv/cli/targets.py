"""`edgeconv targets`: the devices edgeconv knows, and this machine among them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli import output as out
from edgeconv.cli.failures import guarded
from edgeconv.cli.logs import Verbose
from edgeconv.cli.options import Json
from edgeconv.errors import TargetError

if TYPE_CHECKING:
    from edgeconv.targets import Device

Name = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Show this one (or a TOML file) in detail."),
]


@guarded
def command(
    name: Name = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the devices to compile for, or show one.

    \b
    Example:
      edgeconv targets
      edgeconv targets raspberry-pi-4
    """
    with out.progress("loading"):
        from edgeconv import targets

        if name is not None:
            device = targets.load(name)
            facts = _facts(device)
        else:
            devices, faults = [], {}
            for known in targets.names():
                try:
                    devices.append(targets.load(known))
                except TargetError as error:  # a machine edgeconv can't use is no reason to stop
                    faults[known] = str(error)
            rows = [asdict(d) | {"arch": d.arch, "runs_here": d.is_native} for d in devices]
    if name is not None:
        out.write_json(facts) if as_json else _detail(device)
        return
    if as_json:
        out.write_json({"targets": rows})
    else:
        _list(devices)
    for known, fault in faults.items():
        out.message("warning", f"{known}: {fault}")


def _list(devices: list[Device]) -> None:
    out.table(
        [
            out.Column("Target"),
            out.Column("Arch", drop=1),
            out.Column("CPU"),
            out.Column("Lanes", number=True),
            out.Column("FMA/cycle", number=True, drop=2),
            out.Column("L1d KiB", number=True, drop=4),
            out.Column("L2 KiB", number=True, drop=3),
            out.Column("L3 KiB", number=True, drop=5),
            out.Column("Cores", number=True),
            out.Column("GHz", number=True),
            out.Column("Runs here"),
            out.Column("Description", drop=6),
        ],
        [
            (
                d.name,
                d.arch,
                d.cpu,
                d.lanes,
                d.fma_ports,
                f"{d.l1d_kib:,}",
                f"{d.l2_kib:,}",
                f"{d.l3_kib:,}" if d.l3_kib else "",
                d.cores,
                f"{d.ghz:g}" if d.ghz else "",
                "yes" if d.is_native else "",
                d.description,
            )
            for d in devices
        ],
    )


def _facts(device: Device) -> dict[str, object]:
    from edgeconv.linking import find_linker

    return asdict(device) | {
        "arch": device.arch,
        "runs_here": device.is_native,
        "nominal_gflops_per_core": _nominal(device),
        "linker": find_linker(device),
    }


def _nominal(device: Device) -> float | None:
    """GFLOP/s of one core by the data sheet; None where the clock is unknown."""
    return None if device.ghz is None else 2 * device.lanes * device.fma_ports * device.ghz


def _detail(device: Device) -> None:
    from edgeconv.linking import advice, find_linker

    nominal, linker = _nominal(device), find_linker(device)
    out.fields(
        [
            ("target", device.name),
            ("description", device.description),
            ("triple", device.triple),
            ("CPU", device.cpu),
            ("features", " ".join(device.features) or "the CPU's own"),
            ("vectors", f"{device.lanes} float32 lanes, {device.vector_registers} registers"),
            ("multiply-add", f"{device.fma_ports} a cycle, {'fused' if device.fma else 'unfused'}"),
            ("loads", f"{device.load_ports} a cycle"),
            ("L1 data", f"{device.l1d_kib:,} KiB"),
            ("L2", f"{device.l2_kib:,} KiB"),
            ("L3", f"{device.l3_kib:,} KiB" if device.l3_kib else "none"),
            ("cores", device.cores),
            ("clock", f"{device.ghz:g} GHz" if device.ghz else "unknown"),
            ("nominal peak", f"{nominal:.1f} GFLOP/s a core" if nominal else "unknown"),
            ("runs here", "yes" if device.is_native else "no"),
            ("linker", " ".join(linker) if linker else f"none; {advice(device.arch)}"),
        ]
    )

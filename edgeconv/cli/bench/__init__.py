"""`edgeconv bench`: edgeconv beside the other engines, one module a command."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from edgeconv.cli.bench import check, cold, compare, groups, layers, model, nets, paper, scaling

__all__ = ["app"]


class _BenchGroup(TyperGroup):
    """Also takes an ONNX file in place of a command, and `--compare` for `compare`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] == "--compare":
            args = ["compare", *args[1:]]
        elif args and args[0].endswith(".onnx"):
            args = ["model", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_BenchGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (groups, layers, nets, model, scaling, cold, compare, check, paper):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)


@app.callback()
def _root() -> None:
    """Measure edgeconv beside the other engines that are installed.

    Engines run in turns, pinned, on equal threads; an engine's time counts only if its output is
    ONNX Runtime's.

    \b
    Example:
      edgeconv bench groups --channels 128 --size 28 --groups 1,2,4,8,16,32,64,dw
      edgeconv bench net.onnx
      edgeconv bench --compare old.json new.json
    """

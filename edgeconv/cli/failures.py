"""How a command ends when it fails: one clear message on stderr, and the exit status."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from edgeconv.cli.logs import is_verbose
from edgeconv.cli.output import message
from edgeconv.errors import EdgeconvError

FAILED, INTERRUPTED, BROKEN_PIPE = 1, 130, 141

P = ParamSpec("P")


def guarded(function: Callable[P, None]) -> Callable[P, None]:
    """The command with every exception turned into a message and an exit status."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except EdgeconvError as error:
            message("error", _for_the_command_line(str(error)))
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            message("error", "interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader went away (`| head`); the interpreter's own last flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from error
        except MemoryError as error:
            message("error", f"not enough memory ({error})")
            raise typer.Exit(FAILED) from error
        except ImportError as error:
            _traceback()
            message("error", f"a library can't be loaded ({error}); run `edgeconv doctor`")
            raise typer.Exit(FAILED) from error
        except Exception as error:
            _traceback()
            more = "" if is_verbose() else "; --verbose shows where"
            text = " ".join(str(error).split()) or "no message"
            message(
                "error",
                f"unexpected {type(error).__name__}: {text[:300]}{more}. This is a bug: please "
                "report it with the command, the model and the output of `edgeconv doctor`",
            )
            raise typer.Exit(FAILED) from error

    return run


def _traceback() -> None:
    if is_verbose():
        traceback.print_exc()


def _for_the_command_line(text: str) -> str:
    """The message, with the option's name where the API's argument is advised."""
    if "input_shapes={" in text:
        return f"{text}\nOn the command line: --input-shape NAME=1x3x224x224, once for each input"
    return text

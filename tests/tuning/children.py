"""What the child processes of the tests do; they import this module."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

_memory: list[str] = []


def double(value: Any) -> Any:
    return value + value


def shout() -> str:
    print("noise")
    os.system("echo more noise")
    return "done"


def fail_after_note(text: str, note: Callable[[str], None]) -> None:
    note(text)
    raise ValueError("a first line\nno good")


def fail_after_note_free() -> None:
    raise ValueError("no board")


def crash(text: str, note: Callable[[str], None]) -> None:
    note(text)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def exit_with_words() -> None:
    print("something is broken", file=sys.stderr, flush=True)
    os._exit(3)


def hang_in_native_code() -> None:
    ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter's lock


def slow_with_notes(note: Callable[[int], None]) -> str:
    for number in range(5):
        time.sleep(0.3)
        note(number)
    return "done"


def remember(text: str) -> None:
    _memory.append(text)


def recall() -> str:
    return _memory[-1]


def cores() -> set[int]:
    return os.sched_getaffinity(0)


def pid() -> int:
    return os.getpid()

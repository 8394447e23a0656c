"""Fuzz a parser or a decision for as long as one likes, with atheris (libFuzzer for Python).

    .venv/bin/pip install atheris
    .venv/bin/python -m tests.fuzz leaf -max_total_time=600 [a folder to keep what was found]

An exception ends the run, with the input that caused it. The short runs of the same kind, with
hypothesis, are part of `tools/test` (tests/property).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

NAMES = ("leaf", "relay", "vswitch", "formats", "offload")


def main() -> None:
    """Run one target until libFuzzer's arguments say stop."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m tests.fuzz {'|'.join(NAMES)} [libFuzzer's arguments]")
    try:
        atheris: Any = import_module("atheris")
    except ImportError:
        sys.exit("error: no atheris here; install it: .venv/bin/pip install atheris")
    # Only our own code counts as coverage, and it is imported here so that it can be instrumented.
    with atheris.instrument_imports(include=["leaf", "vswitch"]):
        targets = import_module("tests.fuzz.targets")
    target = targets.TARGETS[sys.argv.pop(1)]()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

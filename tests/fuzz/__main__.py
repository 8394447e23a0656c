"""Fuzz a parser or a decision for as long as one likes, with atheris (libFuzzer for Python).

    .venv/bin/pip install atheris
    .venv/bin/python -m tests.fuzz leaf -max_total_time=600 [a folder to keep what was found]

It starts from the seeds in `seeds.py` and from what earlier runs have found, which is kept in
.venv/cache/fuzz. An exception ends the run, and the input that caused it is written there too. The
target `leaf` keeps its state from input to input, so that one input need not show a mistake again;
hypothesis searches the same promises from the beginning each time, and its short runs are part of
`tools/test` (tests/property).
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[2] / ".venv" / "cache" / "fuzz"
NAMES = ("leaf", "relay", "vswitch", "formats", "offload", "gather")


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
        seeds = import_module("tests.fuzz.seeds")
    name = sys.argv.pop(1)
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds.of(name)):
        (folder / f"seed-{number:03}").write_bytes(seed)
    # libFuzzer writes what it finds into the first folder, and reads all of them; of a flag that
    # stands twice the last counts.
    program, *given = sys.argv
    arguments = [program, f"-artifact_prefix={CORPUS}/{name}-", *given, str(folder)]
    atheris.Setup(arguments, targets.TARGETS[name]())
    atheris.Fuzz()


if __name__ == "__main__":
    main()

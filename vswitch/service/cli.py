"""What the command lines of both daemons share: output for people or programs, errors, `run`.

Exit status: 0 good, 1 failed, 2 wrong usage. `--json` prints what the API answered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

from .client import Client, ClientError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def make(name: str, said: str) -> typer.Typer:
    """Make a command line; without a verb it prints its help."""
    return typer.Typer(
        name=name,
        help=said,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def fail(text: str) -> NoReturn:
    """Print an error to stderr and exit 1."""
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    raise typer.Exit(1)


@contextmanager
def asking(socket: Path) -> Iterator[Client]:
    """A client whose errors end the command with exit status 1."""
    client = Client(socket)
    try:
        yield client
    except ClientError as error:
        fail(str(error))
    finally:
        client.close()


# -- verbs that both daemons have ------------------------------------------------------------------


def check(
    config: Path,
    model: type[BaseModel],
    said: Callable[[Any], str],
    as_json: bool,
    doubts: Callable[[Any], list[str]] = lambda loaded: [],
) -> None:
    """Check a configuration file; `said` sums up a good one, `doubts` finds what may be wrong."""
    from . import settings

    try:
        loaded = settings.load(config, model)
    except settings.SettingsError as error:
        fail(str(error))
    for doubt in doubts(loaded):
        print(f"warning: {config}: {doubt}", file=sys.stderr)
    if as_json:
        print_json(loaded.model_dump(mode="json", by_alias=True))
    else:
        print(f"{config}: good: {said(loaded)}")


def show(daemon: str, table: str, socket: Path, as_json: bool) -> None:
    """Print one of the running daemon's tables."""
    with asking(socket) as client:
        answer = client.get(f"/v1/{table}")
    if as_json:
        print_json(answer)
    elif table == "status":
        print_pairs(daemon, answer)
    elif table == "counters":
        print_counters(answer)
    else:
        print_rows(table, answer)


def trace(socket: Path, question: dict[str, Any], as_json: bool) -> None:
    """Ask the running daemon for a decision; what is None was not said."""
    with asking(socket) as client:
        answer = client.post("/v1/trace", {k: v for k, v in question.items() if v is not None})
    if as_json:
        print_json(answer)
    else:
        print_trace(answer)


def reload(socket: Path, as_json: bool) -> None:
    """Have the running daemon read its configuration again."""
    with asking(socket) as client:
        answer = client.post("/v1/reload")
    if as_json:
        print_json(answer)
    else:
        print_reload(answer)


# -- output ----------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table whose columns are the keys of the first row."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    # A pipe gets every column whole; a terminal wraps.
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in rows[0]:
        numbers = all(isinstance(row[column], int | float) for row in rows)
        name, justify = column.replace("_", " "), "right" if numbers else "left"
        # Folded, not cut: half a MAC address is of no use.
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(str(part) for part in value) or "-"
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items()) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def print_pairs(title: str, pairs: dict[str, Any]) -> None:
    """Print one thing's properties, a line each."""
    print_rows(title, [{"property": key, "value": _text(value)} for key, value in pairs.items()])


def print_trace(answer: dict[str, Any]) -> None:
    """Print the steps of a decision and its verdict."""
    print_rows("steps", answer["steps"])
    print_pairs("verdict", answer["verdict"])


def print_counters(answer: dict[str, dict[str, int]]) -> None:
    """Print tables of counters, those that are not zero."""
    for title, counts in answer.items():
        rows = [{title: name, "count": count} for name, count in counts.items() if count]
        print_rows(title, rows)


def print_reload(answer: dict[str, Any]) -> None:
    """Print what a reload did and what it could not do."""
    print_rows("changes", answer["changes"])
    for key in answer["needs_restart"]:
        print(f"{key}: needs a restart; left as it was")


def run_daemon(main: Callable[[], Awaitable[None]], device_error: type[Exception]) -> None:
    """Run a daemon; what is expected to go wrong is printed and exits 1."""
    from . import daemon, http, settings

    try:
        daemon.run(main())
    except (settings.SettingsError, http.ApiError, daemon.ServiceError, device_error) as error:
        fail(str(error))

"""The units: as systemd's own checks see them, and what they must not lose."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

UNITS = Path(__file__).parents[2] / "systemd"
MAX_EXPOSURE = 3.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)
both = pytest.mark.parametrize("daemon", ["vswitch", "leaf"])


def read(daemon: str) -> dict[str, list[str]]:
    """Return a unit's settings: every value of each key, in order."""
    values: dict[str, list[str]] = {}
    for line in (UNITS / f"{daemon}.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, value = line.split("=", 1)
            values.setdefault(key, []).append(value)
    return values


@needs_systemd
@both
def test_systemd_accepts_the_unit_without_a_warning(daemon: str, tmp_path: Path) -> None:
    """Only the program is replaced, because it is not installed where the tests run."""
    text = (UNITS / f"{daemon}.service").read_text()
    program = f"ExecStart=/opt/tapestry/bin/{daemon} "
    assert text.count(program) == 1
    unit = tmp_path / f"{daemon}.service"
    unit.write_text(text.replace(program, "ExecStart=/bin/true "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@both
def test_the_exposure_is_low(daemon: str) -> None:
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--no-pager",
            "--offline=yes",
            f"--threshold={MAX_EXPOSURE * 10:.0f}",
            str(UNITS / f"{daemon}.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(rf"Overall exposure level for {daemon}\.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MAX_EXPOSURE
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("daemon", "capabilities"), [("vswitch", "CAP_NET_ADMIN CAP_NET_RAW"), ("leaf", "")]
)
def test_a_daemon_has_no_more_rights_than_it_needs(daemon: str, capabilities: str) -> None:
    unit = read(daemon)
    assert unit["User"] == unit["Group"] == ["tapestry"]
    assert unit["AmbientCapabilities"] == [capabilities]
    assert unit["CapabilityBoundingSet"] == [capabilities]
    assert unit["NoNewPrivileges"] == ["yes"]


@both
def test_a_daemon_may_read_of_the_machine_what_it_needs(daemon: str) -> None:
    """Which boot this is (`leaf.leasestore.BOOT_ID`), and how long processors were idle."""
    assert "ProcSubset" not in read(daemon)


@both
def test_the_unit_fits_the_daemon(daemon: str) -> None:
    unit = read(daemon)
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    (start,) = unit["ExecStart"]
    program, verb, config = start.split()
    assert program == f"/opt/tapestry/bin/{daemon}"
    assert config == f"/etc/tapestry/{daemon}.toml"
    module = importlib.import_module(f"{daemon}.__main__")
    commands = typer.main.get_command(module.app).commands
    assert verb in commands
    defaults = {option.name: option.default for option in commands[verb].params}
    assert defaults["config"] == Path(config), "the unit's file is what `run` reads by itself"


def test_stopping_one_daemon_leaves_the_socket_of_the_other() -> None:
    vswitch, leaf = read("vswitch"), read("leaf")
    for unit in (vswitch, leaf):
        assert unit["RuntimeDirectory"] == ["tapestry"]
        assert unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert vswitch["User"] == leaf["User"]

"""Who may import whom, read from the source of the whole repository.

The doors (`wire`, `phy`, `service`) know nothing of the daemons, the daemons nothing of each other
beyond the doors, and the modules that decide or hold tables can do no I/O and read no clock,
because they import nothing that could. A rule that only people keep is broken within a month.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("vswitch", "leaf", "tools", "tests")
TOP_LEVEL = {"pyproject.toml", "vswitch", "leaf", "tools", "tests", "systemd", "README.md"}

IMPURE = {
    *("asyncio", "os", "socket", "time", "random", "structlog", "pyroute2", "fastapi", "sqlite3"),
}
PURE_MODULES = {
    *(f"vswitch.{name}" for name in ("switch", "fdb", "attachment")),
    *(
        f"leaf.{name}"
        for name in (
            *("router", "fib", "bindings", "neighbour", "icmp", "glean", "topology", "slowpath"),
            *("hostroutes", "discovery", "asker", "teller", "oversize", "leasing", "advertiser"),
            *("punt", "gate", "limits", "gateway", "conflict", "advertise", "mtu"),
            *("dhcp", "dhcp6", "leases", "responder", "relay", "relay6", "relayer", "snoop"),
        )
    ),
}


class Rule(NamedTuple):
    """Modules inside `who` import of ours only what is inside `allowed`."""

    who: str
    allowed: tuple[str, ...]


RULES = (
    Rule("vswitch.wire", ("vswitch.wire",)),
    Rule("vswitch.phy", ("vswitch.wire", "vswitch.phy")),
    Rule("vswitch.service", ("vswitch.wire", "vswitch.service")),
    Rule("vswitch", ("vswitch",)),
    Rule("leaf", ("leaf", "vswitch.wire", "vswitch.phy", "vswitch.service")),
)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: str, source: str, is_package: bool) -> list[tuple[int, str]]:
    """Every import in `source`, at any depth, as (line, absolute name).

    `from a import b` gives `a.b`: b may be a module. Where it is not, the rules hold all the same,
    since they ask what a name is inside of.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join((*base, *([node.module] if node.module else [])))
            found += [(node.lineno, f"{start}.{alias.name}") for alias in node.names]
    return found


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What a module imports and may not."""
    wrong = []
    for line, name in imports(module, source, is_package):
        top = name.split(".")[0]
        told = f"{module}:{line} imports {name}"
        wrong += [
            f"{told}, but {rule.who} may import of ours only {', '.join(rule.allowed)}"
            for rule in RULES
            if inside(module, rule.who)
            and top in OURS
            and not any(inside(name, allowed) for allowed in rule.allowed)
        ]
        if module in PURE_MODULES and top in IMPURE:
            wrong.append(f"{told}, but a module that decides or holds tables is pure")
        if top == "dpkt" and not inside(module, "vswitch.wire") and not inside(module, "tests"):
            wrong.append(f"{told}, but dpkt stays behind vswitch.wire")
    return wrong


def sources() -> list[Path]:
    return sorted(path for top in OURS for path in (ROOT / top).rglob("*.py"))


def test_the_repository_keeps_the_rules() -> None:
    wrong = []
    for path in sources():
        is_package = path.name == "__init__.py"
        wrong += violations(module_name(path), path.read_text(), is_package)
    assert wrong == []


def test_the_search_sees_the_modules_that_the_rules_are_about() -> None:
    """A rule about a module that was renamed would hold for ever, and say nothing."""
    modules = {module_name(path) for path in sources()}
    assert modules >= PURE_MODULES
    for rule in RULES:
        assert any(inside(module, rule.who) for module in modules)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("vswitch.wire.arp", "from .. import fdb", id="wire_upwards"),
        pytest.param("vswitch.wire.arp", "from ..service.log import Log", id="wire_service"),
        pytest.param("vswitch.wire.arp", "import vswitch.phy.port", id="wire_phy"),
        pytest.param("vswitch.phy.tap", "from ..service import log", id="phy_service"),
        pytest.param("vswitch.phy.tap", "from vswitch.switch import Switch", id="phy_switch"),
        pytest.param("vswitch.service.http", "from ..phy import udp", id="service_phy"),
        pytest.param("vswitch.service.http", "from .. import engine", id="service_engine"),
        pytest.param("leaf.router", "from vswitch.switch import Verdict", id="leaf_switch"),
        pytest.param("leaf.router", "from vswitch import fdb", id="leaf_fdb"),
        pytest.param("leaf.router", "import vswitch", id="leaf_all_of_vswitch"),
        pytest.param("vswitch.engine", "import leaf", id="vswitch_leaf"),
        pytest.param("vswitch.engine", "from leaf.fib import Fib", id="vswitch_leaf_part"),
        pytest.param("vswitch.engine", "from tests import frames", id="product_tests"),
        pytest.param("vswitch.switch", "import time", id="decision_clock"),
        pytest.param("vswitch.fdb", "from os import path", id="table_os"),
        pytest.param("leaf.router", "import asyncio.events", id="decision_asyncio"),
        pytest.param("leaf.glean", "def f():\n    import random", id="hidden_in_a_function"),
        pytest.param(
            "vswitch.attachment",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import socket",
            id="for_types_only",
        ),
        pytest.param("vswitch.engine", "import dpkt", id="dpkt_in_the_engine"),
        pytest.param("leaf.neighbour", "from dpkt.arp import ARP", id="dpkt_in_the_leaf"),
        pytest.param("tools.demo", "import dpkt", id="dpkt_in_a_tool"),
    ],
)
def test_a_planted_violation_is_caught(module: str, source: str) -> None:
    wrong = violations(module, source)
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{module}:{source.count(chr(10)) + 1} imports ")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vswitch.switch", "from .phy.port import PortId\nfrom .wire import arp"),
        ("vswitch.wire.arp", "import dpkt\nfrom . import ethernet\nfrom .ethernet import Mac"),
        ("vswitch.phy.udp", "import socket\nfrom ..wire import vnet\nfrom .port import Port"),
        ("vswitch.service.settings", "from ..wire import ethernet\nfrom .log import Log"),
        ("leaf.engine", "import time\nfrom vswitch.phy.udp import UdpTunnel\nfrom .fib import Fib"),
        ("tools.demo", "import leaf.engine\nimport vswitch.engine\nimport os"),
        ("vswitch.daemon", "import asyncio\nimport vswitch"),
        ("leaf.fibre", "import timeit"),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_relative_import_in_a_package_starts_at_the_package() -> None:
    """`from . import x` means another thing in `__init__.py` than in a module beside it."""
    assert violations("vswitch.wire", "from . import arp", is_package=True) == []
    assert violations("vswitch.wire", "from .. import fdb", is_package=True) != []


def test_the_top_level_is_what_was_agreed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tops = {line.split("/")[0] for line in listed.splitlines()}
    assert tops
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL

"""What a reload changes, as data: it is computed, printed, and then applied.

The daemon builds the new topology as a whole and keeps every binding that has a place in it, so
the plan is for people and for what the topology does not hold; the state after a reload does not
depend on it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Literal, NamedTuple

from vswitch.service.settings import Settings

from .config import Config
from .sections import BindingSettings, RouteSettings, router_mac


class Change(NamedTuple):
    """One difference between two configurations."""

    verb: Literal["add", "remove", "change"]
    kind: str
    name: str


class Plan(NamedTuple):
    """What a reload changes, and what it cannot change."""

    changes: list[Change]
    needs_restart: list[str]


def plan(old: Config, new: Config) -> Plan:
    """Compute the difference between two configurations."""
    needs_restart = [
        f"leaf.{key.replace('_', '-')}"
        for key in ("name", "vtep", "udp_port", "source_ports", "offload", "too_big", "state")
        if getattr(old.leaf, key) != getattr(new.leaf, key)
    ]
    needs_restart += [
        name for name in ("api", "limits", "timers") if getattr(old, name) != getattr(new, name)
    ]
    changes: list[Change] = []
    if router_mac(old.leaf) != router_mac(new.leaf):
        changes.append(Change("change", "router-mac", router_mac(new.leaf).hex(":")))
    for key in ("relay", "relay6"):
        before, after = getattr(old.leaf, key), getattr(new.leaf, key)
        if before != after:
            shown = "the vtep" if after is None else str(ipaddress.ip_address(after))
            changes.append(Change("change", key, shown))
    if old.log != new.log:
        changes.append(Change("change", "log level", new.log.level))
    for table in ("group", "vswitch", "remote_leaf", "vrf", "segment", "route", "binding"):
        kind = table.replace("_", "-")
        gone, come = _named(getattr(old, table)), _named(getattr(new, table))
        changes += [Change("remove", kind, name) for name in gone if name not in come]
        changes += [Change("add", kind, name) for name in come if name not in gone]
        changes += [
            Change("change", kind, name)
            for name in gone
            if name in come and gone[name] != come[name]
        ]
    return Plan(changes, needs_restart)


def _named(entries: Sequence[Settings]) -> dict[str, Settings]:
    """Key entries by name; routes and bindings have none and are keyed by what they are for."""
    named: dict[str, Settings] = {}
    for entry in entries:
        if isinstance(entry, RouteSettings):
            named[f"{entry.vrf} {entry.prefix}"] = entry
        elif isinstance(entry, BindingSettings):
            named[f"{entry.segment} {ipaddress.ip_address(entry.address)}"] = entry
        else:
            named[str(getattr(entry, "name"))] = entry  # noqa: B009 - Settings has no name.
    return named

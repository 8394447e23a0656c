"""Configuration files: TOML in, a checked model out, or an error that says what to change.

An error names the file, the key and what was expected there. Keys are written with hyphens.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from ..wire import ethernet, vxlan
from ..wire.ethernet import Mac
from ..wire.vxlan import Vni, Vtep

MAX_FILE_LEN = 16 << 20
"""A configuration of 100,000 bindings is 8 MB."""


class SettingsError(Exception):
    """A configuration that cannot be used; the text has one line per mistake."""


class Settings(BaseModel):
    """Base of every table of a configuration file: unknown keys are mistakes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


def _to_mac(value: Any) -> Any:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("write a MAC address as a string: '00:00:5e:00:53:01'")
    return ethernet.parse_mac(value)


def _is_station(mac: bytes) -> bytes:
    if ethernet.is_group(mac) or mac == ethernet.ZERO:
        raise ValueError(f"{ethernet.format_mac(mac)} is not the address of one station")
    return mac


def _canonical(value: Any) -> str:
    """Return a VTEP as the kernel writes it, so that the two can be compared as text."""
    address = _address(value)
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{address} is not the address of one host")
    if isinstance(address, ipaddress.IPv6Address):
        _check_routable(address)
    return str(address)


def _check_routable(address: ipaddress.IPv6Address) -> None:
    """Raise ValueError for an IPv6 address that is no VTEP on a routed underlay."""
    if address.is_link_local or address.scope_id is not None:
        raise ValueError(
            f"{address} holds on one link only; a VTEP needs a global or unique local address"
        )
    # Mapped and compatible addresses (RFC 4291 section 2.5.5) never stand on an IPv6 network.
    high, low = int(address) >> 32, int(address) & 0xFFFFFFFF
    if high == 0xFFFF or (high == 0 and low > 1):
        raise ValueError(f"{address} stands for {ipaddress.IPv4Address(low)}; write that instead")


def _address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if not isinstance(value, str):  # ipaddress would take 5 for 0.0.0.5.
        raise ValueError("write an IP address as a string: '192.0.2.1'")
    return ipaddress.ip_address(value)


def _packed(value: Any) -> Any:
    return value if isinstance(value, bytes) else _address(value).packed


AddressField = Annotated[
    bytes,
    BeforeValidator(_packed),
    PlainSerializer(lambda packed: str(ipaddress.ip_address(packed)), return_type=str),
]
"""An IP address of either family: text in the file, 4 or 16 bytes in the model."""
MacField = Annotated[
    Mac,
    BeforeValidator(_to_mac),
    AfterValidator(_is_station),
    PlainSerializer(ethernet.format_mac, return_type=str),
]
VniField = Annotated[Vni, Field(ge=1, le=vxlan.MAX_VNI, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
"""true or false, and not "yes"."""
VtepField = Annotated[Vtep, BeforeValidator(_canonical)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class LogSettings(Settings):
    """`[log]`"""

    level: Literal["debug", "info", "warning", "error"] = "info"


def reject_twice(what: str, values: Iterable[object]) -> None:
    """Raise ValueError where a value stands twice."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value!r} stands twice; each must be unique")
        seen.add(value)


S = TypeVar("S", bound=BaseModel)


def load(path: Path, model: type[S]) -> S:
    """Read and check the file at `path`. Raises SettingsError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_LEN + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_FILE_LEN:
        raise SettingsError(f"{path}: longer than {MAX_FILE_LEN} bytes")
    try:
        table = tomllib.loads(text.decode())
    except RecursionError as error:
        raise SettingsError(f"{path}: nested too deeply") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    return check(table, model, str(path))


def check(table: dict[str, Any], model: type[S], place: str) -> S:
    """Check a table that was read from `place`. Raises SettingsError."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise SettingsError("\n".join(explain(error.errors(), place))) from error


def explain(mistakes: Sequence[Any], place: str) -> list[str]:
    """Say each of pydantic's mistakes in a line: place, key, what was expected, what was given."""
    lines = []
    places = [mistake["loc"] for mistake in mistakes]
    for mistake in mistakes:
        inside = any(
            len(loc) > len(mistake["loc"]) and loc[: len(mistake["loc"])] == mistake["loc"]
            for loc in places
        )
        if mistake["type"] == "too_short" and inside:
            continue  # It only misses the items that were found to be wrong.
        key = ""
        for part in mistake["loc"]:
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
        if mistake["type"] == "extra_forbidden":
            said = "unknown key; the README lists those that exist"
        elif mistake["type"] == "missing":
            said = "missing"
        else:
            said = mistake["msg"].removeprefix("Value error, ")
            given = mistake["input"]
            if isinstance(given, str | int | float | bool) and repr(given) not in said:
                said += f" (here: {given!r})"
        lines.append(f"{place}: {key}: {said}" if key else f"{place}: {said}")
    return lines

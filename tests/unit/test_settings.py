"""Configuration files: an error names the file, the key, and what was expected there."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from tests.frames import SHARED_MAC, mac, v4, v6
from vswitch.config import Config
from vswitch.service import settings
from vswitch.service.settings import SettingsError

GOOD = """
[vswitch]
vtep = "192.0.2.100"
leaves = ["192.0.2.1"]
shared-mac = "00:00:de:ad:be:ef"

[[segment]]
name = "red"
vni = 10

[[guest]]
name = "alice"
segment = "red"
device = "tap-alice"
macs = ["02:00:00:00:00:01"]
addresses = ["10.0.0.1", "2001:db8::1"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vswitch.toml"


def load(path: Path, text: str) -> Config:
    path.write_text(text)
    return settings.load(path, Config)


def mistakes(path: Path, text: str) -> list[str]:
    """The lines of the error that `text` gives, each without the file's name at its start."""
    with pytest.raises(SettingsError) as caught:
        load(path, text)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def changed(old: str, new: str) -> str:
    """The good file with one thing in it changed."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


# A good file.


def test_a_file_becomes_a_model_with_its_defaults(path: Path) -> None:
    config = load(path, GOOD)
    assert config.vswitch.shared_mac == SHARED_MAC
    assert config.vswitch.leaves == ("192.0.2.1",)
    assert (config.vswitch.udp_port, config.vswitch.source_ports) == (4789, 16)
    (segment,) = config.segment
    assert (segment.vni, segment.miss, segment.spoof_guard) == (10, "rewrite", True)
    (guest,) = config.guest
    assert guest.macs == (mac(1),)
    assert guest.addresses == (v4("10.0.0.1"), v6("2001:db8::1"))
    assert (guest.kind, guest.netns, guest.multi_queue) == ("tap", None, False)


def test_keys_are_written_with_hyphens(path: Path) -> None:
    text = changed('leaves = ["192.0.2.1"]', 'leaves = ["192.0.2.1"]\nudp-port = 8472')
    text = text.replace("vni = 10", "vni = 10\nspoof-guard = false")
    config = load(path, text)
    assert config.vswitch.udp_port == 8472
    assert not config.segment[0].spoof_guard


def test_an_address_is_put_into_its_canonical_form(path: Path) -> None:
    """What the tunnel reports as the source of a packet is compared with it as text."""
    text = changed('["192.0.2.1"]', '["2001:DB8:0::1", "2001:0db8:0:1:1:1:1:1", "::1"]')
    config = load(path, text.replace('vtep = "192.0.2.100"', 'vtep = "2001:db8::100"'))
    assert config.vswitch.leaves == ("2001:db8::1", "2001:db8:0:1:1:1:1:1", "::1")
    for leaf in config.vswitch.leaves:  # The kernel's, by which the tunnel reports it.
        assert leaf == socket.inet_ntop(socket.AF_INET6, ipaddress.ip_address(leaf).packed)


def test_no_guests_is_no_mistake(path: Path) -> None:
    assert load(path, GOOD[: GOOD.index("[[guest]]")]).guest == ()


# Files that cannot be read as TOML.


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(path, Config)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(tmp_path, Config)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_text_that_is_not_toml_is_placed(path: Path) -> None:
    (line,) = mistakes(path, "[vswitch]\nvtep = \n")
    assert line.startswith("not TOML: ")
    assert "line 2" in line


def test_bytes_that_are_not_text_are_no_toml(path: Path) -> None:
    path.write_bytes(b"name = '\xff\xfe'")
    with pytest.raises(SettingsError, match="not TOML"):
        settings.load(path, Config)


def test_a_file_beyond_the_bound_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(settings.MAX_FILE_LEN + 1)
    with pytest.raises(SettingsError) as caught:
        settings.load(path, Config)
    assert str(caught.value) == f"{path}: longer than {settings.MAX_FILE_LEN} bytes"


# Mistakes of one key.


@pytest.mark.parametrize(
    ("text", "key", "expectation"),
    [
        pytest.param(
            changed("vni = 10", "vni = 10\nvlan = 5"),
            "segment[0].vlan",
            "unknown key; the README lists those that exist",
            id="unknown_key",
        ),
        pytest.param(
            GOOD + "\n[extra]\n",
            "extra",
            "unknown key; the README lists those that exist",
            id="unknown_table",
        ),
        pytest.param(
            changed('shared-mac = "00:00:de:ad:be:ef"', ""),
            "vswitch.shared-mac",
            "missing",
            id="missing",
        ),
        pytest.param(
            changed("vni = 10", 'vni = "ten"'), "segment[0].vni", "valid integer", id="wrong_type"
        ),
        pytest.param(
            changed("vni = 10", "vni = 0"), "segment[0].vni", "or equal to 1", id="vni_zero"
        ),
        pytest.param(
            changed("vni = 10", "vni = 16777216"), "segment[0].vni", "16777215", id="vni_too_big"
        ),
        pytest.param(
            changed("vni = 10", 'vni = 10\nmiss = "bounce"'),
            "segment[0].miss",
            "'rewrite', 'flood' or 'drop'",
            id="not_a_choice",
        ),
        pytest.param(
            changed('"00:00:de:ad:be:ef"', '"00-00-de-ad-be-ef"'),
            "vswitch.shared-mac",
            "write six hex pairs",
            id="not_a_mac",
        ),
        pytest.param(
            changed('"00:00:de:ad:be:ef"', "5"),
            "vswitch.shared-mac",
            "write a MAC address as a string",
            id="mac_as_a_number",
        ),
        pytest.param(
            changed('"02:00:00:00:00:01"', '"01:00:5e:00:00:01"'),
            "guest[0].macs[0]",
            "is not the address of one station",
            id="group_mac",
        ),
        pytest.param(
            changed('"02:00:00:00:00:01"', '"00:00:00:00:00:00"'),
            "guest[0].macs[0]",
            "is not the address of one station",
            id="zero_mac",
        ),
        pytest.param(
            changed('"192.0.2.100"', '"192.0.2.256"'),
            "vswitch.vtep",
            "does not appear to be an IPv4 or IPv6 address",
            id="not_an_address",
        ),
        pytest.param(
            changed('"192.0.2.100"', '"fe80::1"'), "vswitch.vtep", "one link only", id="link_local"
        ),
        pytest.param(
            changed('"192.0.2.100"', '"2001:db8::1%eth0"'),
            "vswitch.vtep",
            "one link only",
            id="with_a_zone",
        ),
        pytest.param(
            changed('["192.0.2.1"]', '["::ffff:192.0.2.1"]'),
            "vswitch.leaves[0]",
            "stands for 192.0.2.1; write that instead",
            id="mapped",
        ),
        pytest.param(
            changed('["192.0.2.1"]', '["::c000:201"]'),
            "vswitch.leaves[0]",
            "stands for 192.0.2.1; write that instead",
            id="compatible",
        ),
        # ipaddress reads a number as an address: 5 would silently become 0.0.0.5.
        pytest.param(changed('"192.0.2.100"', "5"), "vswitch.vtep", "", id="vtep_as_a_number"),
        pytest.param(changed('"192.0.2.100"', "true"), "vswitch.vtep", "", id="vtep_as_a_bool"),
        pytest.param(
            changed('"10.0.0.1"', '"10.0.0.1/24"'),
            "guest[0].addresses[0]",
            "does not appear to be an IPv4 or IPv6 address",
            id="guest_address",
        ),
        pytest.param(
            changed('"tap-alice"', '"tap-of-alice-number-1"'),
            "guest[0].device",
            "at most 15 characters",
            id="long_device",
        ),
        pytest.param(
            changed('["192.0.2.1"]', "[]"), "vswitch.leaves", "at least 1 item", id="no_leaves"
        ),
        pytest.param(
            changed('["02:00:00:00:00:01"]', "[]"),
            "guest[0].macs",
            "at least 1 item",
            id="no_macs",
        ),
        pytest.param(
            changed('name = "alice"', 'name = "al ice"'),
            "guest[0].name",
            "should match pattern",
            id="bad_name",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(path: Path, text: str, key: str, expectation: str) -> None:
    (line,) = mistakes(path, text)
    assert line.startswith(f"{key}: ")
    assert expectation in line.removeprefix(f"{key}: ")


def test_what_was_given_is_shown(path: Path) -> None:
    (line,) = mistakes(path, changed("vni = 10", 'vni = "ten"'))
    assert line.endswith("(here: 'ten')")


def test_it_is_not_shown_twice(path: Path) -> None:
    (line,) = mistakes(path, changed('"00:00:de:ad:be:ef"', '"nonsense"'))
    assert line.count("nonsense") == 1


def test_every_mistake_has_its_line(path: Path) -> None:
    text = changed("vni = 10", "vni = 0").replace('"192.0.2.100"', '"nowhere"')
    assert [line.split(":")[0] for line in mistakes(path, text)] == [
        "vswitch.vtep",
        "segment[0].vni",
    ]


def test_a_list_of_one_wrong_item_is_not_also_called_short(path: Path) -> None:
    (line,) = mistakes(path, changed('["192.0.2.1"]', '["nowhere"]'))
    assert line.startswith("vswitch.leaves[0]: ")


# Mistakes between keys.


def second_guest(name: str, device: str, number: str, segment: str = "red") -> str:
    return f"""
[[guest]]
name = "{name}"
segment = "{segment}"
device = "{device}"
macs = ["02:00:00:00:00:{number}"]
"""


def segment(name: str, vni: int) -> str:
    return f'\n[[segment]]\nname = "{name}"\nvni = {vni}\n'


@pytest.mark.parametrize(
    ("text", "expectation"),
    [
        pytest.param(
            GOOD + second_guest("bob", "tap-bob", "01"),
            "guests 'alice' and 'bob' of segment 'red' have the same MAC 02:00:00:00:00:01;"
            " each needs its own",
            id="same_mac",
        ),
        pytest.param(
            GOOD + second_guest("alice", "tap-bob", "02"),
            "guest name 'alice' stands twice; each must be unique",
            id="same_guest",
        ),
        pytest.param(
            GOOD + second_guest("bob", "tap-alice", "02"), "stands twice", id="same_device"
        ),
        pytest.param(
            GOOD + segment("blue", 10), "vni 10 stands twice; each must be unique", id="same_vni"
        ),
        pytest.param(
            GOOD + segment("red", 20),
            "segment name 'red' stands twice; each must be unique",
            id="same_segment",
        ),
        pytest.param(
            GOOD + segment("blue", 20) + second_guest("bob", "tap-bob", "02", "green"),
            "guest 'bob': no segment 'green'; there are: blue, red",
            id="unknown_segment",
        ),
        pytest.param(
            changed('"02:00:00:00:00:01"', '"00:00:de:ad:be:ef"'),
            "guest 'alice': 00:00:de:ad:be:ef is the shared MAC; choose another",
            id="shared_mac",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(path: Path, text: str, expectation: str) -> None:
    (line,) = mistakes(path, text)
    assert expectation in line


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            GOOD + segment("blue", 20) + second_guest("bob", "tap-bob", "01", "blue"),
            id="same_mac_in_another_segment",
        ),
        pytest.param(
            GOOD + second_guest("bob", "tap-alice", "02") + 'netns = "bob"\n',
            id="same_device_in_another_namespace",
        ),
        pytest.param(
            changed('["02:00:00:00:00:01"]', '["02:00:00:00:00:01", "02:00:00:00:00:02"]'),
            id="two_macs",
        ),
    ],
)
def test_what_only_looks_alike_is_taken(path: Path, text: str) -> None:
    assert load(path, text).guest


def test_a_request_to_the_api_is_checked_by_the_same_rules() -> None:
    with pytest.raises(SettingsError, match=r"^request: vswitch: missing\nrequest: segment: "):
        settings.check({}, Config, "request")

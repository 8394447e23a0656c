"""The forwarding table against an oracle that walks all prefixes and takes the longest."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leaf.fib import MAX_PREFIXES, Fib, FibFull, Prefix
from tests.frames import v4, v6
from tests.unit.leaf_world import prefix


def oracle(prefixes: list[Prefix], bits: int, address: int) -> Prefix | None:
    """The longest prefix that holds `address`, by looking at every one."""
    held = [p for p in prefixes if address >> (bits - p.length) == p.network >> (bits - p.length)]
    return max(held, key=lambda p: p.length, default=None)


def fib_of(bits: int, *prefixes: Prefix) -> Fib[Prefix]:
    fib: Fib[Prefix] = Fib(bits)
    fib.set_prefixes((p, p) for p in prefixes)
    return fib


def edges(prefixes: list[Prefix], bits: int) -> set[int]:
    """Where a mistake by one shows: the first and last address of each, and their neighbours."""
    top = (1 << bits) - 1
    at = {0, top}
    for one in prefixes:
        last = one.network + (1 << (bits - one.length)) - 1
        at |= {one.network - 1, one.network, last, last + 1}
    return {address for address in at if 0 <= address <= top}


@st.composite
def some_prefixes(draw: st.DrawFn, bits: int) -> list[Prefix]:
    """Prefixes that like to nest and to touch: their networks differ in few bits."""
    made = []
    for _ in range(draw(st.integers(0, 12))):
        length = draw(st.integers(0, bits))
        seed = draw(st.sampled_from([0, 1, 2, 3, 0b1010, (1 << bits) - 1, 1 << (bits - 1)]))
        spread = seed << draw(st.integers(0, bits - 1))
        network = (spread & ((1 << bits) - 1)) >> (bits - length) << (bits - length)
        made.append(Prefix(network, length))
    return made


@pytest.mark.parametrize("bits", [32, 128])
def test_the_longest_prefix_wins_as_the_oracle_says(bits: int) -> None:
    @given(
        some_prefixes(bits),
        st.lists(st.integers(0, (1 << bits) - 1), max_size=5),
    )
    def check(prefixes: list[Prefix], others: list[int]) -> None:
        fib = fib_of(bits, *prefixes)
        for address in edges(prefixes, bits) | set(others):
            found = fib.lookup(address.to_bytes(bits // 8, "big"))
            assert found == oracle(prefixes, bits, address)

    check()


@given(
    st.lists(st.sampled_from([prefix(f"1.1.{n}.0/24") for n in range(4)])),
    st.lists(st.sampled_from([prefix("0.0.0.0/0"), prefix("1.1.0.0/16"), prefix("1.1.0.0/22")])),
    st.lists(st.integers(0x01010000, 0x010103FF), max_size=20),
)
@example([prefix("1.1.0.0/24")], [], [0x01010000])
def test_hosts_come_first(inner: list[Prefix], outer: list[Prefix], hosts: list[int]) -> None:
    fib = fib_of(32, *inner, *outer)
    marks = {address: Prefix(address, 32) for address in hosts}
    for address, mark in marks.items():
        fib.hosts[address.to_bytes(4, "big")] = mark
    for address in range(0x01010000, 0x01010400, 37):
        expected = marks.get(address, oracle([*inner, *outer], 32, address))
        assert fib.lookup(address.to_bytes(4, "big")) == expected
    for address in hosts:
        assert fib.lookup(address.to_bytes(4, "big")) == marks[address]


def test_an_empty_table_holds_nothing() -> None:
    for fib, addresses in (
        (Fib[str](32), ("0.0.0.0", "1.2.3.4", "255.255.255.255")),
        (Fib[str](128), ("::", "2001:db8::1", "ffff:" * 7 + "ffff")),
    ):
        for text in addresses:
            assert fib.lookup(v6(text) if ":" in text else v4(text)) is None


def test_the_whole_space_is_a_prefix() -> None:
    whole = prefix("0.0.0.0/0")
    fib = fib_of(32, whole)
    for text in ("0.0.0.0", "1.2.3.4", "255.255.255.255"):
        assert fib.lookup(v4(text)) == whole
    whole6 = Prefix(0, 0)
    assert fib_of(128, whole6).lookup(v6("ffff:" * 7 + "ffff")) == whole6


def test_a_hole_ends_where_its_prefix_ends() -> None:
    """After three levels of nesting the value of each outer one comes back in turn."""
    levels = [prefix(p) for p in ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.255.0/24")]
    fib = fib_of(32, *levels)
    for text, level in (
        ("9.255.255.255", 0),
        ("10.0.0.0", 1),
        ("10.1.0.0", 2),
        ("10.1.254.255", 2),
        ("10.1.255.0", 3),
        ("10.1.255.255", 3),
        ("10.2.0.0", 1),
        ("10.255.255.255", 1),
        ("11.0.0.0", 0),
    ):
        assert fib.lookup(v4(text)) == levels[level], text


def test_neighbours_do_not_run_into_each_other() -> None:
    low, high = prefix("10.0.0.0/25"), prefix("10.0.0.128/25")
    fib = fib_of(32, high, low)
    assert fib.lookup(v4("10.0.0.127")) == low
    assert fib.lookup(v4("10.0.0.128")) == high
    assert fib.lookup(v4("10.0.1.0")) is None


def test_the_last_addresses_of_the_space_are_held() -> None:
    last = prefix("255.255.255.255/32")
    fib = fib_of(32, prefix("255.0.0.0/8"), last)
    assert fib.lookup(v4("255.255.255.255")) == last
    assert fib.lookup(v4("255.255.255.254")) == prefix("255.0.0.0/8")


def test_setting_prefixes_replaces_all_of_them_and_no_host() -> None:
    fib = fib_of(32, prefix("10.0.0.0/8"), prefix("11.0.0.0/8"))
    fib.hosts[v4("10.0.0.1")] = prefix("10.0.0.1/32")
    fib.set_prefixes([(prefix("12.0.0.0/8"), prefix("12.0.0.0/8"))])
    assert fib.lookup(v4("10.0.0.2")) is None
    assert fib.lookup(v4("11.0.0.2")) is None
    assert fib.lookup(v4("12.0.0.2")) == prefix("12.0.0.0/8")
    assert fib.lookup(v4("10.0.0.1")) == prefix("10.0.0.1/32")
    assert set(fib.prefixes) == {prefix("12.0.0.0/8")}


def test_what_prefixes_returns_is_a_copy() -> None:
    fib = fib_of(32, prefix("10.0.0.0/8"))
    fib.prefixes.clear()
    assert set(fib.prefixes) == {prefix("10.0.0.0/8")}


def test_a_full_table_refuses_all_and_stays_as_it_was() -> None:
    kept = prefix("10.0.0.0/8")
    fib = fib_of(32, kept)
    many = [Prefix(number << 8, 24) for number in range(MAX_PREFIXES + 1)]
    with pytest.raises(FibFull, match=f"{MAX_PREFIXES + 1} prefixes.*{MAX_PREFIXES}"):
        fib.set_prefixes((one, one) for one in many)
    assert set(fib.prefixes) == {kept}
    assert fib.lookup(v4("10.1.1.1")) == kept
    fib.set_prefixes((one, one) for one in many[:-1])
    assert fib.lookup(v4("0.0.5.1")) == many[5]

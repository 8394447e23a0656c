"""How much the leaf does for whom: the rates of everything that is not forwarding.

Each part of the slow path takes the rates of its own subject from here; the policers behind them
are where the subject is, and `gate.py` says how a rate that many share is kept open for all.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Rates per second; each may also come at once, and half of what all segments share."""

    punts: float = 2000.0
    """Packets per VTEP, of ARP, ND, RARP and DHCP, and as many of all else. At 30 us each that is
    6 % of a core, twice."""
    icmp: float = 500.0
    """ICMP answers and errors per VTEP; a guest has as many of them as `guest_punts`."""
    gleans: float = 500.0
    """New addresses asked for, over all; and no more questions than `questions`. Of both, half is
    kept for segments that ask for little (`gate.py`)."""
    multicast: float = 1000.0
    """Packets to replicate, per segment, before they are copied."""
    guest_punts: float = 200.0
    """Packets per guest, of each of the two kinds. Ten guests that flood use up what is not kept
    for those that say little (`gate.py`)."""
    guest_gleans: float = 50.0
    """New addresses that one guest may have asked for; each keeps a place for three seconds, so
    that one that scans takes a seventh of what its segment may have."""
    guest_dhcp: float = 10.0
    """DHCP messages per guest; a client sends four, then two in every half lease time."""
    dhcp_commits: float = 25.0
    """Writes of the leases, over all; `responder.py` limits those of one guest. Each holds the loop
    for the time of a disk's sync, 4 ms where it was measured: a tenth of it. A rack whose guests
    all start at once takes that much longer; their clients ask again."""
    server_dhcp: float = 500.0
    """Messages of one DHCP server, where they are relayed; each that gives a lease makes a binding.
    A server answers a guest as often as it asks, so only one that fails sends more."""
    questions: float = 10_000.0
    """Questions to glean, over all: one for each vswitch of the segment, three times. At 10 us each
    that is 10 % of a core. A guest may cause a tenth of them."""

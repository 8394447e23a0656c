"""`struct virtio_net_hdr`: what stands beside a guest frame at a port (virtio 1.2, 5.1.6).

It says whether the checksum is still to be filled in and whether the frame is a super-frame that
is to be cut into segments. Ten bytes, little-endian with TUNSETVNETLE.
"""

from __future__ import annotations

from struct import Struct

HEADER = Struct("<BBHHHH")
"""Flags, GSO type, header length, GSO size, checksum start, checksum offset."""
VNET_LEN = HEADER.size

NEEDS_CHECKSUM = 1
"""VIRTIO_NET_HDR_F_NEEDS_CSUM."""

GSO_NONE = 0

PLAIN = bytes(VNET_LEN)
"""A frame that is complete as it stands."""

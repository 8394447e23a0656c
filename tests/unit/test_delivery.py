"""What is done where the kernel does not take a super-frame: by a device that refuses, as kernels
do that we do not have at hand."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from tests.property.test_offload import Super
from vswitch.phy.delivery import Delivery
from vswitch.phy.tunnel import Train
from vswitch.wire import vnet
from vswitch.wire.ethernet import Buffer
from vswitch.wire.vxlan import VXLAN_LEN, Vtep

TCP4, UDP4 = Super(True, True, 100, bytes(950)), Super(True, False, 100, bytes(950))
UDP6 = Super(False, False, 100, bytes(950))


class Device:
    """A device that takes what it is told to."""

    def __init__(self, *refused: int, room: int = 1000) -> None:
        self.refused, self.room = refused, room
        self.tried: list[tuple[bool, int]] = []
        """Whether it was a super-frame, and what was answered."""
        self.taken: list[bytes] = []
        self.notices: list[str] = []
        self.delivery = Delivery(self._put, offload=True, notice=self.notices.append)

    def _put(self, frame: Buffer, header: Buffer) -> int:
        answer = 0
        if vnet.gso_kind(header) in self.refused:
            answer = errno.EINVAL
        elif len(self.taken) >= self.room:
            answer = errno.ENOBUFS
        else:
            self.taken.append(bytes(frame))
        self.tried.append((vnet.is_super_frame(header), answer))
        return answer


def train_of(made: Super) -> Train:
    packets = made.expected()
    slot = np.zeros(1 << 16, dtype=np.uint8)
    data = b"".join(packets)
    slot[: len(data)] = np.frombuffer(data, np.uint8)
    return Train(slot, 0, len(data), len(packets[0]), Vtep("10.0.0.1"))


def frames_of(made: Super) -> list[bytes]:
    return [packet[VXLAN_LEN:] for packet in made.expected()]


def test_a_train_of_a_kind_that_is_refused_goes_packet_by_packet_from_then_on() -> None:
    """UDP before Linux 6.2."""
    device = Device(vnet.GSO_UDP_L4)
    assert device.delivery.write_train(train_of(UDP4)) == 10
    assert device.taken == frames_of(UDP4)
    assert [is_super for is_super, _ in device.tried] == [True] + [False] * 10
    assert device.delivery.write_train(train_of(UDP6)) == 10
    assert device.taken == frames_of(UDP4) + frames_of(UDP6)
    assert not any(is_super for is_super, _ in device.tried[11:])
    (notice,) = device.notices
    assert "UDP" in notice


def test_other_kinds_are_still_joined() -> None:
    device = Device(vnet.GSO_UDP_L4)
    device.delivery.write_train(train_of(UDP4))
    assert device.delivery.write_train(train_of(TCP4)) == 10
    assert device.tried[-1] == (True, 0)


def test_a_train_that_is_refused_for_another_reason_is_not_tried_again() -> None:
    """The queue is full: packets would only fill what is left of it."""
    device = Device(room=0)
    assert device.delivery.write_train(train_of(TCP4)) == 0
    assert device.tried == [(True, errno.ENOBUFS)]
    assert device.notices == []


def test_a_kind_is_not_given_up_while_its_packets_are_not_taken_either() -> None:
    device = Device(vnet.GSO_TCPV4, room=3)
    assert device.delivery.write_train(train_of(TCP4)) == 3
    assert device.notices == []
    device.room = 100
    assert device.delivery.write_train(train_of(TCP4)) == 10
    assert len(device.notices) == 1


@pytest.mark.parametrize("made", [TCP4, UDP4, UDP6], ids=["tcp4", "udp4", "udp6"])
def test_a_neighbours_super_frame_that_is_refused_is_cut(made: Super) -> None:
    packet, header = made.packet_and_header()
    device = Device(header[1])
    for _ in range(2):
        device.taken.clear()
        assert device.delivery.write_super(packet[VXLAN_LEN:], header)
        assert device.taken == frames_of(made)
    assert [is_super for is_super, _ in device.tried] == [True] + [False] * 20
    assert len(device.notices) == 1


def test_a_neighbours_super_frame_of_which_a_packet_does_not_fit_is_not_taken() -> None:
    packet, header = TCP4.packet_and_header()
    device = Device(vnet.GSO_TCPV4, room=3)
    assert not device.delivery.write_super(packet[VXLAN_LEN:], header)
    assert device.notices == []


def test_a_super_frame_that_contradicts_itself_is_not_taken() -> None:
    packet, header = TCP4.packet_and_header()
    for lie in (header[:4] + b"\0\0" + header[6:], header[:1] + b"\x05" + header[2:]):
        device = Device(vnet.GSO_TCPV4, vnet.GSO_UDP_L4)
        assert not device.delivery.write_super(packet[VXLAN_LEN:], lie)
        assert device.taken == []
        assert device.notices == []


def test_a_single_packet_is_handed_over_as_it_is() -> None:
    device = Device()
    one = TCP4._replace(payload=bytes(50))
    assert device.delivery.write_train(train_of(one)) == 1
    assert device.taken == frames_of(one)
    assert device.tried == [(False, 0)]

"""The log's stream: what cannot be written is counted, and nobody waits for it."""

from __future__ import annotations

import os

from vswitch.service.log import LossyStream


def test_what_can_be_written_is() -> None:
    reader, writer = os.pipe()
    stream = LossyStream(writer)
    stream.write("a line\n")
    assert os.read(reader, 100) == b"a line\n"
    assert stream.lost == 0
    os.close(reader)
    os.close(writer)


def test_a_reader_that_has_stalled_holds_nobody_up() -> None:
    """A pipe holds 64 kB; without the check the writer would wait here for ever."""
    reader, writer = os.pipe()
    stream = LossyStream(writer)
    for _ in range(100):
        stream.write("x" * 9_999 + "\n")
    assert stream.lost > 80
    os.close(reader)
    os.close(writer)


def test_a_reader_that_has_gone_and_a_full_disk_are_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = LossyStream(writer)
    stream.write("nobody reads this\n")
    assert stream.lost == 1
    os.close(writer)
    full = os.open("/dev/full", os.O_WRONLY)
    stream = LossyStream(full)
    stream.write("no room\n")
    assert stream.lost == 1
    os.close(full)

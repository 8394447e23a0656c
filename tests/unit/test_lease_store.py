"""The file of leases: what is in it survives a kill -9 at any moment, and it says what is wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leaf.leases import Client, Lease, State
from leaf.leasestore import LeaseStore, StoreError
from tests.frames import mac, v4
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

ONE = Vni(100)
WRITER = """
import sys, time
from pathlib import Path
from leaf.leases import Client, Lease, State
from leaf.leasestore import LeaseStore

store = LeaseStore(Path(sys.argv[1]), time.time)
for n in range(1, 1 << 20):
    # Two rows in each transaction, as when a client changes its address.
    client = Client(n.to_bytes(6, "big"))
    first = Lease(100, n.to_bytes(4, "big"), client, State.BOUND, time.monotonic() + 600)
    second = first._replace(segment=200)
    store.write([first, second], time.monotonic())
    print(n, flush=True)
"""


def lease(n: int, expires: float, state: State = State.BOUND) -> Lease:
    return Lease(ONE, v4(f"1.1.1.{n}"), Client(Mac(mac(n))), state, expires)


def test_leases_come_back_with_the_time_that_they_have_left(tmp_path: Path) -> None:
    wall = 1_000_000.0
    store = LeaseStore(tmp_path / "new" / "leaf.db", lambda: wall)
    store.write([lease(1, 700.0), lease(2, 250.0)], 100.0)
    store.write([lease(3, 900.0, State.DECLINED), lease(1, 800.0)], 100.0)
    store.close()
    # The machine was started anew: its clock begins at 7, and 200 seconds have passed.
    wall += 200.0
    store = LeaseStore(tmp_path / "new" / "leaf.db", lambda: wall)
    found = {one.address: one for one in store.read(7.0)}
    assert found == {
        v4("1.1.1.1"): lease(1, 507.0),
        v4("1.1.1.2"): lease(2, -43.0, State.FREE),
        v4("1.1.1.3"): lease(3, 607.0, State.DECLINED),
    }
    store.close()


def test_what_was_long_ago_is_forgotten(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", lambda: 0.0)
    store.write([lease(1, 100.0)], 0.0)
    store.close()
    store = LeaseStore(tmp_path / "leaf.db", lambda: 100 * 86_400.0)
    assert store.read(0.0) == []
    store.close()


@pytest.mark.parametrize("after", [1, 7, 40])
def test_a_kill_at_any_moment_leaves_whole_transactions(tmp_path: Path, after: int) -> None:
    path = tmp_path / "leaf.db"
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = 0
        while told < after + round_:
            told = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split("\n")
        told = max([told, *(int(line) for line in rest[:-1] if line)])
        process.wait()
        process.stdout.close()
        store = LeaseStore(path, time.time)
        rows = store.read(time.monotonic())
        store.close()
        segments = {vni: {r.address for r in rows if r.segment == vni} for vni in (100, 200)}
        assert segments[100] == segments[200]
        # All that was told, and at most the one whose telling was cut off.
        assert segments[100] >= {n.to_bytes(4, "big") for n in range(1, told + 1)}
        assert all(row.state is State.BOUND for row in rows)


def test_a_second_leaf_is_kept_out(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", time.time)
    store.write([lease(1, 100.0)], 0.0)
    with pytest.raises(StoreError, match="another leaf"):
        LeaseStore(tmp_path / "leaf.db", time.time)
    store.close()


def test_what_is_no_file_of_leases_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    path.write_bytes(b"not SQLite at all, but long enough" * 100)
    with pytest.raises(StoreError, match=r"leaf\.db.*remove it"):
        LeaseStore(path, time.time)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"leaf\.state"):
        LeaseStore(tmp_path / "file" / "leaf.db", time.time)


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 9")
    file.close()
    with pytest.raises(StoreError, match="version 9"):
        LeaseStore(path, time.time)


def test_a_row_that_we_cannot_have_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    store = LeaseStore(path, time.time)
    store.write([lease(1, 100.0)], 0.0)
    store.close()
    file = sqlite3.connect(path)
    file.execute("UPDATE lease SET state = 'lent', expires = 1e12")
    file.commit()
    file.close()
    store = LeaseStore(path, time.time)
    with pytest.raises(StoreError, match="lent"):
        store.read(0.0)
    store.close()


def test_a_write_that_fails_leaves_the_store_usable(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", lambda: 0.0)
    no_address = lease(2, 100.0)._replace(client=Client(None))  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        store.write([lease(1, 100.0), no_address], 0.0)
    store.write([lease(3, 100.0)], 0.0)
    assert [one.address for one in store.read(0.0)] == [v4("1.1.1.3")]
    store.close()

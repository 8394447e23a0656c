"""The file of leases: what is in it survives a kill -9 at any moment, and it says what is wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leaf.leases import Client, Lease, State
from leaf.leasestore import LeaseStore, StoreError, boot_id
from tests.frames import mac, v4
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

ONE = Vni(100)
BOOT = "this boot"
WRITER = """
import sys, time
from pathlib import Path
from leaf.leases import Client, Lease, State
from leaf.leasestore import LeaseStore, boot_id

store = LeaseStore(Path(sys.argv[1]), time.time, boot_id())
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
    store = LeaseStore(tmp_path / "new" / "leaf.db", lambda: wall, BOOT)
    store.write([lease(1, 700.0), lease(2, 250.0)], 100.0)
    store.write([lease(3, 900.0, State.DECLINED), lease(1, 800.0)], 100.0)
    store.close()
    # The machine was started anew: its clock begins at 7, and 200 seconds have passed.
    wall += 200.0
    store = LeaseStore(tmp_path / "new" / "leaf.db", lambda: wall, "the next")
    found = {one.address: one for one in store.read(7.0)}
    assert found == {
        v4("1.1.1.1"): lease(1, 507.0),
        v4("1.1.1.2"): lease(2, -43.0, State.FREE),
        v4("1.1.1.3"): lease(3, 607.0, State.DECLINED),
    }
    store.close()


def test_what_was_long_ago_is_forgotten(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", lambda: 0.0, BOOT)
    store.write([lease(1, 100.0)], 0.0)
    store.close()
    store = LeaseStore(tmp_path / "leaf.db", lambda: 100 * 86_400.0, "the next")
    assert store.read(0.0) == []
    store.close()


@pytest.mark.parametrize("step", [7200.0, 200 * 86_400.0, -3 * 365 * 86_400.0])
def test_a_clock_that_is_set_changes_no_lease_as_long_as_the_machine_runs(
    tmp_path: Path, step: float
) -> None:
    wall = 1_000_000_000.0
    store = LeaseStore(tmp_path / "leaf.db", lambda: wall, BOOT)
    store.write([lease(1, 3700.0), lease(2, 105.0)], 100.0)
    store.close()
    wall += step
    store = LeaseStore(tmp_path / "leaf.db", lambda: wall, BOOT)
    found = {one.address: one for one in store.read(110.0)}
    assert found == {
        v4("1.1.1.1"): lease(1, 3700.0),
        v4("1.1.1.2"): lease(2, 105.0, State.FREE),
    }
    store.close()


def test_what_was_long_ago_is_forgotten_while_the_machine_runs(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", lambda: 0.0, BOOT)
    store.write([lease(1, 100.0), lease(2, 100 * 86_400.0)], 0.0)
    assert [one.address for one in store.read(91 * 86_400.0)] == [v4("1.1.1.2")]
    assert [one.address for one in store.read(0.0)] == [v4("1.1.1.2")]
    store.close()


def test_a_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    file = sqlite3.connect(path)
    file.execute(
        "CREATE TABLE lease (segment INTEGER NOT NULL, family INTEGER NOT NULL,"
        " address BLOB NOT NULL, mac BLOB NOT NULL, part BLOB NOT NULL, state TEXT NOT NULL,"
        " expires REAL NOT NULL, PRIMARY KEY (segment, family, address)) WITHOUT ROWID"
    )
    row = (100, 4, v4("1.1.1.1"), mac(1), b"", "bound", 1000.0)
    file.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    file.execute("PRAGMA user_version = 1")
    file.commit()
    file.close()
    for _ in range(2):
        store = LeaseStore(path, lambda: 900.0, BOOT)
        assert {one.address: one for one in store.read(7.0)}[v4("1.1.1.1")] == lease(1, 107.0)
        store.write([lease(2, 300.0)], 7.0)
        store.close()
    store = LeaseStore(path, lambda: 5000.0, BOOT)
    assert sorted(one.state for one in store.read(8.0)) == [State.BOUND, State.FREE]
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
        store = LeaseStore(path, time.time, boot_id())
        rows = store.read(time.monotonic())
        store.close()
        segments = {vni: {r.address for r in rows if r.segment == vni} for vni in (100, 200)}
        assert segments[100] == segments[200]
        # All that was told, and at most the one whose telling was cut off.
        assert segments[100] >= {n.to_bytes(4, "big") for n in range(1, told + 1)}
        assert all(row.state is State.BOUND for row in rows)


def test_a_second_leaf_is_kept_out(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", time.time, BOOT)
    store.write([lease(1, 100.0)], 0.0)
    with pytest.raises(StoreError, match="another leaf"):
        LeaseStore(tmp_path / "leaf.db", time.time, BOOT)
    store.close()


def test_what_is_no_file_of_leases_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    path.write_bytes(b"not SQLite at all, but long enough" * 100)
    with pytest.raises(StoreError, match=r"leaf\.db.*remove it"):
        LeaseStore(path, time.time, BOOT)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"leaf\.state"):
        LeaseStore(tmp_path / "file" / "leaf.db", time.time, BOOT)


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 9")
    file.close()
    with pytest.raises(StoreError, match="version 9"):
        LeaseStore(path, time.time, BOOT)


def test_a_row_that_we_cannot_have_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leaf.db"
    store = LeaseStore(path, time.time, BOOT)
    store.write([lease(1, 100.0)], 0.0)
    store.close()
    file = sqlite3.connect(path)
    file.execute("UPDATE lease SET state = 'lent', expires = 1e12")
    file.commit()
    file.close()
    store = LeaseStore(path, time.time, BOOT)
    with pytest.raises(StoreError, match="lent"):
        store.read(0.0)
    store.close()


def test_a_write_that_fails_leaves_the_store_usable(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leaf.db", lambda: 0.0, BOOT)
    no_address = lease(2, 100.0)._replace(client=Client(None))  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        store.write([lease(1, 100.0), no_address], 0.0)
    store.write([lease(3, 100.0)], 0.0)
    assert [one.address for one in store.read(0.0)] == [v4("1.1.1.3")]
    store.close()


def test_a_boot_is_named_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(boot_id()) == 36 and boot_id() == boot_id()
    monkeypatch.setattr("leaf.leasestore.BOOT_ID", tmp_path / "hidden")
    with pytest.raises(StoreError, match="make /proc/sys visible"):
        boot_id()

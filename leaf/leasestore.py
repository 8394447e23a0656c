"""The file that keeps leases over a restart: SQLite, a row for each address.

A write is one transaction in a write-ahead log that is synced before the call returns, so a kill -9
or a power failure at any moment leaves either the old rows or the new ones, and what a client has
been told is always in the file. A commit took 4 ms on the disk at hand (99th percentile 13 ms), and
the event loop, forwarding included, waits for it; so the rate of commits is limited, in all and for
one guest (`responder.py`), and a request that is repeated commits nothing (`leases.FRESH`). A
thread would spare the loop the wait, but the table then had a third state, told to nobody and not
yet on disk.

The table of leases counts in a clock that never jumps but begins anew with the machine. So a row
has its expiry in that clock, with the identity of the boot that the clock is of, and in wall-clock
time too. As long as the machine runs the former counts, and a wall clock that is set, as by NTP
soon after a start, ends no lease early. After a restart of the machine the wall clock is all there
is: a lease goes on by as much as that did. If it was set forward since the row was written, leases
end early; the bindings still keep an address that is in use from being given to another guest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from vswitch.service.settings import SettingsError
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

from .leases import Client, Lease, State

VERSION = 2
"""PRAGMA user_version of the file."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""A UUID that is the same until the machine is started anew; proc_sys_kernel(5)."""
KEEP = 90 * 86_400.0
"""Seconds for which it is remembered who had an address last."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
    segment INTEGER NOT NULL,
    family INTEGER NOT NULL,
    address BLOB NOT NULL,
    mac BLOB NOT NULL,
    part BLOB NOT NULL,
    state TEXT NOT NULL,
    expires REAL NOT NULL,
    boot TEXT NOT NULL DEFAULT '',
    monotonic REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (segment, family, address)
) WITHOUT ROWID
"""
_FROM_1 = (
    "ALTER TABLE lease ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE lease ADD COLUMN monotonic REAL NOT NULL DEFAULT 0",
)
"""What makes a file of version 1 one of version 2: its rows are of no boot that there is."""
_WRITE = "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READ = "SELECT segment, address, mac, part, state, expires, boot, monotonic FROM lease"
_FORGET = "DELETE FROM lease WHERE CASE boot WHEN ? THEN monotonic < ? ELSE expires < ? END"


class StoreError(SettingsError):
    """The file cannot be used; the text says why, and what to do."""


def boot_id() -> str:
    """Return the identity of this boot. Raises StoreError."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError as error:
        remedy = "make /proc/sys visible (in a systemd unit: no ProcSubset=pid)"
        raise StoreError(f"leases cannot be kept: {error}; {remedy}") from error


class LeaseStore:
    """An open file of leases."""

    def __init__(self, path: Path, wall: Callable[[], float], boot: str) -> None:
        """Open the file, or make it. `boot` names what the times of `read` and `write` count from:
        equal for two stores whose clocks are the same. Raises StoreError."""
        self._wall = wall
        self._boot = boot
        remedy = f"{path}: leases cannot be kept there"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{remedy}: {error}; make it writable, or set leaf.state") from error
        try:
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreError(f"{remedy}: it is of version {version}, and we know {VERSION}")
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(_SCHEMA)
            for step in _FROM_1 if version == 1 else ():
                self._file.execute(step)
            self._file.execute(f"PRAGMA user_version = {VERSION}")
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            self._file.close()
            raise StoreError(
                f"{remedy}: {error}; is another leaf using it? If it is damaged, remove it"
            ) from error
        except StoreError:
            self._file.close()
            raise

    def read(self, now: float) -> list[Lease]:
        """Return all records, with what is over as free; what is so for longer than KEEP is
        forgotten. Raises StoreError."""
        wall = self._wall()
        ahead = now - wall
        found = []
        try:
            self._file.execute(_FORGET, (self._boot, now - KEEP, wall - KEEP))
            rows = self._file.execute(_READ)
            for segment, address, mac, part, state, expires, boot, monotonic in rows:
                until = monotonic if boot == self._boot else expires + ahead
                kind = State.FREE if until <= now else State(state)
                client = Client(Mac(mac), part)
                found.append(Lease(Vni(segment), address, client, kind, until))
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"the file of leases cannot be read: {error}") from error
        return found

    def write(self, leases: Iterable[Lease], now: float) -> None:
        """Commit these records. Raises StoreError."""
        ahead = self._wall() - now
        rows = [
            (
                lease.segment,
                4 if len(lease.address) == 4 else 6,
                lease.address,
                lease.client.mac,
                lease.client.part,
                lease.state.value,
                lease.expires + ahead,
                self._boot,
                lease.expires,
            )
            for lease in leases
        ]
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.executemany(_WRITE, rows)
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"leases cannot be written: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

"""The file that keeps leases over a restart: SQLite, a row for each address.

A write is one transaction in a write-ahead log that is synced before the call returns, so a kill -9
or a power failure at any moment leaves either the old rows or the new ones, and what a client has
been told is always in the file. A commit took 4 ms on the disk at hand (99th percentile 13 ms), and
the event loop, forwarding included, waits for it; so the rate of messages that commit is limited
(`slowpath.Limits`), and a request that is repeated commits nothing (`leases.FRESH`). A thread would
spare the loop the wait, but the table then had a third state, told to nobody and not yet on disk.

The table of leases counts in a clock that never jumps but begins anew with the machine. The file
has wall-clock times: a lease goes on through a restart by as much as the wall clock did. A clock
that is set forward while the leaf is down ends leases early; the bindings then still keep an
address that is in use from being given to another guest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from vswitch.service.settings import SettingsError
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

from .leases import Client, Lease, State

VERSION = 1
"""PRAGMA user_version of the file."""
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
    PRIMARY KEY (segment, family, address)
) WITHOUT ROWID
"""
_WRITE = "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?)"
_READ = "SELECT segment, address, mac, part, state, expires FROM lease"


class StoreError(SettingsError):
    """The file cannot be used; the text says why, and what to do."""


class LeaseStore:
    """An open file of leases."""

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        """Open the file, or make it. Raises StoreError."""
        self._wall = wall
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
            if version not in (0, VERSION):
                raise StoreError(f"{remedy}: it is of version {version}, and we know {VERSION}")
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(_SCHEMA)
            self._file.execute(f"PRAGMA user_version = {VERSION}")
            self._file.execute("DELETE FROM lease WHERE expires < ?", (wall() - KEEP,))
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
        """Return all records, with what is over as free. Raises StoreError."""
        ahead = now - self._wall()
        found = []
        try:
            for segment, address, mac, part, state, expires in self._file.execute(_READ):
                until = expires + ahead
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

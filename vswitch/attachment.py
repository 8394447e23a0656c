"""Attachments: what the vswitch knows of its guests, and how they arrive, move and leave.

     absent --stage--> STAGED --first frame of the guest, or activate--> ACTIVE
                          \\--detach (abort)--> absent                     |  ^
                                                                  suspend |  | activate
                                                                          v  |
                                                        absent <--detach-- DEPARTING

STAGED is the target of a migration before the guest runs there: the port exists and its MACs are
known, but nothing is delivered and nothing is announced. ACTIVE begins on `attach` (cold start: at
once), on the first frame from one of the guest's own MACs, or on `activate`. DEPARTING is a guest
that is leaving: nothing is delivered to it any more (a frame for it is a miss, and so finds it
where it is now), but what it has sent is still forwarded. Every detach passes through it, for as
long as it takes to put the port out of service.

One attachment holds every MAC and every address of a guest, so they always move together.

Each verb may carry a *sequence*, which whoever orchestrates moves counts up: news with an older
sequence than the newest known for that guest changes nothing, also after the guest has gone.
Without one, the verb counts as the newest.

An activation is announced to the leaf by a RARP for each MAC and an ARP announcement for each
listed IPv4 address. The announcement is repeated like QEMU's own, since any one may be lost.

This module decides and remembers; it does no I/O, and time is an argument.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

from .phy.port import PortId
from .wire.ethernet import Mac
from .wire.vxlan import Vni

MAX_ATTACHMENTS = 4096
"""Per vswitch; a full table refuses a further guest. Hosts run hundreds at the most."""
MAX_MACS = 16
MAX_ADDRESSES = 64
MAX_REMEMBERED = 4096
"""Sequences kept of guests that have gone; the longest gone is forgotten first."""
REPEATS = (0.05, 0.2, 0.45, 0.8)
"""Seconds after an activation at which it is announced again: QEMU's own spacing."""


class State(StrEnum):
    """Where an attachment is in its life; an absent one has no record."""

    STAGED = "staged"
    ACTIVE = "active"
    DEPARTING = "departing"


@dataclass(slots=True)
class Attachment:
    """One guest behind one port."""

    guest: str
    port: PortId
    segment: Vni
    macs: frozenset[Mac]
    addresses: frozenset[bytes] = frozenset()
    """4 bytes each for IPv4, 16 for IPv6. Empty: the guest may use any address."""
    spoof_guard: bool = True
    state: State = State.STAGED
    sequence: int = 0
    since: float = 0.0
    """When it got into this state, in seconds of the engine's clock."""
    activation: int = 0
    """Which of this vswitch's activations was its last one."""
    device: str = ""
    """What is behind the port, as people name it: two guests cannot have the same."""


class AttachmentError(ValueError):
    """A verb that cannot be carried out; the text says why and what to do."""


class StaleSequence(AttachmentError):
    """The verb is older news than what is known; nothing was changed."""


class UnknownGuest(AttachmentError):
    """No attachment has this name."""


@dataclass(slots=True)
class Attachments:
    """All attachments of a vswitch."""

    _by_guest: dict[str, Attachment] = field(default_factory=dict)
    _by_port: dict[PortId, Attachment] = field(default_factory=dict)
    _departed: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _activations: int = 0
    _repeats: list[tuple[float, str, int]] = field(default_factory=list)
    """A heap of (when, guest, activation); an entry of an earlier activation is void."""

    def __len__(self) -> int:
        return len(self._by_guest)

    def all(self) -> list[Attachment]:
        """Return every attachment, in the order of arrival."""
        return list(self._by_guest.values())

    def of_port(self, port: PortId) -> Attachment | None:
        """Return the attachment behind `port`."""
        return self._by_port.get(port)

    def get(self, guest: str) -> Attachment:
        """Return the attachment of `guest`. Raises UnknownGuest."""
        found = self._by_guest.get(guest)
        if found is None:
            known = ", ".join(sorted(self._by_guest)[:8]) or "none"
            raise UnknownGuest(f"no guest {guest!r} is attached here; attached: {known}")
        return found

    def check(self, new: Attachment, sequence: int | None = None) -> None:
        """Raise AttachmentError where `new` could not be added as it is."""
        if new.guest in self._by_guest:
            raise AttachmentError(f"guest {new.guest!r} is attached already; detach it first")
        if len(self._by_guest) >= MAX_ATTACHMENTS:
            raise AttachmentError(f"the table is full with {MAX_ATTACHMENTS} guests; detach some")
        for other in self._by_guest.values():
            if new.device and other.device == new.device:
                raise AttachmentError(
                    f"guest {new.guest!r}: device {new.device!r} belongs to guest {other.guest!r};"
                    " detach that one first"
                )
        if not 0 < len(new.macs) <= MAX_MACS:
            raise AttachmentError(f"guest {new.guest!r} needs 1 to {MAX_MACS} MAC addresses")
        if len(new.addresses) > MAX_ADDRESSES:
            raise AttachmentError(f"guest {new.guest!r} may list {MAX_ADDRESSES} addresses at most")
        if any(mac[0] & 1 for mac in new.macs):
            raise AttachmentError(f"guest {new.guest!r}: a group address cannot be a guest's MAC")
        if new.state is State.ACTIVE:
            self._check_macs(new)
        self._check_sequence(new.guest, sequence)

    def add(self, new: Attachment, now: float, sequence: int | None = None) -> None:
        """Take `new` in, in the state it has. Raises AttachmentError; then nothing was changed."""
        self.check(new, sequence)
        new.sequence = self._next_sequence(new.guest, sequence)
        self._departed.pop(new.guest, None)
        self._by_guest[new.guest] = self._by_port[new.port] = new
        self._enter(new, new.state, now)

    def activate(self, guest: str, now: float, sequence: int | None = None) -> Attachment:
        """Make a guest active; an active one announces itself again.

        Raises UnknownGuest, StaleSequence, or AttachmentError where another guest has its MAC.
        """
        attachment = self.check_activate(guest, sequence)
        attachment.sequence = self._next_sequence(guest, sequence)
        self._enter(attachment, State.ACTIVE, now)
        return attachment

    def check_activate(self, guest: str, sequence: int | None = None) -> Attachment:
        """Return the attachment that may become active; raise what `activate` would raise."""
        attachment = self.get(guest)
        self._check_sequence(guest, sequence)
        if attachment.state is not State.ACTIVE:
            self._check_macs(attachment)
        return attachment

    def heard(self, guest: str, now: float) -> Attachment:
        """The guest itself says that it runs here: it is active, with the sequence that it has.

        What guests say does not count the sequence up, or they could outrun the orchestrator.
        Raises UnknownGuest, or AttachmentError where another guest has its MAC.
        """
        attachment = self.check_activate(guest)
        self._enter(attachment, State.ACTIVE, now)
        return attachment

    def suspend(self, guest: str, now: float, sequence: int | None = None) -> Attachment:
        """Deliver nothing more to a guest, which is about to go; its sequence stays.

        Raises UnknownGuest or StaleSequence.
        """
        attachment = self.get(guest)
        self._check_sequence(guest, sequence)
        self._enter(attachment, State.DEPARTING, now)
        return attachment

    def detach(self, guest: str, sequence: int | None = None) -> Attachment:
        """Let a guest go. Raises UnknownGuest or StaleSequence."""
        attachment = self.get(guest)
        self._check_sequence(guest, sequence)
        del self._by_guest[guest]
        del self._by_port[attachment.port]
        self._drop_void()
        self._departed[guest] = self._next_sequence(guest, sequence, attachment)
        while len(self._departed) > MAX_REMEMBERED:
            self._departed.popitem(last=False)
        return attachment

    def due_announcements(self, now: float) -> list[Attachment]:
        """Return the attachments that are to be announced again by now."""
        due = []
        while self._repeats and self._repeats[0][0] <= now:
            entry = heapq.heappop(self._repeats)
            if self._is_valid(entry):
                due.append(self._by_guest[entry[1]])
        self._drop_void()
        return due

    def deadline(self) -> float | None:
        """Say when `due_announcements` has something to do."""
        return self._repeats[0][0] if self._repeats else None

    def _enter(self, attachment: Attachment, state: State, now: float) -> None:
        attachment.state = state
        attachment.since = now
        if state is State.ACTIVE:
            self._activations += 1
            attachment.activation = self._activations
            for after in REPEATS:
                entry = (now + after, attachment.guest, self._activations)
                heapq.heappush(self._repeats, entry)
        self._drop_void()

    def _is_valid(self, entry: tuple[float, str, int]) -> bool:
        _, guest, activation = entry
        attachment = self._by_guest.get(guest)
        return (
            attachment is not None
            and attachment.state is State.ACTIVE
            and attachment.activation == activation
        )

    def _drop_void(self) -> None:
        """Drop void entries from the front, so that `deadline` tells the truth."""
        while self._repeats and not self._is_valid(self._repeats[0]):
            heapq.heappop(self._repeats)

    def _check_macs(self, new: Attachment) -> None:
        for other in self._by_guest.values():
            if other.guest == new.guest or other.state is not State.ACTIVE:
                continue
            shared = other.macs & new.macs
            if shared and other.segment == new.segment:
                raise AttachmentError(
                    f"guest {new.guest!r}: MAC {min(shared).hex(':')} is active at guest"
                    f" {other.guest!r}; detach that one first"
                )

    def _newest(self, guest: str) -> int:
        attachment = self._by_guest.get(guest)
        return attachment.sequence if attachment else self._departed.get(guest, 0)

    def _check_sequence(self, guest: str, sequence: int | None) -> None:
        newest = self._newest(guest)
        if sequence is not None and sequence < newest:
            raise StaleSequence(
                f"guest {guest!r}: sequence {sequence} is older than {newest}; nothing was changed"
            )

    def _next_sequence(
        self, guest: str, sequence: int | None, gone: Attachment | None = None
    ) -> int:
        newest = gone.sequence if gone else self._newest(guest)
        return newest + 1 if sequence is None else sequence

"""The MAC table of one segment: which unicast destination has which verdict.

It is small and static. A guest's MAC enters it the moment its attachment becomes active, without
any traffic, and leaves it the moment the attachment is gone. What is stored is the finished
verdict, so that deciding is one look-up.

Only a segment with `miss = "flood"` also learns remote MACs, from frames of the uplink; those age.
When the table is full, nothing more is learnt (and the refusal is counted): an attached guest is
never pushed out by what the network says, and an unlearnt MAC is only flooded.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from .wire.ethernet import Mac

MAX_LEARNT = 8192
"""Per segment; the usual size of a hardware switch's table per VLAN."""
AGE = 300.0
"""Seconds until a learnt MAC that is not heard again is forgotten (IEEE 802.1Q table 8-6)."""

V = TypeVar("V")


class Fdb(Generic[V]):
    """MAC to verdict. `verdicts` may be read directly; it is changed only by the verbs below."""

    def __init__(self, max_learnt: int = MAX_LEARNT) -> None:
        self.verdicts: dict[Mac, V] = {}
        self.refused = 0
        self._max_learnt = max_learnt
        self._heard: dict[Mac, float] = {}

    def __len__(self) -> int:
        return len(self.verdicts)

    @property
    def learnt(self) -> dict[Mac, float]:
        """The learnt MACs and when each was last heard."""
        return dict(self._heard)

    def add(self, mac: Mac, verdict: V) -> None:
        """Enter a static MAC; it takes the place of a learnt one."""
        self._heard.pop(mac, None)
        self.verdicts[mac] = verdict

    def remove(self, mac: Mac) -> None:
        """Take a static MAC out; unknown ones are no error."""
        if mac not in self._heard:
            self.verdicts.pop(mac, None)

    def learn(self, mac: Mac, verdict: V, now: float) -> bool:
        """Remember a remote MAC; False where it is a static one or the table is full."""
        if mac not in self._heard:
            if mac in self.verdicts:
                return False
            if len(self._heard) >= self._max_learnt:
                self.refused += 1
                return False
            self.verdicts[mac] = verdict
        # Re-inserted at the end, so that the dictionary stays in order of age.
        self._heard.pop(mac, None)
        self._heard[mac] = now
        return True

    def expire(self, now: float) -> int:
        """Forget learnt MACs that are silent for longer than `AGE`; return how many."""
        old = []
        for mac, heard in self._heard.items():
            if heard + AGE > now:
                break
            old.append(mac)
        for mac in old:
            del self._heard[mac]
            del self.verdicts[mac]
        return len(old)

    def deadline(self) -> float | None:
        """Say when `expire` has something to do."""
        oldest = next(iter(self._heard.values()), None)
        return None if oldest is None else oldest + AGE

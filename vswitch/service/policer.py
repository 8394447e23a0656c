"""Token buckets, and a bounded set of them by key.

Every slow path has one in front, so that whoever floods it cannot starve forwarding or others.
Time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class TokenBucket:
    """Lets `rate` events a second pass, and `burst` at once."""

    __slots__ = ("_burst", "_last", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)  # A bucket that holds no whole token would never open.
        self._tokens = self._burst
        self._last = 0.0

    def take(self, now: float, count: int = 1, kept: float = 0.0) -> bool:
        """Take `count` tokens; False, and none taken, where there are not so many above the part
        of the bucket (0 to 1) that is `kept` for others.

        More than the bucket holds passes when it is full, or it would never pass; what was not
        there is owed, so that the rate holds over time.
        """
        tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if tokens < min(count + kept * self._burst, self._burst):
            self._tokens = tokens
            return False
        self._tokens = tokens - count
        return True


class Policer:
    """One bucket per key. With too many keys the one unused for longest is forgotten, and starts
    full when it returns: the bound on memory matters more than the last few events."""

    def __init__(self, rate: float, burst: float, max_keys: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, key: Hashable, now: float, count: int = 1, kept: float = 0.0) -> bool:
        """Take `count` tokens of `key`, as from its `TokenBucket`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now, count, kept)

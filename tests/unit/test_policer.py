"""Token buckets on a virtual clock, and the bounded set of them."""

from __future__ import annotations

import pytest

from vswitch.service.policer import Policer, TokenBucket


def passed(bucket: TokenBucket, now: float, tries: int) -> int:
    return sum(bucket.take(now) for _ in range(tries))


def test_a_burst_passes_and_no_more() -> None:
    assert passed(TokenBucket(rate=2, burst=5), 100.0, 20) == 5


@pytest.mark.parametrize(("seconds", "more"), [(0.4, 0), (0.5, 1), (1.0, 2), (1.9, 3)])
def test_tokens_come_at_the_rate(seconds: float, more: int) -> None:
    bucket = TokenBucket(rate=2, burst=5)
    passed(bucket, 0.0, 5)
    assert passed(bucket, seconds, 20) == more


def test_a_long_silence_saves_up_no_more_than_the_burst() -> None:
    bucket = TokenBucket(rate=2, burst=5)
    passed(bucket, 0.0, 5)
    assert passed(bucket, 1e6, 20) == 5


def test_asking_in_vain_does_not_put_the_next_token_off() -> None:
    """A flood must not keep its own bucket empty for ever, nor may asking often gain anything."""
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(0.0)
    asked = [bucket.take(step / 8) for step in range(1, 33)]
    assert sum(asked) == 4
    assert [step for step, let in enumerate(asked, 1) if let] == [8, 16, 24, 32]


def test_over_a_long_time_the_rate_holds() -> None:
    bucket = TokenBucket(rate=4, burst=10)
    assert sum(bucket.take(step / 64) for step in range(64 * 60)) == pytest.approx(10 + 4 * 60, 1)


def test_more_than_the_bucket_holds_passes_when_it_is_full_and_is_owed() -> None:
    bucket = TokenBucket(rate=10, burst=10)
    assert bucket.take(0.0, 64)
    assert not any(bucket.take(at, 64) for at in (0.1, 1.0, 5.4, 6.3))
    assert bucket.take(6.5, 64)
    assert [bucket.take(at) for at in (11.8, 12.1)] == [False, True]


def test_what_is_kept_is_there_for_others() -> None:
    bucket = TokenBucket(rate=10, burst=10)
    assert [bucket.take(0.0, kept=0.5) for _ in range(6)] == [True] * 5 + [False]
    assert passed(bucket, 0.0, 20) == 5
    # It fills up again before anybody else gets any.
    assert [bucket.take(at, kept=0.5) for at in (0.45, 0.55, 0.65)] == [False, False, True]


def test_keys_do_not_share_tokens() -> None:
    policer = Policer(rate=1, burst=3)
    assert [policer.take("flooder", 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert policer.take("other", 0.0)


def test_a_key_keeps_its_bucket() -> None:
    policer = Policer(rate=1, burst=1)
    assert policer.take("a", 0.0)
    assert not policer.take("a", 0.5)
    assert policer.take("a", 1.0)


def test_the_key_unused_for_longest_is_forgotten_and_starts_full() -> None:
    policer = Policer(rate=1, burst=1, max_keys=2)
    assert policer.take("a", 0.0)
    assert policer.take("b", 0.0)
    assert not policer.take("a", 0.1)  # a was used last; b is now the oldest.
    assert policer.take("c", 0.1)
    assert not policer.take("a", 0.2)  # a was kept: it is still empty.
    assert policer.take("b", 0.2)  # b was forgotten.


def test_a_flood_of_keys_is_bounded() -> None:
    policer = Policer(rate=1, burst=1, max_keys=100)
    for key in range(10_000):
        policer.take(key, 0.0)
    assert not policer.take(9_999, 0.0)
    assert policer.take(9_899, 0.0)

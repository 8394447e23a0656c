"""The figures that the demo makes of what the guests' agents have noted."""

from __future__ import annotations

from typing import Any

import pytest

from tools.scenario.traffic import Observed, ProbeResult

MS = 1_000_000
MOVED, QUIET = 100 * MS, 900 * MS


def probes(received: list[tuple[int, int]]) -> Observed:
    """Ten probes of H1 to H2, one a millisecond, and what came of them: (number, when in ms)."""
    sent = [number * MS for number in range(10)]
    came = [(number, when * MS) for number, when in received]
    return Observed(
        {
            "H1": {"probes": {"H2": {"sent": sent, "received": []}}},
            "H2": {"probes": {"H1": {"sent": [], "received": came}}},
        }
    )


@pytest.mark.parametrize(
    ("received", "lost", "blackout_ms"),
    [
        pytest.param([(n, n + 1) for n in range(10)], 0, 0.0, id="steady"),
        pytest.param([(n, n + (3 if n > 4 else 1)) for n in range(10)], 0, 2.0, id="delayed"),
        pytest.param([(n, n + 1) for n in range(10) if n != 5], 1, 2.0, id="one_lost"),
        pytest.param([(n, n + 1) for n in range(10) if n > 2], 3, 4.0, id="the_first_lost"),
        pytest.param([(n, n + 1) for n in range(10) if n < 7], 3, 13.0, id="the_last_lost"),
        pytest.param([], 10, 20.0, id="all_lost"),
    ],
)
def test_what_became_of_probes(
    received: list[tuple[int, int]], lost: int, blackout_ms: float
) -> None:
    assert probes(received).probes("H1", "H2", 0, 20 * MS) == ProbeResult(10, lost, blackout_ms)


def test_a_second_copy_of_a_probe_is_no_later_arrival() -> None:
    received = [(n, n + 1) for n in range(10)] + [(3, 19)]
    assert probes(received).probes("H1", "H2", 0, 20 * MS) == ProbeResult(10, 0, 0.0)


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        pytest.param({"echoed": [50 * MS, 950 * MS]}, None, id="lived"),
        pytest.param({"echoed": [50 * MS]}, "silent since the move", id="silent_since_the_move"),
        pytest.param({"echoed": []}, "silent since the move", id="never_spoke"),
        pytest.param({"echoed": [50 * MS, 200 * MS]}, "silent at the end", id="silent_at_the_end"),
        pytest.param(
            {"echoed": [950 * MS], "failure": "closed by the peer"},
            "closed by the peer",
            id="failed",
        ),
    ],
)
def test_why_a_stream_died(stream: dict[str, Any], fault: str | None) -> None:
    observed = Observed({"H1": {"streams": {"H2": {"failure": None, **stream}}}})
    assert observed.stream_fault("H1", "H2", MOVED, QUIET) == fault

"""Medians, ratios, chart and the alternation of the benchmark, with systems that are not there."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tools.fabric.namespace import Namespace
from tools.measure import chart, openvswitch, report, rounds
from tools.measure.load import Measured
from tools.measure.report import Row
from tools.measure.rig import Shape, System
from tools.measure.rounds import Outcome, Plan

KEYS = [measure.key for measure in report.MEASURES]


def figures(value: float, **other: float) -> dict[str, float]:
    return {**dict.fromkeys(KEYS, value), **other}


def outcome(**of_system: list[dict[str, float]]) -> Outcome:
    by_key = {(system, Shape.ONE_LEAF): each for system, each in of_system.items()}
    return Outcome(by_key, [], [0.1, 0.3], 3)


@pytest.fixture
def table() -> list[Row]:
    return report.rows(
        outcome(
            tapestry=[figures(10), figures(99), figures(8)],
            kernel=[figures(40, peak_memory_mb=0)] * 3,
            ovs=[{**figures(2), "tcp1_gbps": 4}, {"tcp4_gbps": 6}],
        )
    )


def test_a_row_has_the_median_of_the_rounds(table: list[Row]) -> None:
    by_system = {row["system"]: row for row in table}
    assert by_system["tapestry"]["tcp1_gbps"] == 10, "one round among other work does not count"
    assert by_system["ovs"]["tcp1_gbps"] == 4, "a round without the figure is left out"
    assert by_system["ovs"]["tcp4_gbps"] == 4
    assert by_system["tapestry"]["topology"] == "one-leaf"


def test_a_figure_of_no_round_is_none() -> None:
    (row,) = report.rows(outcome(ovs=[{"tcp1_gbps": 1.0}]))
    assert row["udp18_kpps"] is None


def test_ratios_are_ours_by_theirs(table: list[Row]) -> None:
    of_leaf = report.ratios(table)["one-leaf"]
    assert of_leaf["ovs"]["tcp1_gbps"] == 2.5
    assert of_leaf["kernel"]["tcp1_gbps"] == 0.25
    assert of_leaf["kernel"]["peak_memory_mb"] is None, "the kernel has no process to look at"


def test_without_us_or_without_peers_there_are_no_ratios() -> None:
    assert report.ratios(report.rows(outcome(ovs=[figures(1)]))) == {}
    assert report.ratios(report.rows(outcome(tapestry=[figures(1)]))) == {}


def test_the_document_has_every_column_that_is_promised(table: list[Row]) -> None:
    made = report.document(table, {"ovs": "not installed"}, outcome())
    promised = {
        *("system", "topology", "tcp1_gbps", "tcp4_gbps", "bidir_gbps", "udp18_kpps"),
        *("udp1400_kpps", "rtt_p50_us", "rtt_p99_us", "rtt_loaded_p99_us"),
        *("cpu_s_per_gb", "peak_memory_mb"),
    }
    assert all(promised <= row.keys() for row in made["rows"])
    assert made["skipped"] == {"ovs": "not installed"}


def test_the_chart_is_xml_with_a_bar_for_each_figure(table: list[Row]) -> None:
    table[0]["udp18_kpps"] = None
    drawing = ElementTree.fromstring(chart.draw(table))
    bars = [
        element
        for element in drawing.iter("{http://www.w3.org/2000/svg}rect")
        if element.get("height") == f"{chart.BAR_HEIGHT - 2}"
    ]
    assert len(bars) == len(chart.SHOWN) * len(table)
    ours, kernel, ovs = (float(bar.get("width", "")) for bar in bars[:3])
    assert kernel == chart.BAR_WIDTH
    assert (ours, ovs) == pytest.approx((kernel / 4, kernel / 10), abs=0.1)


def test_a_chart_of_nothing_is_still_one() -> None:
    ElementTree.fromstring(chart.draw([]))


def test_the_leaf_of_open_vswitch_answers_arp_and_routes() -> None:
    answer, route = openvswitch.leaf_flows("H4", "vxA", "vxB")
    assert "arp_tpa=1.1.1.4" in answer
    assert "load:0x0000deadbeef->NXM_NX_ARP_SHA[]" in answer
    assert "load:0x01010104->NXM_OF_ARP_SPA[]" in answer
    assert route.startswith("in_port=vxA,ip,dl_dst=00:00:de:ad:be:ef,nw_dst=1.1.1.4,")
    assert route.endswith("mod_dl_dst:00:00:01:01:01:04,dec_ttl,output:vxB")


# The alternation.


class Fake(System):
    """Comes up or not, and notes what is done to it."""

    name = "fake"
    journal: list[str] = []
    comes_up = True

    def node(self, name: str) -> Namespace:
        raise NotImplementedError

    def up(self) -> None:
        self.journal.append(f"{self.name} up")
        if not self.comes_up:
            raise RuntimeError("no such module")

    def check(self) -> None:
        pass

    def down(self) -> None:
        self.journal.append(f"{self.name} down")


class Broken(Fake):
    name = "broken"
    comes_up = False


class Lingering(Fake):
    name = "lingering"

    def down(self) -> None:
        super().down()
        raise OSError


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(Fake, "journal", [])
    monkeypatch.setattr(rounds, "measure", lambda system, seconds: Measured(figures(1), []))
    monkeypatch.setattr(rounds, "others", lambda: 0.0)
    return Fake.journal


def test_systems_take_turns_and_one_that_fails_stops_nobody(journal: list[str]) -> None:
    said: list[str] = []
    plan = Plan(rounds=2, seconds=1.0, budget=60.0)
    got = rounds.run(plan, [Broken, Fake], [Shape.ONE_LEAF], said.append)
    assert journal == ["broken up", "broken down", "fake up", "fake down"] * 2
    assert list(got.rounds) == [("fake", Shape.ONE_LEAF)]
    assert len(got.rounds["fake", Shape.ONE_LEAF]) == got.complete == 2
    assert got.failures == ["broken, one-leaf: did not come up: no such module"] * 2


def test_a_system_that_does_not_go_down_keeps_its_figures(journal: list[str]) -> None:
    got = rounds.once(Lingering(Shape.ONE_LEAF), 1.0)
    assert got == Measured(figures(1), ["did not go down: OSError"])


def test_no_round_is_begun_that_would_not_end_in_time(
    journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(rounds.time, "monotonic", lambda: float(next(clock)))
    said: list[str] = []
    plan = Plan(rounds=3, seconds=1.0, budget=60.0)
    got = rounds.run(plan, [Fake], [Shape.NO_LEAF], said.append)
    assert got.complete == 1
    assert journal == ["fake up", "fake down"]
    assert said[-1].startswith("no time for round 2")

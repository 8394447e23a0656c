"""The daemons as services: start, signals, reload, logs, API, and the packet-socket port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w

from tools.fabric.daemons import leaf_config, vswitch_config
from tools.fabric.lab import Lab
from vswitch.phy import tap
from vswitch.service.client import Client, ClientError

from .commands import first_good, ping, wait_until
from .conftest import MakeLab, seed

Start = Callable[..., subprocess.Popen[bytes]]


def test_the_daemons_of_a_lab_run_with_real_time_priority(lab: Lab) -> None:
    # Root of a namespace of our own may not; the kernel is asked as by anybody.
    asked = subprocess.run(["chrt", "--rr", "1", "true"], check=False, capture_output=True)
    if asked.returncode != 0:
        pytest.skip("we may not give real-time priority here")
    for daemon in (lab.leaf, *lab.vswitches.values()):
        process = daemon.process()
        assert process is not None
        assert os.sched_getscheduler(process.pid) == os.SCHED_RR


@pytest.fixture
def start(lab: Lab) -> Iterator[Start]:
    """Start daemons by hand in host A's namespace; they are ended after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(kind: str, config: Path, **more: object) -> subprocess.Popen[bytes]:
        options: dict[str, object] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, **more}
        command = [sys.executable, "-m", kind, "run", str(config)]
        processes.append(lab.node("A").popen(command, **options))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def _config(lab: Lab, directory: Path, kind: str = "vswitch", **changes: object) -> Path:
    """Write a configuration for a daemon on loopback, beside the lab's own."""
    if kind == "leaf":
        table = leaf_config(lab.topology, directory)
    else:
        table = vswitch_config(lab.topology, lab.topology.host[0], directory)
    table[kind]["vtep"] = "127.0.0.9"
    table[kind].update(changes)
    path = directory / f"{kind}.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def _wait_for_api(path: Path) -> None:
    wait_until(path.exists, f"the API socket {path}")


def test_a_busy_port_is_named_with_a_remedy(lab: Lab, tmp_path: Path, start: Start) -> None:
    own = str(lab.topology.host[0].address)
    process = start("vswitch", _config(lab, tmp_path, vtep=own))
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1
    assert f"cannot bind the tunnel to {own} port 4789".encode() in said
    assert b"ss -ulnp" in said


def test_an_address_that_is_not_ours_is_named(lab: Lab, tmp_path: Path, start: Start) -> None:
    process = start("leaf", _config(lab, tmp_path, "leaf", vtep="10.99.0.77"))
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1
    assert b"10.99.0.77" in said and b"add it, or change `vtep`" in said


def test_an_api_socket_that_is_served_is_not_taken(lab: Lab, tmp_path: Path, start: Start) -> None:
    config = _config(lab, tmp_path)
    first = start("vswitch", config)
    _wait_for_api(tmp_path / "A.sock")
    other = _config(lab, tmp_path, vtep="127.0.0.10")
    process = start("vswitch", other)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1 and b"served by another process" in said
    assert first.poll() is None


@pytest.mark.parametrize("kind", ["vswitch", "leaf"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second(
    lab: Lab, tmp_path: Path, start: Start, kind: str, number: int
) -> None:
    path = tmp_path / ("A.sock" if kind == "vswitch" else "leaf.sock")

    def seconds_to_its_end() -> float:
        process = start(kind, _config(lab, tmp_path, kind))
        _wait_for_api(path)
        client = Client(path)
        client.get("/v1/status")  # A connection that is kept alive must not hold it up.
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
        took = time.monotonic() - began
        assert process.returncode == 0, said
        assert not path.exists()
        client.close()
        return took

    assert first_good(seconds_to_its_end, lambda took: took < 1.0) < 1.0


def test_the_manager_is_told_what_happens(lab: Lab, tmp_path: Path, start: Start) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        config = _config(lab, tmp_path)
        process = start("vswitch", config, env={**os.environ, "NOTIFY_SOCKET": str(address)})
        assert manager.recv(200).startswith(b"READY=1\nSTATUS=vtep 127.0.0.9")
        process.send_signal(signal.SIGHUP)
        assert manager.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(200).startswith(b"READY=1")
        process.send_signal(signal.SIGTERM)
        assert manager.recv(200) == b"STOPPING=1"
    assert process.wait(timeout=10) == 0


def test_a_full_disk_for_logs_is_counted(lab: Lab, tmp_path: Path, start: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("vswitch", _config(lab, tmp_path), stderr=full)
    path = tmp_path / "A.sock"
    _wait_for_api(path)
    client = Client(path)
    try:
        assert client.get("/v1/status")["log_lines_lost"] > 0
        assert "vswitch_log_lines_lost_total" in client.text("/metrics")
    finally:
        client.close()
    assert process.poll() is None


def test_a_log_that_nobody_reads_holds_nobody_up(lab: Lab, tmp_path: Path, start: Start) -> None:
    """A pipe that is full, as of a hung journal: forwarding is on the same loop as the log."""
    reader, writer = os.pipe()
    with contextlib.suppress(BlockingIOError):
        os.set_blocking(writer, False)
        while True:
            os.write(writer, b"x" * 65536)
    os.set_blocking(writer, True)
    process = start("vswitch", _config(lab, tmp_path), stderr=writer)
    path = tmp_path / "A.sock"
    _wait_for_api(path)
    client = Client(path)
    assert client.get("/v1/status")["log_lines_lost"] > 0
    client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    os.close(reader)
    os.close(writer)


def _logged(process: subprocess.Popen[bytes], event: str) -> list[dict[str, object]]:
    """Read the log up to the first line of this event; return the lines."""
    assert process.stderr is not None
    lines: list[dict[str, object]] = []
    for line in iter(process.stderr.readline, b""):
        lines.append(json.loads(line))
        if lines[-1]["event"] == event:
            return lines
    pytest.fail(f"the log ended without {event!r}: {lines}")


def test_a_hangup_applies_the_difference_and_leaves_other_ports_alone(
    lab: Lab, tmp_path: Path, start: Start
) -> None:
    config = _config(lab, tmp_path)

    def guest(name: str, number: int) -> str:
        return (
            f'[[guest]]\nname = "{name}"\nsegment = "red"\ndevice = "rl{number}"\n'
            f'macs = ["02:00:00:00:00:0{number}"]\n'
        )

    plain = config.read_text()
    config.write_text(plain + guest("g1", 1) + guest("g2", 2))
    process = start("vswitch", config)
    _logged(process, "ready")
    client = Client(tmp_path / "A.sock")
    try:
        before = {row["guest"]: row for row in client.get("/v1/guests")}
        config.write_text(
            plain.replace('miss = "rewrite"', 'miss = "drop"') + guest("g1", 1) + guest("g3", 3)
        )
        process.send_signal(signal.SIGHUP)
        said = [line for line in _logged(process, "reloaded") if line["event"] == "reload"]
        assert [(line["change"], line["name"]) for line in said] == [
            ("detach", "g2"),
            ("set miss", "red"),
            ("set miss", "blue"),
            ("attach", "g3"),
        ]
        # A guest whose device has vanished is attached by the next reload.
        lab.node("A").remove_link("rl3")
        wait_until(lambda: len(client.get("/v1/guests")) == 1, "g3 to be gone")
        process.send_signal(signal.SIGHUP)
        said = [line for line in _logged(process, "reloaded") if line["event"] == "reload"]
        assert [(line["change"], line["name"]) for line in said] == [("attach", "g3")]
        after = {row["guest"]: row for row in client.get("/v1/guests")}
        assert set(after) == {"g1", "g3"}
        for key in ("port", "sequence", "state"):
            assert after["g1"][key] == before["g1"][key]
        assert after["g1"]["for_s"] > before["g1"]["for_s"]

        config.write_text("nonsense = true\n")
        process.send_signal(signal.SIGHUP)
        refused = _logged(process, "not reloaded; nothing was changed")[-1]
        assert "nonsense: unknown key" in str(refused["why"])
        assert {row["guest"] for row in client.get("/v1/guests")} == {"g1", "g3"}
    finally:
        client.close()


def test_a_leaf_reloads_and_keeps_the_bindings_that_have_a_place(make_lab: MakeLab) -> None:
    lab = make_lab(seed("reload"))
    client = lab.leaf.client()
    try:
        assert ping(lab, "H1", "1.1.1.4").received == 3
        table = leaf_config(lab.topology, lab.directory)
        table["segment"] = [table["segment"][0]]
        (lab.directory / "leaf.toml").write_text(tomli_w.dumps(table))
        said = client.post("/v1/reload")
        assert said["changes"] == [{"verb": "remove", "kind": "segment", "name": "blue"}]
        kept = {row["address"] for row in client.get("/v1/bindings")}
        red = [guest for guest in lab.topology.guest if guest.segment == "red"]
        kept = {address for address in kept if not address.startswith("fe80:")}
        assert kept == {str(a) for guest in red for a in (guest.address, guest.address6)}
        assert ping(lab, "H1", "1.1.1.4").received == 3
        assert ping(lab, "H1", "2.2.2.5", count=1).received == 0
    finally:
        client.close()


def test_the_api_is_for_the_group_and_says_what_was_wrong(lab: Lab) -> None:
    daemon = lab.vswitches["A"]
    assert daemon.socket.stat().st_mode & 0o777 == 0o660
    client = daemon.client()
    try:
        for call, why in (
            (lambda: client.post("/v1/guests/H9/activate"), "no guest 'H9'"),
            (lambda: client.post("/v1/guests", {"name": "x"}), "segment: missing"),
            (lambda: client.post("/v1/trace", {"dst": "ff:ff:ff:ff:ff:ff"}), "name a guest"),
            (lambda: client.get("/v1/nothing"), "Not Found"),
        ):
            with pytest.raises(ClientError, match=why):
                call()
        paths = client.get("/openapi.json")["paths"]
        assert {"/v1/guests", "/v1/trace", "/v1/counters", "/metrics"} <= set(paths)
        metrics = client.text("/metrics")
        assert 'vswitch_frames_total{reason="miss_rewritten"}' in metrics
    finally:
        client.close()


def test_a_device_that_cannot_be_opened_is_named_with_a_remedy(lab: Lab) -> None:
    client = lab.vswitches["A"].client()
    body = {"segment": "red", "macs": ["02:00:00:00:00:01"]}
    tap.create_persistent("mq0", f"{lab.name}-H1")
    try:
        for more, why in (
            ({"name": "x", "device": "t0", "netns": "nowhere"}, "no such namespace"),
            ({"name": "x", "device": "none0", "kind": "packet"}, "no such link"),
            (
                {"name": "x", "device": "mq0", "netns": f"{lab.name}-H1"},
                "`multi-queue` must agree",
            ),
        ):
            with pytest.raises(ClientError, match=why):
                client.post("/v1/guests", {**body, **more})
    finally:
        client.close()
    assert "x" not in lab.places()


def test_a_guest_behind_a_packet_socket_talks_and_activates_by_its_first_frame(lab: Lab) -> None:
    """As with QEMU, which holds the TAP's descriptor: here the test holds it, and is the guest."""
    host = lab.node("A")
    fd = tap.open_queue("qemu0", host.name, multi_queue=False)
    client = lab.vswitches["A"].client()
    mac, request = bytes.fromhex("000001010107"), bytes.fromhex("0001080006040001")
    try:
        host.link_up("qemu0")
        body = {
            "name": "vm",
            "segment": "red",
            "device": "qemu0",
            "netns": host.name,
            "kind": "packet",
            "macs": [mac.hex(":")],
            "addresses": ["1.1.1.7"],
            "state": "staged",
        }
        assert client.post("/v1/guests", body)["state"] == "staged"
        question = b"\xff" * 6 + mac + b"\x08\x06" + request + mac
        question += bytes([1, 1, 1, 7]) + bytes(6) + bytes([1, 1, 1, 254])
        os.write(fd, bytes(10) + question.ljust(60, b"\0"))

        answers: list[bytes] = []

        def answered() -> bool:
            try:
                while True:
                    answers.append(os.read(fd, 2048)[10:])
            except BlockingIOError:
                pass
            return any(a[:6] == mac and a[12:14] == b"\x08\x06" for a in answers)

        wait_until(answered, "the gateway's answer")
        rows = {row["guest"]: row for row in client.get("/v1/guests")}
        assert rows["vm"]["state"] == "active"
    finally:
        client.delete("/v1/guests/vm")
        client.close()
        os.close(fd)

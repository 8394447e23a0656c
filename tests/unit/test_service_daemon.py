"""The turns of the shell: who is called when descriptors are ready, how often, and until when.

The descriptors are real pipes on a real event loop. The clock is the test's: it moves while a
callback runs, by a quarter of a second, so a turn is as long as the test says on any machine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import uvloop
from fastapi import FastAPI

from vswitch.service import daemon, http, pace, turns
from vswitch.service.daemon import ServiceError, Shell
from vswitch.service.settings import LogSettings, Settings

PATIENCE = 10.0
"""Seconds for what takes none."""
MANY = 1000
"""Calls after which a pipe is not watched any more: a turn without end is to fail, not to hang."""


class Clock:
    """A clock that moves when it is told to, and hardly by being read; a turn reads it twice."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reads = 0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        # By so little that a turn does not notice, but enough to end one that nobody is called in.
        self.now += 0.0001
        self.reads += 1
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


class Errors:
    """A log of which only the errors are kept."""

    def __init__(self) -> None:
        self.logged: list[BaseException] = []

    def error(self, event: str, exc_info: BaseException) -> None:
        self.logged.append(exc_info)

    def info(self, event: str, **fields: object) -> None:
        pass


class Idle:
    """An engine that has a deadline where a test gives it one."""

    def __init__(self) -> None:
        self.due: float | None = None
        self.ticks: list[float] = []

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.due = None

    def measure(self) -> None:
        pass

    def deadline(self) -> float | None:
        return self.due


class Pipe:
    """A pipe that the shell watches, and the calls that it got for it.

    A call takes one byte, as an engine takes what waits, and then does what the test has it do.
    """

    def __init__(self, world: World, waiting: int, name: str = "") -> None:
        self.world = world
        self.name = name
        self.fd, self.other_end = os.pipe()
        os.set_blocking(self.fd, False)
        self.calls: list[bool] = []
        self.takes = True
        self.most = MANY
        self.then: Callable[[], None] = lambda: None
        self.write(waiting)
        world.shell.watch(self.fd, self.called)

    def write(self, count: int) -> None:
        os.write(self.other_end, bytes(count))

    def called(self, drain: bool) -> None:
        self.calls.append(drain)
        self.world.order.append(self.name)
        self.world.clock.now += 0.25
        if self.takes:
            os.read(self.fd, 1)
        self.then()
        if len(self.calls) == self.most:
            self.world.shell.unwatch(self.fd)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.other_end)


class World:
    """A shell with its pipes, on the running loop."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.engine = Idle()
        self.log = Errors()
        self.shell = Shell(self.engine, self.log)
        self.pipes: list[Pipe] = []
        self.order: list[str] = []
        """The names of all that were called."""

    def pipe(self, waiting: int, name: str = "") -> Pipe:
        self.pipes.append(Pipe(self, waiting, name))
        return self.pipes[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until something is so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if condition():
                    return
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """Let the loop run for as long as anybody is called."""
        calls = -1
        while calls != len(self.order):
            calls = len(self.order)
            for _ in range(5):
                await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the signals back; uvloop leaves them with a loop that is closed."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


Scenario = Callable[[World], Awaitable[None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scenario], None]]:
    """Run a scenario on a loop as the daemons have it, with turns that last for 1.1 seconds."""
    clock = Clock()
    monkeypatch.setattr(daemon, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(turns, "HOLD", 1.1)
    monkeypatch.setattr(turns, "_UPTIME", "/nonexistent")
    worlds: list[World] = []

    async def on_loop(scenario: Scenario) -> None:
        worlds.append(World(clock))
        await scenario(worlds[0])

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(on_loop(scenario))

    yield run
    gc.unfreeze()  # What `serve` has frozen is not this process's.
    for world in worlds:
        for pipe in world.pipes:
            pipe.close()


Play = Callable[[Scenario], None]


def test_the_first_call_of_a_turn_takes_one_and_the_others_drain(play: Play) -> None:
    async def scenario(world: World) -> None:
        pipe = world.pipe(waiting=4)
        await world.settle()
        assert pipe.calls == [False, True, True, True]
        # What comes later is a turn of its own.
        pipe.write(2)
        await world.settle()
        assert pipe.calls[4:] == [False, True]

    play(scenario)


PACE = 0.1
"""Seconds, on the test's clock, which a call moves by a quarter of a second."""


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have real-time priority."""
    monkeypatch.setattr(pace, "PACE", PACE)
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: os.SCHED_RR)


def test_under_real_time_priority_rounds_keep_their_distance(play: Play, paced: None) -> None:
    async def scenario(world: World) -> None:
        world.shell._turns.find_pace()
        pipe = world.pipe(waiting=3)
        await world.settle()
        assert pipe.calls == [False, True, True]
        assert world.clock.sleeps == pytest.approx([PACE, PACE], abs=0.01)

    play(scenario)


def test_what_comes_right_after_a_turn_waits_for_company(play: Play, paced: None) -> None:
    async def scenario(world: World) -> None:
        world.shell._turns.find_pace()
        pipe = world.pipe(waiting=1)
        await world.settle()
        assert (pipe.calls, world.clock.sleeps) == ([False], [])
        world.clock.now += PACE / 2
        pipe.write(1)
        await world.settle()
        assert pipe.calls == [False, True]
        assert world.clock.sleeps == [pytest.approx(PACE / 2, abs=0.01)]

    play(scenario)


def test_what_comes_after_a_silence_is_served_at_once(play: Play, paced: None) -> None:
    async def scenario(world: World) -> None:
        world.shell._turns.find_pace()
        pipe = world.pipe(waiting=1)
        await world.settle()
        world.clock.now += PACE
        pipe.write(1)
        await world.settle()
        assert (pipe.calls, world.clock.sleeps) == ([False, False], [])

    play(scenario)


@pytest.mark.parametrize(
    ("policy", "paced"),
    [
        (os.SCHED_OTHER, False),
        (os.SCHED_BATCH, False),
        (os.SCHED_RR, True),
        (os.SCHED_FIFO, True),
        (os.SCHED_RR | os.SCHED_RESET_ON_FORK, True),
    ],
)
def test_only_real_time_priority_has_a_pace(
    play: Play, monkeypatch: pytest.MonkeyPatch, policy: int, paced: bool
) -> None:
    policies = [os.SCHED_RR, policy]
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: policies.pop(0))

    async def scenario(world: World) -> None:
        world.shell._turns.find_pace()
        world.shell._turns.find_pace()  # It has been changed meanwhile.
        world.pipe(waiting=2)
        await world.settle()
        assert bool(world.clock.sleeps) == paced

    play(scenario)


def test_what_is_not_ready_is_not_called(play: Play) -> None:
    async def scenario(world: World) -> None:
        quiet, busy = world.pipe(waiting=0), world.pipe(waiting=1)
        await world.settle()
        assert (quiet.calls, busy.calls) == ([], [False])
        quiet.write(1)
        await world.settle()
        assert (quiet.calls, busy.calls) == ([False], [False])

    play(scenario)


def test_descriptors_take_turns_and_one_that_is_done_is_called_no_more(play: Play) -> None:
    async def scenario(world: World) -> None:
        first, second = world.pipe(3, "first"), world.pipe(1, "second")
        await world.settle()
        assert sorted(world.order[:2]) == ["first", "second"]
        assert world.order[2:] == ["first"] * 2
        assert (first.calls, second.calls) == ([False, True, True], [False])

    play(scenario)


def test_what_becomes_ready_in_a_turn_is_served_in_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        first, second = world.pipe(waiting=1), world.pipe(waiting=0)
        seen_by_the_loop: list[int] = []
        first.then = lambda: second.write(1)
        asyncio.get_running_loop().call_soon(lambda: seen_by_the_loop.append(len(world.order)))
        await world.until(lambda: bool(first.calls))
        assert len(second.calls) == 1
        assert len(seen_by_the_loop) == 1

    play(scenario)


def test_a_turn_ends_although_a_descriptor_stays_ready(play: Play) -> None:
    """Its time is not over after four calls of a quarter of a second, and is after five."""

    async def scenario(world: World) -> None:
        flooded = world.pipe(waiting=1)
        flooded.takes = False
        called_at: list[int] = []

        async def another() -> None:
            for _ in range(20):
                called_at.append(len(flooded.calls))
                await asyncio.sleep(0)

        await asyncio.wait_for(another(), PATIENCE)
        world.shell.unwatch(flooded.fd)
        turns, rest = divmod(len(flooded.calls), 5)
        assert turns >= 3, "it was not served again"
        assert rest == 0
        assert flooded.calls == [False, True, True, True, True] * turns
        # Between two steps of the task there was one turn at the most.
        assert {after - before for before, after in pairwise(called_at)} <= {0, 5}

    play(scenario)


def test_a_flooded_descriptor_does_not_keep_others_from_their_turn(play: Play) -> None:
    async def scenario(world: World) -> None:
        flooded = world.pipe(waiting=1)
        flooded.takes = False
        await world.until(lambda: len(flooded.calls) >= 5)
        late = world.pipe(waiting=3)
        before = len(flooded.calls)
        await world.until(lambda: len(late.calls) == 3)
        world.shell.unwatch(flooded.fd)
        # Two calls a round, so a turn is three rounds and not five.
        assert late.calls == [False, True, True]
        assert len(flooded.calls) - before <= 3

    play(scenario)


def test_one_that_is_taken_away_in_a_turn_is_not_called_in_it(play: Play) -> None:
    """As with a port that vanishes while another one is served; whichever comes first."""

    async def scenario(world: World) -> None:
        one, other = world.pipe(waiting=1), world.pipe(waiting=1)
        one.then = lambda: world.shell.unwatch(other.fd)
        other.then = lambda: world.shell.unwatch(one.fd)
        await world.settle()
        assert len(one.calls) + len(other.calls) == 1
        assert world.log.logged == []

    play(scenario)


def test_one_that_is_taken_away_and_closed_in_a_turn_is_not_called_in_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        pipes = [world.pipe(waiting=2) for _ in range(3)]
        closed: list[Pipe] = []

        def close_others(survivor: Pipe) -> None:
            for pipe in pipes:
                if pipe is not survivor and pipe not in closed:
                    closed.append(pipe)
                    world.shell.unwatch(pipe.fd)
                    world.pipes.remove(pipe)
                    pipe.close()

        for pipe in pipes:
            pipe.then = lambda survivor=pipe: close_others(survivor)  # type: ignore[misc]
        await world.settle()
        assert [pipe.calls for pipe in pipes if pipe not in closed] == [[False, True]]
        assert [pipe.calls for pipe in closed] == [[], []]
        assert world.log.logged == []

    play(scenario)


def test_one_that_takes_itself_away_is_called_no_more(play: Play) -> None:
    async def scenario(world: World) -> None:
        pipe = world.pipe(waiting=5)
        pipe.then = lambda: world.shell.unwatch(pipe.fd)
        await world.settle()
        assert pipe.calls == [False]
        # What still waits in it wakes nobody.
        reads = world.clock.reads
        await world.settle()
        assert world.clock.reads == reads
        # And may come back, as the port of a guest that is attached anew.
        pipe.then = lambda: None
        world.shell.watch(pipe.fd, pipe.called)
        await world.settle()
        assert len(pipe.calls) == 5

    play(scenario)


def test_one_that_is_added_in_a_turn_is_served_in_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = world.pipe(waiting=1)
        added: list[Pipe] = []
        first.then = lambda: added.append(world.pipe(waiting=1))
        await world.until(lambda: bool(first.calls))
        assert [len(pipe.calls) for pipe in added] == [1]

    play(scenario)


def test_an_error_in_one_callback_does_not_stop_the_others_nor_itself(play: Play) -> None:
    async def scenario(world: World) -> None:
        pipes = [world.pipe(waiting=2) for _ in range(3)]
        error = ValueError("a bug of ours")

        def fail() -> None:
            raise error

        pipes[0].then = pipes[1].then = fail
        await world.settle()
        assert [pipe.calls for pipe in pipes] == [[False, True]] * 3
        assert world.log.logged == [error] * 4

    play(scenario)


def test_errors_without_end_are_logged_at_a_bounded_rate(play: Play) -> None:
    """Ten at once and one a second; here a quarter of a second passes with each."""

    async def scenario(world: World) -> None:
        pipe = world.pipe(waiting=100)

        def fail() -> None:
            raise ValueError

        pipe.then = fail
        await world.until(lambda: len(pipe.calls) == 100)
        assert 10 <= len(world.log.logged) <= 10 + 100 / 4

    play(scenario)


def test_a_deadline_that_a_callback_has_set_is_kept(play: Play) -> None:
    """A turn ends with a look at what is due next."""

    async def scenario(world: World) -> None:
        pipe = world.pipe(waiting=1)

        def set_deadline() -> None:
            world.engine.due = world.clock.now

        pipe.then = set_deadline
        await world.until(lambda: bool(world.engine.ticks))
        assert len(world.engine.ticks) == 1

    play(scenario)


def test_the_turns_of_the_daemons_end_by_the_clock_that_they_have() -> None:
    """Nothing is replaced here: a task gets to run while a port is flooded."""

    async def flooded() -> int:
        world = World(Clock())
        pipe = world.pipe(waiting=1)
        pipe.takes, pipe.most = False, 500_000
        await world.until(lambda: pipe.calls.count(False) >= 3)
        if len(pipe.calls) < pipe.most:
            world.shell.unwatch(pipe.fd)
        pipe.close()
        return pipe.most - len(pipe.calls)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(flooded()) > 0


# The beginning.


class ApiTable(Settings):
    """`[api]`"""

    socket: Path


class Configured(Settings):
    """The configuration of a daemon that has no more than all have."""

    api: ApiTable
    log: LogSettings = LogSettings()


@pytest.mark.parametrize("opens", [False, True], ids=["no_tunnel", "no_daemon"])
def test_what_was_opened_is_closed_again_where_a_daemon_cannot_start(
    opens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.log, "configure", lambda level: None)
    path, api = tmp_path / "daemon.toml", tmp_path / "api.sock"
    path.write_text(f'[api]\nsocket = "{api}"\n')
    tunnel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def open_tunnel(config: Configured) -> socket.socket:
        assert api.is_socket()
        if opens:
            return tunnel
        raise OSError("no tunnel")

    def make(path: Path, config: Configured, tunnel: socket.socket) -> NoReturn:
        raise OSError("no daemon")

    with pytest.raises(OSError, match="no daemon" if opens else "no tunnel"):
        asyncio.run(daemon.operate(path, Configured, open_tunnel, make, lambda made: FastAPI()))
    assert not api.exists() and (tunnel.fileno() == -1) == opens
    tunnel.close()


# The end.


def test_an_api_that_ends_by_itself_is_an_error_and_ends_the_daemon(play: Play) -> None:
    """With a status that has systemd start it again, and not as if it had been asked to stop."""

    async def scenario(world: World) -> None:
        closed = socket.socket(socket.AF_UNIX)
        closed.close()
        with pytest.raises(ServiceError, match="the log says why"):
            async with asyncio.timeout(PATIENCE):
                await world.shell.serve(FastAPI(), closed, never, "")
        assert len(world.log.logged) == 1

    play(scenario)


def test_a_daemon_that_was_asked_to_stop_ends_in_order(play: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        listener = http.bind(tmp_path / "api.sock")
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await world.shell.serve(FastAPI(), listener, never, "")
        assert world.log.logged == []

    play(scenario)


async def never() -> str:
    raise AssertionError("nobody asked for a reload")

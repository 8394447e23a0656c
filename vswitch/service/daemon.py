"""The shell around an engine: event loop, descriptors, one timer, signals, API.

An engine is told when a descriptor is readable and when a deadline has come; everything that
concerns asyncio is here. There is one timer, set to the engine's next deadline.

Frames are served in turns, between which the loop serves all else (see `turns.py`).

SIGTERM and SIGINT stop the daemon: it answers the API requests that are under way and exits 0
within a second. SIGHUP reloads the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sized
from pathlib import Path
from typing import Protocol, TypeVar, cast

import uvloop
from fastapi import FastAPI
from pydantic import BaseModel

from . import http, log, notify, settings
from .log import Log
from .policer import TokenBucket
from .turns import Turns

MIN_DELAY = 0.001
"""A deadline that has passed already still lets the loop turn once."""
MEASURE_EVERY = 5.0
"""Seconds between two looks at what the underlay can carry; each costs some 20 us a peer."""
DRAIN = 0.4
"""Seconds that requests under way have to be answered when the daemon stops."""


class ServiceError(Exception):
    """A part of the daemon ended without having been asked to; the log says why."""


class Engine(Protocol):
    """What the shell needs of an engine."""

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called next."""

    def measure(self) -> None:
        """Look at what the underlay can carry."""


class Shell:
    """Runs callbacks of an engine on the loop of this thread."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")
        self._failures = TokenBucket(rate=1.0, burst=10.0)
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._turns = Turns(self.failed)
        self._loop.add_reader(self._turns.fileno(), self._turn)
        # From the first moment: a signal during the start must not end the process by default.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hangup.set)

    def watch(self, fd: int, callback: Callable[[bool], None]) -> None:
        """Call `callback` when `fd` is readable, until `unwatch`: with True where it may drain it,
        with False where it is to take the first of what waits."""
        self._turns.watch(fd, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`, which must still be open."""
        self._turns.unwatch(fd)

    def _turn(self) -> None:
        self._turns.turn()
        self.rearm()

    def failed(self, error: Exception) -> None:
        """Log an unexpected error; what causes one may cause thousands, so the rate is limited."""
        if self._failures.take(time.monotonic()):
            self._log.error("unexpected error while handling frames", exc_info=error)

    def rearm(self) -> None:
        """Set the timer to the engine's next deadline, where that has come nearer."""
        deadline = self._engine.deadline()
        if deadline is None or deadline >= self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = deadline
        delay = max(MIN_DELAY, deadline - time.monotonic())
        self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer, self._armed_for = None, float("inf")
        try:
            self._engine.tick(time.monotonic())
        except Exception as error:
            self.failed(error)
        self.rearm()

    async def serve(
        self,
        app: FastAPI,
        api: socket.socket,
        reload: Callable[[], Awaitable[str]],
        status: str,
    ) -> None:
        """Serve until a signal asks to stop. `reload` does its own logging and returns a status.

        Raises ServiceError where something ends by itself, such as the API.
        """
        server = http.ApiServer(app)
        tasks = {
            asyncio.ensure_future(task)
            for task in (
                server.serve(sockets=[api]),
                self._stop.wait(),
                self._reloads(reload),
                self._measures(),
            )
        }
        self.rearm()
        # What is there now stays: the garbage collector need not walk it again and again, which
        # would hold the loop for tens of milliseconds at a time.
        gc.collect()
        gc.freeze()
        notify.ready(status)
        self._log.info("ready", status=status)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        notify.stopping()
        self._log.info("stopping")
        server.should_exit = True
        _, late = await asyncio.wait(tasks, timeout=DRAIN, return_when=asyncio.ALL_COMPLETED)
        server.force_exit = True
        for task in late:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [error for error in ended if isinstance(error, Exception)]
        for error in errors:
            self._log.error("a part of the daemon has failed", exc_info=error)
        if errors or not self._stop.is_set():
            raise ServiceError("a part of the daemon ended by itself; the log says why")

    async def _measures(self) -> None:
        """Look from time to time at what may change: the underlay, and our own priority."""
        while not self._stop.is_set():
            self._turns.find_pace()
            try:
                self._engine.measure()
                self.rearm()
            except Exception as error:
                self.failed(error)
            await asyncio.sleep(MEASURE_EVERY)

    async def _reloads(self, reload: Callable[[], Awaitable[str]]) -> None:
        """Reload at each SIGHUP; several that come during one reload are one more."""
        while not self._stop.is_set():
            await self._hangup.wait()
            self._hangup.clear()
            notify.reloading()
            try:
                status = await reload()
            except Exception as error:
                self._log.error("unexpected error while reloading", exc_info=error)
                status = "not reloaded, see the log"
            notify.ready(status)


class ApiSettings(Protocol):
    """The `[api]` of any daemon."""

    @property
    def socket(self) -> Path: ...


class Configuration(Protocol):
    """What any daemon's configuration has."""

    @property
    def api(self) -> ApiSettings: ...

    @property
    def log(self) -> settings.LogSettings: ...


class Plan(Protocol):
    """What a reload did."""

    @property
    def changes(self) -> Sized: ...


class Daemon(Protocol):
    """What any daemon is, to the one who runs it."""

    shell: Shell
    log: Log

    async def start(self) -> str:
        """Bring up what is configured; return a status line."""

    async def reload(self) -> Plan:
        """Apply what has changed in the file. Raises SettingsError."""

    def close(self) -> None:
        """Release everything."""


class Tunnel(Protocol):
    """What is opened for the daemon, which closes it with itself."""

    def close(self) -> None:
        """Release the sockets."""


C = TypeVar("C", bound=BaseModel)
T = TypeVar("T", bound=Tunnel)
D = TypeVar("D", bound=Daemon)


async def operate(
    path: Path,
    model: type[C],
    open_tunnel: Callable[[C], T],
    make: Callable[[Path, C, T], D],
    make_api: Callable[[D], FastAPI],
) -> None:
    """Run a daemon from its configuration file until it is asked to stop.

    Raises SettingsError, ApiError, ServiceError, and what `open_tunnel` and `make` raise.
    """
    config = settings.load(path, model)
    common = cast(Configuration, config)
    log.configure(common.log.level)
    with contextlib.ExitStack() as opened:
        listener = http.bind(common.api.socket)
        opened.callback(common.api.socket.unlink)
        opened.callback(listener.close)
        tunnel = open_tunnel(config)
        opened.callback(tunnel.close)
        daemon = make(path, config, tunnel)
        opened.pop_all()  # Nothing has failed: from here on the daemon closes them.

    async def reload() -> str:
        try:
            plan = await daemon.reload()
        except settings.SettingsError as error:
            daemon.log.error("not reloaded; nothing was changed", why=str(error))
            return "not reloaded, see the log"
        return f"reloaded, {len(plan.changes)} changes"

    try:
        status = await daemon.start()
        await daemon.shell.serve(make_api(daemon), listener, reload, status)
    finally:
        daemon.close()
        common.api.socket.unlink(missing_ok=True)


def run(main: Awaitable[None]) -> None:
    """Run a daemon's main coroutine on uvloop."""

    async def entry() -> None:
        await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(entry())

"""The shell around an engine: event loop, descriptors, one timer, signals, API.

An engine is told when a descriptor is readable and when a deadline has come; everything that
concerns asyncio is here. There is one timer, set to the engine's next deadline.

SIGTERM and SIGINT stop the daemon: it takes no more frames, answers the API requests that are under
way, and exits 0 within a second. SIGHUP reloads the configuration.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import uvloop
from fastapi import FastAPI

from . import http, notify
from .log import Log

MIN_DELAY = 0.001
"""A deadline that has passed already still lets the loop turn once."""


class Engine(Protocol):
    """What the shell needs of an engine."""

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called next."""


class Shell:
    """Runs callbacks of an engine on the loop of this thread."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` when `fd` is readable, until `unwatch`."""
        self._loop.add_reader(fd, self._guarded, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`."""
        self._loop.remove_reader(fd)

    def _guarded(self, callback: Callable[[], None]) -> None:
        """A bug of ours in the handling of one burst is logged, and the daemon goes on."""
        try:
            callback()
        except Exception:
            self._log.exception("unexpected error while handling frames")
        self.rearm()

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
        self._guarded(lambda: self._engine.tick(time.monotonic()))

    async def serve(
        self,
        app: FastAPI,
        api: socket.socket,
        reload: Callable[[], Awaitable[None]],
        status: str,
    ) -> None:
        """Serve until a signal asks to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        tasks: set[asyncio.Task[None]] = set()

        def on_hangup() -> None:
            task = self._loop.create_task(self._reload(reload))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        self._loop.add_signal_handler(signal.SIGHUP, on_hangup)
        server = http.ApiServer(app)
        serving = self._loop.create_task(server.serve(sockets=[api]))
        self.rearm()
        # What is there now stays: the garbage collector need not walk it again and again, which
        # would hold the loop for tens of milliseconds at a time.
        gc.collect()
        gc.freeze()
        notify.ready(status)
        self._log.info("ready", status=status)
        stopping = self._loop.create_task(self._stop.wait())
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        notify.stopping()
        self._log.info("stopping")
        server.should_exit = True
        await serving

    async def _reload(self, reload: Callable[[], Awaitable[None]]) -> None:
        async with self._reloading:
            notify.reloading()
            try:
                await reload()
            except Exception:
                self._log.exception("unexpected error while reloading; nothing more is changed")
            notify.ready("reloaded")


def run(main: Awaitable[None]) -> None:
    """Run a daemon's main coroutine on uvloop."""

    async def entry() -> None:
        await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(entry())


def remove_socket(path: Path) -> None:
    """Take the API's socket file away at the end."""
    path.unlink(missing_ok=True)

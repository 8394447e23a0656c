"""The vswitch as a process: opens devices, owns the engine, applies reloads.

Opening and closing a device may wait for the kernel, so it is done in a thread; everything that
touches the engine's tables runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import config as configuration
from .attachment import Attachment, AttachmentError, State
from .config import Config, GuestSettings, Plan
from .engine import Engine
from .phy.packet import PacketPort
from .phy.port import Port, PortId
from .phy.tap import TapPort
from .phy.udp import UdpTunnel
from .service import log as logging
from .service import settings
from .service.daemon import Shell
from .wire.vxlan import Vni


class DeviceError(Exception):
    """A guest's device could not be opened; the text says what to do."""


def open_port(
    guest: GuestSettings, state: State, offload: bool, notice: Callable[[str], None]
) -> Port:
    """Open a guest's device. `notice` is told what the kernel cannot do. Raises DeviceError."""
    parked = state is State.STAGED
    try:
        if guest.kind == "packet":
            return PacketPort(guest.device, guest.netns, offload=offload, notice=notice)
        return TapPort(
            guest.device,
            guest.netns,
            multi_queue=guest.multi_queue,
            parked=parked,
            offload=offload,
            notice=notice,
        )
    except (OSError, ValueError) as error:
        where = f" in namespace {guest.netns!r}" if guest.netns else ""
        remedies = {
            1: "the daemon needs CAP_NET_ADMIN (and CAP_SYS_ADMIN for `netns`)",
            2: "no such namespace, or no /dev/net/tun: `modprobe tun`",
            13: "the daemon may not open /dev/net/tun",
            16: "another process holds it; is the guest still attached elsewhere?"
            " (two holders need `multi-queue = true` on both sides)",
            19: "no such link",
            22: "the device exists with other flags; `multi-queue` must agree with how it was made",
        }
        number = error.errno if isinstance(error, OSError) else None
        remedy = remedies.get(number or 0, str(error))
        raise DeviceError(
            f"guest {guest.name!r}: cannot open {guest.kind} {guest.device!r}{where}: {remedy}"
        ) from error


class Daemon:
    """One running vswitch."""

    def __init__(self, path: Path, config: Config, tunnel: UdpTunnel) -> None:
        """Needs a running event loop."""
        self.path = path
        self.config = config
        self.started = time.monotonic()
        self.log = logging.get(daemon="vswitch", name=config.vswitch.name)
        self.tunnel = tunnel
        self.engine = Engine(
            config.vswitch.shared_mac,
            config.vswitch.leaves,
            tunnel,
            clock=time.monotonic,
            log=self.log,
            on_gone=self._on_gone,
            fragments=config.vswitch.too_big == "fragment",
        )
        self.shell = Shell(self.engine, self.log)
        self._verbs = asyncio.Lock()
        """Held by every verb from its first check to its end. Devices are opened and parked in
        threads; without it, another verb on the same guest could slip in between."""
        self._watched: dict[PortId, int] = {}
        self._left: set[str] = set()
        """Guests of the file that a verb has let go: they run elsewhere, and no reload brings them
        back."""
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Bring up what the configuration lists. A guest whose device is missing is logged and
        left out: the others must not wait for it."""
        self._doubt(configuration.doubts(self.config))
        for segment in self.config.segment:
            self._add_segment(segment)
        for lane, fd in enumerate(self.tunnel.filenos()):
            self.shell.watch(fd, partial(self.engine.pump_tunnel, lane))
        for guest in self.config.guest:
            await self._attach_configured(guest)
        return f"vtep {self.config.vswitch.vtep}, {len(self.engine.attachments)} guests"

    def _doubt(self, doubts: list[str]) -> None:
        for doubt in doubts:
            self.log.warning("configuration", doubt=doubt)

    def _add_segment(self, segment: configuration.SegmentSettings) -> None:
        self.engine.switch.add_segment(segment.vni, segment.miss)
        self.engine.set_gateways(segment.vni, segment.gateway)

    async def _attach_configured(self, guest: GuestSettings) -> None:
        try:
            await self._attach(guest, State.ACTIVE)
        except (DeviceError, AttachmentError) as error:
            self.log.error("guest left out", guest=guest.name, why=str(error))

    # -- verbs ---------------------------------------------------------------------------------

    def segment(self, name: str) -> configuration.SegmentSettings:
        """Return a segment by name. Raises AttachmentError."""
        for segment in self.config.segment:
            if segment.name == name:
                return segment
        known = ", ".join(segment.name for segment in self.config.segment)
        raise AttachmentError(f"no segment {name!r}; there are: {known}")

    async def attach(
        self, guest: GuestSettings, state: State, sequence: int | None = None
    ) -> Attachment:
        """Open a guest's device and take it in. Raises DeviceError or AttachmentError."""
        async with self._verbs:
            return await self._attach(guest, state, sequence)

    async def activate(self, guest: str, sequence: int | None = None) -> Attachment:
        """Make a guest active. Raises AttachmentError."""
        async with self._verbs:
            waiting = self.engine.attachments.check_activate(guest, sequence)
            with suppress(OSError):  # The engine tries again, and says what is wrong.
                await asyncio.to_thread(self.engine.ports()[waiting.port].park, False)
            attachment = self.engine.activate(guest, sequence)
            self._watch(attachment.port, self.engine.ports()[attachment.port])
            self.shell.rearm()
            return attachment

    async def detach(self, guest: str, sequence: int | None = None) -> Attachment:
        """Let a guest go and close its device. Raises AttachmentError."""
        async with self._verbs:
            gone = await self._detach(guest, sequence)
            if any(listed.name == guest for listed in self.config.guest):
                self._left.add(guest)
            return gone

    async def _attach(
        self, guest: GuestSettings, state: State, sequence: int | None = None
    ) -> Attachment:
        segment = self.segment(guest.segment)
        attachment = Attachment(
            guest.name,
            PortId(-1),
            Vni(segment.vni),
            frozenset(guest.macs),
            frozenset(guest.addresses),
            segment.spoof_guard,
            state,
            device=f"{guest.netns}/{guest.device}" if guest.netns else guest.device,
        )
        for mac in guest.macs:
            try:
                configuration.check_mac(self.config.vswitch.shared_mac, guest.name, mac)
            except ValueError as error:
                raise AttachmentError(str(error)) from error
        self.engine.attachments.check(attachment, sequence)
        offload = self.config.vswitch.offload != "off"
        notice = partial(self.log.warning, guest=guest.name)
        port = await asyncio.to_thread(open_port, guest, state, offload, notice)
        try:
            self.engine.add(attachment, port, sequence)
        except AttachmentError:
            await asyncio.to_thread(port.close)
            raise
        self._left.discard(guest.name)
        self._watch(attachment.port, port)
        self.shell.rearm()
        return attachment

    async def _detach(self, guest: str, sequence: int | None = None) -> Attachment:
        attachment = self.engine.attachments.get(guest)
        leaving = self.engine.suspend(guest, sequence)
        # Until its queue is out of service the port is still read, so that a guest which has just
        # moved to another queue loses nothing of what it had put into this one. A device that has
        # vanished cannot be parked, and need not be.
        with suppress(OSError):
            await asyncio.to_thread(leaving.park, True)
        if self.engine.attachments.of_port(attachment.port) is attachment:
            self.engine.detach(guest, sequence)
            self._unwatch(attachment.port)
            await asyncio.to_thread(leaving.close)
        return attachment

    def _watch(self, port_id: PortId, port: Port) -> None:
        fd = port.fileno()
        if fd >= 0 and port_id not in self._watched:
            self._watched[port_id] = fd
            self.shell.watch(fd, partial(self.engine.pump_port, port_id))

    def _unwatch(self, port_id: PortId) -> None:
        fd = self._watched.pop(port_id, None)
        if fd is not None:
            self.shell.unwatch(fd)

    def _on_gone(self, port_id: PortId, port: Port) -> None:
        self._unwatch(port_id)
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(port.close))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # -- reload --------------------------------------------------------------------------------

    async def reload(self) -> Plan:
        """Read the file again and apply the difference. Raises SettingsError; then nothing was
        changed. What needs a restart is reported and left as it was."""
        async with self._verbs:
            return await self._reload()

    async def _reload(self) -> Plan:
        new = settings.load(self.path, Config)
        attached = {attachment.guest for attachment in self.engine.attachments.all()}
        absent = {guest.name for guest in self.config.guest} - attached
        plan = configuration.plan(self.config, new, absent, self._left)
        self._left &= {guest.name for guest in new.guest}
        old_segments = {segment.name: segment for segment in self.config.segment}
        known = configuration.doubts(self.config)
        self._doubt([doubt for doubt in configuration.doubts(new) if doubt not in known])
        self.config = new.model_copy(
            update={
                "vswitch": self.config.vswitch.model_copy(update={"leaves": new.vswitch.leaves}),
                "api": self.config.api,
            }
        )
        guests = {guest.name: guest for guest in new.guest}
        for change in plan.changes:
            self.log.info("reload", change=change.verb, name=change.name, detail=change.detail)
            try:
                await self._apply(change, guests, old_segments)
            except (DeviceError, AttachmentError) as error:
                self.log.error("reload: left out", name=change.name, why=str(error))
        for key in plan.needs_restart:
            self.log.warning("reload: needs a restart", key=key)
        self.log.info("reloaded", changes=len(plan.changes))
        return plan

    async def _apply(
        self,
        change: configuration.Change,
        guests: dict[str, GuestSettings],
        old_segments: dict[str, configuration.SegmentSettings],
    ) -> None:
        switch = self.engine.switch
        match change.verb:
            case "detach":
                await self._detach(change.name)
            case "attach":
                await self._attach(guests[change.name], State.ACTIVE)
            case "add segment":
                self._add_segment(self.segment(change.name))
            case "set miss":
                segment = self.segment(change.name)
                self.engine.set_miss(segment.vni, segment.miss)
            case "remove segment":
                vni = old_segments[change.name].vni
                for attachment in self.engine.attachments.all():
                    if attachment.segment == vni:  # Attached through the API.
                        self.log.info("reload", change="detach", name=attachment.guest)
                        with suppress(AttachmentError):  # Its device has just vanished.
                            await self._detach(attachment.guest)
                switch.remove_segment(vni)
            case "set guard":
                segment = self.segment(change.name)
                self.engine.set_guard(segment.vni, segment.spoof_guard)
            case "set gateway":
                segment = self.segment(change.name)
                self.engine.set_gateways(segment.vni, segment.gateway)
            case "set leaves":
                self.engine.set_leaves(self.config.vswitch.leaves)
            case "log level":
                logging.configure(self.config.log.level)
        self.shell.rearm()

    def close(self) -> None:
        """Release every device."""
        for port in self.engine.ports().values():
            port.close()
        self.tunnel.close()

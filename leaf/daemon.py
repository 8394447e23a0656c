"""The leaf as a process: owns the engine, applies reloads."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from vswitch.phy.tunnel import BUDGET
from vswitch.phy.udp import UdpTunnel
from vswitch.service import log as logging
from vswitch.service import settings
from vswitch.service.daemon import Shell
from vswitch.wire.vxlan import Vtep

from .bindings import State, Timers
from .config import Config
from .configured import relay_addresses, topology
from .engine import Engine
from .leases import Leases
from .leasestore import LeaseStore, boot_id
from .limits import Limits
from .plan import Plan, plan
from .relayer import ToServer
from .relaysocket import RelaySocket
from .sections import BindingSettings
from .topology import Segment


class UnknownName(ValueError):
    """The API was asked about something that is not configured."""


class Daemon:
    """One running leaf."""

    def __init__(self, path: Path, config: Config, tunnel: UdpTunnel) -> None:
        """Needs a running event loop."""
        self.path = path
        self.config = config
        self.started = time.monotonic()
        self.log = logging.get(daemon="leaf", name=config.leaf.name)
        limits, timers = config.limits, config.timers
        self._leases = Leases()
        self._store: LeaseStore | None = None
        self._open_store(config)
        self.engine = Engine(
            topology(config),
            tunnel,
            time.monotonic,
            timers=Timers(timers.confirm_after, timers.probe_interval, timers.probes),
            limits=Limits(
                limits.punts_per_second,
                limits.icmp_per_second,
                limits.gleans_per_second,
                limits.multicast_per_second,
                limits.guest_punts_per_second,
                limits.guest_gleans_per_second,
                limits.guest_dhcp_per_second,
                limits.dhcp_commits_per_second,
                limits.server_dhcp_per_second,
                questions=limits.questions_per_second,
            ),
            max_bindings=limits.bindings,
            leases=self._leases,
            fragments=config.leaf.too_big == "fragment",
            on_failure=self._on_failure,
            notice=self.log.warning,
        )
        self.engine.ask_server = self._ask_server
        self.shell = Shell(self.engine, self.log)
        self.tunnel = tunnel
        self._relays: dict[bytes, RelaySocket] = {}

    async def start(self) -> str:
        """Learn what is configured, and begin to listen. Raises RelayError."""
        self.engine.measure()  # Before anybody is told what fits.
        self.engine.slowpath.advertiser.advertise(time.monotonic())
        self._learn_configured(self.config.binding)
        for lane, fd in enumerate(self.tunnel.filenos()):
            self.shell.watch(fd, partial(self.engine.pump_tunnel, lane))
        self._exchange_relays(self._open_relays(self.config))
        return f"vtep {self.config.leaf.vtep}, {len(self.config.segment)} segments"

    def _open_store(self, config: Config) -> None:
        """Open the file of leases where one is needed. Raises StoreError."""
        if self._store is not None or all(one.dhcp.mode != "respond" for one in config.segment):
            return
        store = LeaseStore(config.leaf.state, time.time, boot_id())
        now = time.monotonic()
        self._leases.restore(store, store.read(now))
        self._store = store
        self.log.info("leases", file=str(config.leaf.state), known=len(self._leases))

    def _open_relays(self, config: Config) -> dict[bytes, RelaySocket]:
        """Open a socket for each relay address of `config` that has none yet. Raises RelayError;
        then no more are open than before."""
        opened: dict[bytes, RelaySocket] = {}
        try:
            for address in relay_addresses(config) - set(self._relays):
                opened[address] = RelaySocket(address)
        except BaseException:
            for relay in opened.values():
                relay.close()
            raise
        return opened

    def _pump_relay(self, relay: RelaySocket, drain: bool) -> None:
        """Take what servers have sent to a relay address, or only the first of it."""
        for server, payload in relay.read(BUDGET if drain else 1):
            self.engine.from_server(server, payload)

    def _ask_server(self, datagram: ToServer) -> bool:
        relay = self._relays.get(datagram.relay)
        return relay is not None and relay.send(datagram.server, datagram.payload)

    def _on_failure(self, error: Exception) -> None:
        self.shell.failed(error)

    def segment(self, name: str) -> Segment:
        """Return a segment by name. Raises UnknownName."""
        for segment in self.config.segment:
            if segment.name == name:
                found = self.engine.router.segment(segment.vni)
                assert found is not None
                return found
        known = ", ".join(segment.name for segment in self.config.segment)
        raise UnknownName(f"no segment {name!r}; there are: {known}")

    def vswitch_name(self, vtep: str) -> str:
        """Return the name of the peer at a VTEP, or the VTEP itself."""
        names = {remote.vtep: remote.name for remote in self.config.remote_leaf}
        names |= {vswitch.vtep: vswitch.name for vswitch in self.config.vswitch}
        return names.get(Vtep(vtep), vtep)

    def _learn_configured(self, bindings: Iterable[BindingSettings]) -> None:
        vteps = {vswitch.name: vswitch.vtep for vswitch in self.config.vswitch}
        refused = []
        for binding in bindings:
            self.engine.send(
                self.engine.slowpath.discovery.learn(
                    self.segment(binding.segment),
                    binding.address,
                    binding.mac,
                    vteps[binding.vswitch],
                    time.monotonic(),
                    configured=True,
                )
            )
            if self._is_lost(binding):
                refused.append(str(ip_address(binding.address)))
        if refused:
            self.log.warning(
                "configured bindings have no room; raise limits.bindings, or list fewer of a MAC",
                count=len(refused),
                first=refused[0],
            )

    async def reload(self) -> Plan:
        """Read the file again and apply the difference. Raises SettingsError; then nothing was
        changed. What needs a restart is reported and left as it was."""
        new = settings.load(self.path, Config)
        planned = plan(self.config, new)
        kept = self.config
        self._open_store(new.model_copy(update={"leaf": kept.leaf}))
        identity = kept.leaf.model_copy(
            update={
                "router_mac": new.leaf.router_mac,
                "relay": new.leaf.relay,
                "relay6": new.leaf.relay6,
            }
        )
        opened = self._open_relays(new.model_copy(update={"leaf": identity}))
        self.config = new.model_copy(
            update={
                "leaf": identity,
                "api": kept.api,
                "limits": kept.limits,
                "timers": kept.timers,
            }
        )
        self._exchange_relays(opened)
        for change in planned.changes:
            self.log.info("reload", change=change.verb, kind=change.kind, name=change.name)
        if planned.changes:
            self._rebuild(kept)
        for key in planned.needs_restart:
            self.log.warning("reload: needs a restart", key=key)
        self.log.info("reloaded", changes=len(planned.changes))
        return planned

    def _exchange_relays(self, opened: dict[bytes, RelaySocket]) -> None:
        """Use the relay addresses of the present configuration, `opened` and of those before."""
        wanted = relay_addresses(self.config)
        for address in set(self._relays) - wanted:
            relay = self._relays.pop(address)
            self.shell.unwatch(relay.fileno())
            relay.close()
            self.log.info("dhcp relay closed", address=str(ip_address(address)))
        self._relays |= opened
        for relay in opened.values():
            self.shell.watch(relay.fileno(), partial(self._pump_relay, relay))
            self.log.info("dhcp relay", address=str(ip_address(relay.address)))

    def _rebuild(self, old: Config) -> None:
        slowpath = self.engine.slowpath
        coming = topology(self.config)
        self.engine.send(slowpath.advertiser.last_words(coming))
        lost = slowpath.replace_topology(coming)
        self.engine.measure()
        slowpath.advertiser.advertise(time.monotonic())
        if lost:
            self.log.info("bindings without a place were removed", count=len(lost))
        # Entries that are gone or changed are forgotten; entries that are new or have lost their
        # place are learnt. A configured guest that has moved meanwhile stays where it is.
        kept = set(old.binding) & set(self.config.binding)
        places = {(self.segment(b.segment).vni, b.address) for b in kept}
        slowpath.routes.forget(
            binding
            for binding in slowpath.bindings.all()
            if binding.state is State.CONFIGURED
            and (binding.segment, binding.address) not in places
        )
        self._learn_configured(
            binding
            for binding in self.config.binding
            if binding not in kept or self._is_lost(binding)
        )
        if old.log != self.config.log:
            logging.configure(self.config.log.level)

    def _is_lost(self, entry: BindingSettings) -> bool:
        found = self.engine.slowpath.bindings.get(self.segment(entry.segment).vni, entry.address)
        return found is None or found.state is not State.CONFIGURED

    def close(self) -> None:
        """Release the tunnel, the relay's sockets and the leases."""
        self.engine.tunnel.close()
        for relay in self._relays.values():
            relay.close()
        if self._store is not None:
            self._store.close()

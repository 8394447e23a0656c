"""A DHCP client in a guest, one for each family: ISC's dhclient.

It stays in the foreground, so that its process is ours to find and to end. What it is told goes
through a script of our own, to the guest's namespace and nowhere else. Its leases are kept beside
its log, so that a client that is started anew asks for the address that it had.

Rejected: udhcpc, whose companion for IPv6 Debian does not build; and dhcpcd, which takes the whole
machine's name servers in hand.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .namespace import Namespace
from .process import LabError, LabProcess
from .topology import Family

COMMAND = "dhclient"
PACKAGE = "isc-dhcp-client"
SCRIPT = Path(__file__).with_name("dhclient-script")
CONFIG = """\
# Of the lab. A guest asks often: a person waits for it, and nobody else is on its network.
timeout 30;
retry 5;
initial-interval 1;
backoff-cutoff 4;
select-timeout 0;
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, rfc3442-classless-static-routes, routers, interface-mtu,
    domain-name, domain-name-servers, dhcp6.name-servers, dhcp6.domain-search;
"""
DAD_WAIT = 5
"""Seconds that the script gives duplicate address detection, which takes one or two."""


def require() -> None:
    """Raise LabError where there is no dhclient."""
    if shutil.which(COMMAND) is None:
        raise LabError(
            f"guests are to get addresses by DHCP, but {COMMAND} is not installed; install it:"
            f" apt-get install {PACKAGE}"
        )


class Dhclient(LabProcess):
    """The client of one family in one guest."""

    def __init__(
        self, guest: str, family: Family, link: str, namespace: Namespace, directory: Path
    ) -> None:
        name = f"{guest}.{COMMAND}-{family}"
        super().__init__(name, namespace, directory)
        self._family = family
        self._link = link
        self._config = directory / f"{name}.conf"
        self._leases = directory / f"{name}.leases"

    def up(self) -> bool:
        """Start it where it does not run; say whether it had to be.

        Of IPv6 the link must have a link-local address in use: dhclient does not wait for it.
        """
        if self.process() is not None:
            return False
        self._config.write_text(CONFIG)
        options = ["-4"]
        if self._family is Family.IPV6:
            options = ["-6", "--dad-wait-time", str(DAD_WAIT)]
        files = ["-cf", str(self._config), "-lf", str(self._leases), "-sf", str(SCRIPT)]
        self._spawn([COMMAND, "-d", "--no-pid", *options, *files, self._link])
        return True

"""What a network driver may know about this member: names, directories, and what its host is like (plain values)."""

import functools
import grp
import hashlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from corral.server.context import Member


@dataclass(frozen=True, slots=True)
class Site:
    """Where networks live on this member.

    `table` is the name of the nft tables, `domain` the default DNS domain, `seed` what makes the generated MAC
    addresses differ between servers. `user` and `group` are those that DHCP and DNS servers run as.
    """

    table: str
    title: str
    domain: str
    networks_dir: Path
    log_dir: Path
    seed: str
    user: str
    group: str
    debug: bool = False

    def directory(self, network: str) -> Path:
        """Where a network keeps its leases, reservations and records."""
        return self.networks_dir / network


def site_of(member: Member) -> Site:
    """The site of this member; reads the user database and the server's certificate."""
    user, group = _unprivileged(member)
    return Site(
        table=member.product.name,
        title=member.product.title,
        domain=member.product.name,
        networks_dir=member.networks_dir,
        log_dir=member.log_dir,
        seed=_seed(member),
        user=user,
        group=group,
        debug=member.debug,
    )


@functools.cache
def _seed(member: Member) -> str:
    for path in (member.state_dir / "server.crt", Path("/etc/machine-id")):
        try:
            return hashlib.sha256(path.read_bytes() + str(member.state_dir).encode()).hexdigest()
        except OSError:
            continue
    return str(member.state_dir)


@functools.cache
def _unprivileged(member: Member) -> tuple[str, str]:
    """The first of the product's own and the system's nobody users; root where that user could not reach the files."""
    if not all(os.stat(path).st_mode & 0o001 for path in _existing(member.networks_dir)):
        return "root", "root"
    users = {entry.pw_name for entry in pwd.getpwall()}
    groups = {entry.gr_name for entry in grp.getgrall()}
    user = next((name for name in (member.product.name, "nobody") if name in users), "root")
    group = next((name for name in (member.product.name, "nogroup", "nobody") if name in groups), "root")
    return user, group


def _existing(path: Path) -> list[Path]:
    return [part for part in (path, *path.parents) if part.exists()]

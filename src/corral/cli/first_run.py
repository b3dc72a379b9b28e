"""What a user is told, once, before the first command: the configuration file is then written."""

from __future__ import annotations

from corral.cli import output
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.cli.session import Session


def greet(session: Session, word: str) -> None:
    """Say how to begin, and save the default configuration."""
    product = session.product
    remotes = session.remotes
    shown = False
    if not _is_set_up(session):
        message = f"If this is your first time running {product.title} on this machine, you should also run: "
        output.warn(message + (f"{product.name} init" if product.name == "lxd" else f"{product.name}d init --auto"))
        shown = True
    if word not in ("init", "launch"):
        if product.name == "lxd":
            output.warn("To start your first container, try: lxc launch ubuntu:22.04")
            output.warn("Or for a virtual machine: lxc launch ubuntu:22.04 --vm")
        else:
            name = product.client
            output.warn(f"To start your first container, try: {name} image build debian/12 && {name} launch debian/12")
        shown = True
    if shown:
        output.warn("")
    remotes.save()


def _is_set_up(session: Session) -> bool:
    """Whether the daemon has storage; on the way a user of one project only gets it as the default."""
    try:
        server = session.remotes.server("local")
        has_storage = bool(server.info.get("environment", {}).get("storage"))
        projects = server.query("GET", "/1.0/projects").metadata or []
    except CorralError:
        return False
    names = [url.rpartition("/")[2] for url in projects]
    if len(names) == 1 and names[0] != "default":
        session.remotes.remotes["local"].project = names[0]
    return has_storage

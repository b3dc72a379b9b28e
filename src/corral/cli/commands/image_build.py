"""`image build`: have the server build an image from a distribution's package mirror."""

from __future__ import annotations

from corral.cli.command import Command, Invocation, text, texts
from corral.cli.progress import Progress
from corral.errors import CorralError

_RECIPES = "debian/12, debian/13 or busybox"


def run(invocation: Invocation) -> int:
    """Build an image and say its fingerprint."""
    remote, recipe = invocation.session.remotes.parse(invocation.args[0])
    system, release, variant = parse_recipe(recipe, invocation.text("variant"))
    packages = [name for entry in invocation.texts("include") for name in entry.replace(" ", ",").split(",") if name]
    source = {
        "type": "build",
        "os": system,
        "release": release,
        "variant": variant,
        "packages": packages,
        "mirror": invocation.text("mirror"),
    }
    aliases = invocation.texts("alias") or [recipe]
    body = {
        "source": source,
        "aliases": [{"name": name, "description": ""} for name in aliases],
        "properties": {},
        "public": False,
    }
    server = invocation.session.remotes.server(remote)
    progress = Progress(invocation.session, "Building the image: %s")
    operation = progress.run(server, "POST", "/images", body)
    fingerprint = (operation.get("metadata") or {}).get("fingerprint", "")
    progress.done(f"Image {aliases[0]} built with fingerprint: {fingerprint}")
    return 0


def parse_recipe(recipe: str, flag: str) -> tuple[str, str, str]:
    """System, release and variant of `debian/12/cloud`; the variant may be given by the flag instead."""
    system, _, rest = recipe.partition("/")
    release, _, variant = rest.partition("/")
    if not system or "/" in variant:
        raise CorralError(f"Say what to build: {_RECIPES}")
    if variant and flag and variant != flag:
        raise CorralError(f"Two variants were given: {variant} and {flag}")
    return system, release, variant or flag or "default"


COMMAND = Command(
    "build [<remote>:]<system>[/<release>[/<variant>]]",
    "Build images from a package mirror",
    run,
    (1, 1),
    long=f"""Build images from a package mirror

The server builds {_RECIPES} and stores the image; its alias is the name it was built by unless
another is given. The variants are default, minimal and cloud (with cloud-init).""",
    examples="""{client} image build debian/12
    A Debian 12 image, ready for `{client} launch debian/12`.

{client} image build debian/12/cloud
    One that configures itself by cloud-init.

{client} image build debian/13 --variant minimal --include openssh-server,vim --alias ssh
    A small Debian 13 image with two more packages.""",
    flags=(
        texts("include", "Packages to install as well, separated by commas"),
        texts("alias", "New aliases to add to the image"),
        text("variant", "Variant of the image: default, minimal or cloud"),
        text("mirror", "Package mirror to build from (default: the one that the server uses)"),
    ),
)

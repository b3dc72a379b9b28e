"""`image`: the images that instances are made from."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import ANY_NUMBER_OF, Command, Invocation, switch, text, texts
from corral.cli.commands import image_alias, image_build, image_files, image_list
from corral.cli.commands.image_alias import dereference
from corral.cli.commands.image_files import locate
from corral.cli.progress import Progress
from corral.cli.records import IMAGE_WRITABLE
from corral.cli.session import Resource, pick
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_HEADER = """This is a YAML representation of the image properties.
Any line starting with a '#' will be ignored.

Each property is represented by a single line:
An example would be:
 description: My custom image"""


def _own(invocation: Invocation, argument: str) -> tuple[Resource, str]:
    """(Resource, fingerprint) of an image on a server that may be changed."""
    resource = invocation.session.resource(argument)
    if not resource.name:
        raise CorralError(f"Image identifier missing: {argument}" if argument else "Image identifier missing")
    return resource, dereference(resource.server, resource.name)


def delete(invocation: Invocation) -> int:
    """Delete images."""
    for argument in invocation.args:
        resource, fingerprint = _own(invocation, argument)
        resource.server.run("DELETE", f"/images/{escape(fingerprint)}")
    return 0


def edit(invocation: Invocation) -> int:
    """Edit the properties of an image."""
    from corral.cli.editor import edit_record
    from corral.client.yaml_input import parse_record
    from corral.client.yaml_output import render_yaml

    resource, fingerprint = _own(invocation, invocation.args[0])
    path = f"/images/{escape(fingerprint)}"

    def fetch() -> tuple[str, str]:
        body, etag = resource.server.get_tagged(path)
        return render_yaml(pick(body, IMAGE_WRITABLE)), etag

    def store(content: str, etag: str) -> None:
        resource.server.put(path, parse_record(content, IMAGE_WRITABLE), etag)

    edit_record(_HEADER, fetch, store)
    return 0


def info(invocation: Invocation) -> int:
    """Show an image."""
    from corral.cli.times import format_utc, is_set

    server, fingerprint = locate(invocation, invocation.args[0])
    image = server.get(f"/images/{escape(fingerprint)}")
    lines = [
        f"Fingerprint: {image['fingerprint']}",
        f"Size: {image['size'] / 1024 / 1024:.2f}MB",
        f"Architecture: {image['architecture']}",
        f"Type: {image.get('type') or 'container'}",
        f"Public: {'yes' if image['public'] else 'no'}",
        "Timestamps:",
    ]
    if is_set(image["created_at"]):
        lines.append(f"    Created: {format_utc(image['created_at'])}")
    lines.append(f"    Uploaded: {format_utc(image['uploaded_at'])}")
    for field, label in (("expires_at", "Expires"), ("last_used_at", "Last used")):
        moment = image[field]
        lines.append(f"    {label}: {format_utc(moment) if is_set(moment) else 'never'}")
    lines.append("Properties:")
    lines += [f"    {key}: {value}" for key, value in sorted((image["properties"] or {}).items())]
    lines.append("Aliases:")
    for alias in image.get("aliases") or ():
        lines.append(f"    - {alias['name']}" + (f" ({alias['description']})" if alias["description"] else ""))
    lines.append(f"Cached: {'yes' if image['cached'] else 'no'}")
    lines.append(f"Auto update: {'enabled' if image['auto_update'] else 'disabled'}")
    lines += _source_lines(image.get("update_source"))
    profiles = image.get("profiles") or ()
    lines += ["Profiles:", *(f"    - {name}" for name in profiles)] if profiles else ["Profiles: []"]
    output.line("\n".join(lines))
    return 0


def _source_lines(source: dict[str, Any] | None) -> list[str]:
    if not source:
        return []
    fields = (("Server", "server"), ("Protocol", "protocol"), ("Alias", "alias"))
    return ["Source:", *(f"    {label}: {source[field]}" for label, field in fields)]


def refresh(invocation: Invocation) -> int:
    """Fetch newer versions of images."""
    for argument in invocation.args:
        resource, fingerprint = _own(invocation, argument)
        progress = Progress(invocation.session, "Refreshing the image: %s")
        operation = progress.run(resource.server, "POST", f"/images/{escape(fingerprint)}/refresh")
        refreshed = (operation.get("metadata") or {}).get("refreshed")
        progress.done("Image refreshed successfully!" if refreshed else "Image already up to date.")
    return 0


def show(invocation: Invocation) -> int:
    """Print the properties of an image as YAML."""
    from corral.client.yaml_output import render_yaml

    server, fingerprint = locate(invocation, invocation.args[0])
    output.write(render_yaml(pick(server.get(f"/images/{escape(fingerprint)}"), IMAGE_WRITABLE)))
    return 0


def get_property(invocation: Invocation) -> int:
    """Print a property."""
    server, fingerprint = locate(invocation, invocation.args[0])
    properties = server.get(f"/images/{escape(fingerprint)}")["properties"] or {}
    if invocation.args[1] not in properties:
        raise CorralError("Property not found")
    output.line(properties[invocation.args[1]])
    return 0


def set_property(invocation: Invocation) -> int:
    """Set a property; an empty value unsets it."""
    resource, fingerprint = _own(invocation, invocation.args[0])
    path = f"/images/{escape(fingerprint)}"
    body, etag = resource.server.get_tagged(path)
    body["properties"] = {**(body["properties"] or {}), invocation.args[1]: invocation.arg(2)}
    resource.server.put(path, pick(body, IMAGE_WRITABLE), etag)
    return 0


def _copy(invocation: Invocation) -> int:
    from corral.cli.commands.image_copy import run

    return run(invocation)


_VM = switch("vm", "Query virtual machine images")
_ONE = "[<remote>:]<image>"
_ALIASES = texts("alias", "New aliases to add to the image")
_PUBLIC = switch("public", "Make image public")

COMMAND = Command(
    "image",
    "Manage images",
    long="""Manage images

Instances are made from images, which come from an existing instance, a build, a file or an image server. Images of
image servers are cached and expire when they are not used.

An image is known by its fingerprint, the SHA-256 sum of its file, or of both files where metadata and root file
system are apart. Wherever an image is asked for, the fingerprint, the beginning of one, or an alias will do.""",
    commands=(
        image_alias.COMMAND,
        image_build.COMMAND,
        Command(
            f"copy {_ONE} <remote>:",
            "Copy images between servers",
            _copy,
            (2, 2),
            aliases=("cp",),
            long="""Copy images between servers

--auto-update has the target server keep the image up to date; the source must be an alias of a public image.""",
            flags=(
                _PUBLIC,
                switch("copy-aliases", "Copy aliases from source"),
                switch("auto-update", "Keep the image up to date after initial copy"),
                _ALIASES,
                switch("vm", "Copy virtual machine images"),
                text("mode", "Transfer mode. One of pull (default), push or relay", default="pull"),
                text("target-project", "Copy to a project different from the source"),
            ),
        ),
        Command(f"delete {_ONE} [{_ONE}...]", "Delete images", delete, (1, ANY_NUMBER_OF), aliases=("rm",)),
        Command(
            f"edit {_ONE}",
            "Edit image properties",
            edit,
            (1, 1),
            examples="""{client} image edit <image>
    Edit the properties in a text editor

{client} image edit <image> < image.yaml
    Take the properties from a YAML file""",
        ),
        Command(
            f"export {_ONE} [<target>]",
            "Export and download images",
            image_files.export,
            (1, 2),
            long="Export and download images\n\nThe target is the working directory unless one is given.",
            flags=(_VM,),
        ),
        Command(
            "import <tarball>|<directory>|<URL> [<rootfs tarball>] [<remote>:] [key=value...]",
            "Import images into the image store",
            image_files.import_image,
            (1, ANY_NUMBER_OF),
            long="Import images into the image store\n\nA directory can be imported on Linux and by root only.",
            flags=(_PUBLIC, _ALIASES),
        ),
        Command(f"info {_ONE}", "Show useful information about images", info, (1, 1), flags=(_VM,)),
        image_list.COMMAND,
        Command(f"refresh {_ONE} [{_ONE}...]", "Refresh images", refresh, (1, ANY_NUMBER_OF)),
        Command(f"show {_ONE}", "Show image properties", show, (1, 1), flags=(_VM,)),
        Command(f"get-property {_ONE} <key>", "Get image properties", get_property, (2, 2)),
        Command(f"set-property {_ONE} <key> <value>", "Set image properties", set_property, (3, 3)),
        Command(f"unset-property {_ONE} <key>", "Unset image properties", set_property, (2, 2)),
    ),
)

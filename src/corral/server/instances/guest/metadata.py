"""The metadata and file templates that an instance has from its image: shown and changed, whether it runs or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from corral.api.instances import InstanceMetadata, MetadataTemplate
from corral.api.urls import url
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.images import metadata_files
from corral.server.images.formats import ImageMetadata, Template
from corral.server.instances import root_volume
from corral.server.instances.model import Instance

P = ParamSpec("P")
T = TypeVar("T")


async def get_metadata(context: Context, instance: Instance) -> InstanceMetadata:
    """The metadata; an instance without any has an empty one."""
    found = await _in_directory(context, instance, metadata_files.read_metadata)
    return InstanceMetadata() if found is None else _to_wire(found)


async def update_metadata(context: Context, instance: Instance, body: InstanceMetadata) -> None:
    """Replace the metadata. Raises InvalidRequest for what no start of the instance could use."""
    await _in_directory(context, instance, metadata_files.write_metadata, _of_wire(body))
    publish(context, instance, "updated")


async def list_templates(context: Context, instance: Instance) -> list[str]:
    """The names of the templates."""
    return await _in_directory(context, instance, metadata_files.list_templates)


async def get_template(context: Context, instance: Instance, name: str) -> bytes:
    """The text of a template. Raises NotFound."""
    content = await _in_directory(context, instance, metadata_files.read_template, name)
    _publish_template(context, instance, name, "retrieved")
    return content


async def put_template(context: Context, instance: Instance, name: str, content: bytes) -> None:
    """Make a template or replace its text."""
    await _in_directory(context, instance, metadata_files.write_template, name, content)
    _publish_template(context, instance, name, "created")


async def delete_template(context: Context, instance: Instance, name: str) -> None:
    """Remove a template. Raises NotFound."""
    await _in_directory(context, instance, metadata_files.delete_template, name)
    _publish_template(context, instance, name, "deleted")


async def _in_directory(
    context: Context,
    instance: Instance,
    function: Callable[Concatenate[Path, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    directory = await root_volume.mount(context, instance)
    async with context.locks.hold("instance metadata", instance.id):
        return await in_thread(function, directory, *args, **kwargs)


def _to_wire(metadata: ImageMetadata) -> InstanceMetadata:
    return InstanceMetadata(
        architecture=metadata.architecture,
        creation_date=metadata.creation_date,
        expiry_date=metadata.expiry_date,
        properties=dict(metadata.properties),
        templates={
            path: MetadataTemplate(
                when=list(one.when),
                create_only=one.create_only,
                template=one.template,
                properties=dict(one.properties) or None,
            )
            for path, one in metadata.templates.items()
        },
    )


def _of_wire(body: InstanceMetadata) -> ImageMetadata:
    return ImageMetadata(
        architecture=body.architecture,
        creation_date=body.creation_date,
        expiry_date=body.expiry_date,
        properties=body.properties or {},
        templates={
            path: Template(tuple(one.when or ()), one.template, one.create_only, one.properties or {})
            for path, one in (body.templates or {}).items()
        },
    )


def publish(context: Context, instance: Instance, verb: str) -> None:
    """Tell the listeners that the metadata was retrieved or updated."""
    source = url("/1.0/instances", instance.name, "metadata", project=instance.project)
    context.events.publish(Lifecycle(f"instance-metadata-{verb}", source, instance.project))


def _publish_template(context: Context, instance: Instance, name: str, verb: str) -> None:
    source = url("/1.0/instances", instance.name, "metadata", "templates", project=instance.project)
    context.events.publish(Lifecycle(f"instance-metadata-template-{verb}", source, instance.project, {"path": name}))

"""Renders the templates of an instance's image into its root file system. The instance must not be running."""

from pathlib import Path

from corral import architectures
from corral.server.host.isolation.idmap import IdMap
from corral.server.host.threads import in_thread
from corral.server.images.template_files import apply_templates
from corral.server.images.templates import TemplateVariables
from corral.server.instances.model import Instance


async def apply(instance: Instance, directory: Path, triggers: list[str], owner: IdMap | None) -> None:
    """Render what is due on the triggers; `owner` is the map by which the files on the disk are owned."""
    await in_thread(_apply, instance, directory, triggers, owner)


def _apply(instance: Instance, directory: Path, triggers: list[str], owner: IdMap | None) -> None:
    if not (directory / "metadata.yaml").exists():
        return
    variables = TemplateVariables(
        name=instance.name,
        architecture=architectures.format_architecture(instance.architecture),
        type=instance.type.value,
        ephemeral=instance.ephemeral,
        privileged=instance.privileged,
        config=instance.expanded_config,
        devices=instance.expanded_devices,
    )
    uid = owner.outside_uid(0) if owner is not None else 0
    gid = owner.outside_gid(0) if owner is not None else 0
    for trigger in triggers:
        apply_templates(directory, trigger, variables, (uid or 0, gid or 0))

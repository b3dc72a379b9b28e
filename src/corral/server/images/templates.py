"""Renders the templates of an image for an instance. Pure; writing is the caller's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from corral.errors import InvalidRequest
from corral.server.images.formats import ImageMetadata, Template
from corral.server.pongo2.engine import render


@dataclass(frozen=True, slots=True)
class TemplateVariables:
    """What a template may show of an instance. `config` and `devices` are the expanded ones."""

    name: str
    architecture: str
    type: str = "container"
    ephemeral: bool = False
    privileged: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A file to write below the instance's root. `create_only`: only where none exists."""

    path: str
    content: bytes
    create_only: bool


def due_templates(metadata: ImageMetadata, trigger: str) -> dict[str, Template]:
    """The templates that this trigger (create, copy, start, rename) renders, by path."""
    return {path: template for path, template in metadata.templates.items() if trigger in template.when}


def render_templates(
    metadata: ImageMetadata, trigger: str, variables: TemplateVariables, read: Callable[[str], str]
) -> list[RenderedFile]:
    """Render what is due; `read` gives the text of a file of templates/. Raises InvalidRequest naming the template."""
    rendered = []
    for path, template in due_templates(metadata, trigger).items():
        try:
            text = render(read(template.template), _context(path, trigger, template, variables), variables.config)
        except (TemplateError, RecursionError, ArithmeticError, TypeError, ValueError) as error:
            raise InvalidRequest(f"Failed to render template {template.template!r} for {path}: {error}") from error
        content = text.encode("utf-8", "surrogateescape")
        rendered.append(RenderedFile("/" + path.lstrip("/"), content, template.create_only))
    return rendered


def _context(path: str, trigger: str, template: Template, variables: TemplateVariables) -> dict[str, Any]:
    instance = {
        "name": variables.name,
        "type": variables.type,
        "architecture": variables.architecture,
        "ephemeral": "true" if variables.ephemeral else "false",
        "privileged": "true" if variables.privileged else "false",
    }
    return {
        "trigger": trigger,
        "path": path,
        "container": instance,
        "instance": instance,
        "config": dict(variables.config),
        "devices": {name: dict(device) for name, device in variables.devices.items()},
        "properties": dict(template.properties),
    }

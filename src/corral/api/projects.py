"""Wire form of projects."""

import msgspec


class ProjectPut(msgspec.Struct, kw_only=True):
    """What may be changed of a project."""

    config: dict[str, str] = {}
    description: str = ""


class ProjectsPost(ProjectPut, kw_only=True):
    """A new project."""

    name: str = ""


class ProjectPost(msgspec.Struct, kw_only=True):
    """The new name of a project."""

    name: str = ""


class Project(msgspec.Struct, kw_only=True):
    """A project and what belongs to it."""

    config: dict[str, str]
    description: str
    name: str
    used_by: list[str]


class ProjectStateResource(msgspec.Struct, kw_only=True):
    """How much of something a project uses and may use (-1: no limit); LXD capitalizes these names."""

    limit: int = msgspec.field(name="Limit", default=-1)
    usage: int = msgspec.field(name="Usage", default=0)


class ProjectState(msgspec.Struct, kw_only=True):
    """What a project uses, by the name of the resource."""

    resources: dict[str, ProjectStateResource]

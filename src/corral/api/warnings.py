"""Wire form of warnings."""

import msgspec


class WarningPut(msgspec.Struct, kw_only=True):
    """The new status: `new` or `acknowledged`."""

    status: str = ""


class WarningReport(msgspec.Struct, kw_only=True):
    """A warning to raise for a test, in the numbers of the database."""

    type_code: int = 0
    message: str = ""
    project: str = ""
    entity_type_code: int = -1
    entity_id: int = -1


class Warning(msgspec.Struct, kw_only=True):
    """A condition of the server that an administrator should know of."""

    status: str
    uuid: str
    location: str
    project: str
    type: str
    count: int
    first_seen_at: str
    last_seen_at: str
    last_message: str
    severity: str
    entity_url: str

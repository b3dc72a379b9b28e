"""/1.0/warnings."""

from corral.api import warnings as wire
from corral.api.urls import url
from corral.errors import Forbidden, InvalidRequest
from corral.server.events.model import Lifecycle, utc_now
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing
from corral.server.rest.routing import Access, Routes
from corral.server.warnings import store
from corral.server.warnings.model import ACKNOWLEDGED, NEW, STATUSES, TYPES, Condition

routes = Routes("/1.0/warnings", access=Access.ADMIN)


def _to_wire(request: Request, condition: Condition) -> wire.Warning:
    return wire.Warning(
        status=STATUSES[condition.status],
        uuid=condition.uuid,
        location=request.context.member.location,
        project=condition.project,
        type=TYPES[condition.type_code],
        count=condition.count,
        first_seen_at=condition.first_seen_date,
        last_seen_at=condition.last_seen_date,
        last_message=condition.last_message,
        severity=condition.severity,
        entity_url=condition.entity_url,
    )


@routes.get("")
async def list_warnings(request: Request) -> Listing[wire.Warning]:
    """List the warnings."""
    found = await request.db.read(store.list_warnings, request.query.get("project", ""))
    return Listing([_to_wire(request, one) for one in found], lambda one: url("/1.0/warnings", one.uuid))


@routes.get("/{uuid}", put=wire.WarningPut)
async def get_warning(request: Request, uuid: str) -> wire.Warning:
    """Get a warning."""
    return _to_wire(request, await request.db.read(store.get_warning, uuid))


@routes.put("/{uuid}")
async def update_warning(request: Request, uuid: str, body: wire.WarningPut) -> None:
    """Acknowledge a warning, or make it new again."""
    status = {name: code for code, name in STATUSES.items()}.get(body.status)
    if status is None:
        raise InvalidRequest(f'Invalid warning type "{body.status}"')
    if status not in (NEW, ACKNOWLEDGED):
        raise Forbidden('Status may only be set to "acknowledge" or "new"')
    await request.db.write(store.update_status, uuid, status, utc_now())
    action = "warning-acknowledged" if status == ACKNOWLEDGED else "warning-reset"
    request.context.events.publish(Lifecycle(action, url("/1.0/warnings", uuid)))


@routes.delete("/{uuid}")
async def delete_warning(request: Request, uuid: str) -> None:
    """Delete a warning."""
    await request.db.write(store.delete_warning, uuid)
    request.context.events.publish(Lifecycle("warning-deleted", url("/1.0/warnings", uuid)))

"""/1.0/metrics: what instances and the server use, for Prometheus."""

import time

from aiohttp import web

from corral.errors import Forbidden
from corral.server.instances import metrics
from corral.server.metrics import openmetrics
from corral.server.operations.registry import Operations
from corral.server.projects import store as projects
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes
from corral.server.settings import keys
from corral.server.settings.settings import Settings
from corral.server.warnings import store as warnings

routes = Routes("/1.0/metrics", access=Access.ANYONE)

_started_at = time.monotonic()


@routes.get("")
async def get_metrics(request: Request) -> web.Response:
    """Get the metrics of running instances, of one project or of all that the caller may see, and of the server."""
    caller = request.caller
    open_to_all = request.context.parts[Settings].config[keys.METRICS_AUTHENTICATION] is False
    if not caller.trusted and not open_to_all:
        raise Forbidden("not authorized")
    asked = request.query.get("project")
    if asked:
        if not caller.may_see(asked):
            raise Forbidden("not authorized")
        names = [asked]
    else:
        found = await request.db.read(projects.list_projects)
        names = [one.name for one in found if caller.may_see(one.name)]
    metric_set = openmetrics.merged([await metrics.collect(request.context, names)])
    if not asked and caller.projects is None:
        await _add_server(request, metric_set)
    return web.Response(text=metric_set.render(), content_type="text/plain")


async def _add_server(request: Request, metric_set: openmetrics.MetricSet) -> None:
    metric_set.add(openmetrics.OPERATIONS, len(request.context.parts[Operations].running()))
    metric_set.add(openmetrics.WARNINGS, await request.db.read(warnings.count_unresolved))
    metric_set.add(openmetrics.UPTIME, int(time.monotonic() - _started_at))

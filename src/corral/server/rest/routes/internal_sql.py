"""/internal/sql: statements on the daemon's databases; administrators of this machine only."""

from corral.api.sql import SqlBatch, SqlDump, SqlQuery, SqlResult
from corral.errors import InvalidRequest
from corral.server.db import queries
from corral.server.db.database import Database, LocalDatabase
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes

routes = Routes("/internal/sql", access=Access.ADMIN)


def _database(request: Request, name: str) -> Database:
    if name == "global":
        return request.db
    if name == "local":
        return request.context.parts[LocalDatabase]
    raise InvalidRequest("Invalid database")


@routes.get("")
async def dump_database(request: Request) -> SqlDump:
    """Get a database as a script, with `schema=1` without its rows."""
    database = _database(request, request.query.get("database", ""))
    schema_only = request.query.get("schema") == "1"
    return SqlDump(text=await database.read(queries.dump, schema_only=schema_only))


@routes.post("")
async def run_statements(request: Request, body: SqlQuery) -> SqlBatch:
    """Run statements; `.sync` writes what is committed into the file itself."""
    database = _database(request, body.database)
    if not body.query:
        raise InvalidRequest("No query provided")
    if body.query.strip() == ".sync":
        await database.checkpoint()
        return SqlBatch()
    return SqlBatch(results=[_result(one) for one in await queries.run(database, body.query)])


def _result(outcome: queries.Outcome) -> SqlResult:
    if not outcome.is_query:
        return SqlResult(type="exec", rows_affected=outcome.affected)
    rows = [[_shown(value) for value in row] for row in outcome.rows]
    return SqlResult(type="select", columns=outcome.columns, rows=rows)


def _shown(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value

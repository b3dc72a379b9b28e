"""URLs of things in the API."""

from urllib.parse import quote, urlencode


def _escape(part: str) -> str:
    # In a list of a thousand names hardly one has something to escape.
    return part if part.isascii() and part.replace("-", "a").isalnum() else quote(part, safe="")


def url(*parts: str, project: str = "default", **query: str) -> str:
    """`/1.0/images/abc`, with the parts after the first escaped and `?project=` for all but the default project."""
    path = "/".join([parts[0], *map(_escape, parts[1:])])
    if project not in ("", "default"):
        query["project"] = project
    return f"{path}?{urlencode(query)}" if query else path

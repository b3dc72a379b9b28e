"""URLs of things in the API."""

from urllib.parse import quote, urlencode


def url(*parts: str, project: str = "default", **query: str) -> str:
    """`/1.0/images/abc`, with the parts after the first escaped and `?project=` for all but the default project."""
    path = "/".join([parts[0], *(quote(part, safe="") for part in parts[1:])])
    if project not in ("", "default"):
        query["project"] = project
    return f"{path}?{urlencode(query)}" if query else path

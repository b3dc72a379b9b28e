"""Cross-origin headers, as the server's configuration allows them."""

from corral.server.keys import Config
from corral.server.settings import keys


def headers_of(config: Config) -> dict[str, str]:
    """The Access-Control-* headers for requests with an Origin; none where no origin is allowed."""
    origin = config[keys.ALLOWED_ORIGIN]
    if not origin:
        return {}
    headers = {"Access-Control-Allow-Origin": origin}
    for name, key in (
        ("Access-Control-Allow-Methods", keys.ALLOWED_METHODS),
        ("Access-Control-Allow-Headers", keys.ALLOWED_HEADERS),
    ):
        value = config[key]
        if value:
            headers[name] = value
    if config[keys.ALLOWED_CREDENTIALS]:
        headers["Access-Control-Allow-Credentials"] = "true"
    return headers

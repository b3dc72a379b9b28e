"""Secrets that let somebody without permission fetch or push one image, once: token operations hold them."""

import asyncio
import secrets
from typing import Any

from corral.api.urls import url
from corral.server.operations.model import FINAL, Operation
from corral.server.operations.registry import Operations

DESCRIPTION = "Image download token"
LIFETIME_S = 24 * 3600.0


def create_token(operations: Operations, project: str, fingerprint: str, metadata: dict[str, Any]) -> Operation:
    """A token for an image of a project. `metadata` is kept for the one who pushes with it."""
    operation = Operation(
        DESCRIPTION,
        project,
        {"images": [url("/1.0/images", fingerprint)]},
        {**metadata, "secret": secrets.token_hex(32)},
        cancellable=True,
        kind="token",
    )
    return operations.start(operation, lambda: asyncio.sleep(LIFETIME_S))


def find_token(operations: Operations, project: str, fingerprint: str, secret: str) -> Operation | None:
    """The token that a secret opens; None where there is none."""
    if not secret or not fingerprint:
        return None
    image = url("/1.0/images", fingerprint)
    for operation in operations.all(project):
        if operation.kind != "token" or operation.status in FINAL or image not in operation.resources.get("images", []):
            continue
        if secrets.compare_digest(str(operation.metadata.get("secret", "")), secret):
            return operation
    return None


def redeem_token(operations: Operations, project: str, fingerprint: str, secret: str) -> Operation | None:
    """The token that a secret opens, which is spent by this; None where there is none."""
    operation = find_token(operations, project, fingerprint, secret)
    if operation is not None:
        operation.cancel()
    return operation

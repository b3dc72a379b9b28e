"""The trust password: kept as a salted scrypt hash in LXD's form (hexadecimal salt of 32 bytes and key of 64)."""

import hashlib
import hmac
import os

_SALT_LENGTH = 32


def _derive(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=64)


def hash_password(password: str) -> str:
    """The text to store for a password; takes some 50 ms of CPU time."""
    salt = os.urandom(_SALT_LENGTH)
    return (salt + _derive(password, salt)).hex()


def matches(stored: str, password: str) -> bool:
    """Whether a password is the stored one; an empty or damaged hash matches nothing."""
    try:
        data = bytes.fromhex(stored)
    except ValueError:
        return False
    if len(data) <= _SALT_LENGTH:
        return False
    return hmac.compare_digest(data[_SALT_LENGTH:], _derive(password, data[:_SALT_LENGTH]))

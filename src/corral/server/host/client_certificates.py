"""Makes a TLS server ask for a client certificate and accept any, also self-signed and unknown ones.

Python's `ssl` has no such switch: CERT_OPTIONAL ends the handshake for a certificate without a known issuer, CERT_NONE
never shows it. OpenSSL has one, SSL_CTX_set_cert_verify_callback(3). It is reached through the libssl that `_ssl`
itself is linked with, on the SSL_CTX inside Python's context; both are checked before anything is written, and
`prove` runs a handshake in memory. OpenSSL still verifies that the client has the key of what it shows; who that is
must be looked up by the certificate's fingerprint, and its dates be checked, by the caller.
"""

import _ssl
import ctypes
import ssl
import sys
from functools import cache
from pathlib import Path
from typing import Any

from corral.errors import NotSupported

_REFUSED = "HTTPS is not available: this Python's TLS cannot be told to accept unknown client certificates"


@cache
def _libssl() -> ctypes.CDLL:
    # A handle of the loaded extension resolves names through its own dependencies: the very library that it calls.
    library = ctypes.CDLL(_ssl.__file__)
    try:
        library.OpenSSL_version_num.restype = ctypes.c_ulong
        number = library.OpenSSL_version_num()
        library.RAND_status.restype = ctypes.c_int
        library.SSL_CTX_get_options.restype = ctypes.c_uint64
        library.SSL_CTX_set_cert_verify_callback.restype = None
        for name in ("SSL_CTX_get_options", "SSL_CTX_get_verify_mode", "SSL_CTX_get_security_level"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.SSL_CTX_set_cert_verify_callback.argtypes = [ctypes.c_void_p] * 3
    except AttributeError as error:
        raise NotSupported(f"{_REFUSED} ({error})") from None
    if number != ssl.OPENSSL_VERSION_NUMBER:
        raise NotSupported(f"{_REFUSED} (found another OpenSSL, {number:#x})")
    return library


def _is_writable_memory(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, permissions = line.split()[:2]
        start, end = (int(part, 16) for part in area.split("-"))
        if start <= address < end:
            return permissions.startswith("rw")
    return False


def _native_context(context: ssl.SSLContext) -> int:
    """The SSL_CTX of a Python context: the first field after the object's head, proved by three of its settings."""
    if sys.implementation.name != "cpython":
        raise NotSupported(f"{_REFUSED} (no CPython)")
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    if not address or address % 8 or not _is_writable_memory(address):
        raise NotSupported(f"{_REFUSED} (unknown layout of its contexts)")
    library = _libssl()
    modes = {ssl.CERT_NONE: 0, ssl.CERT_OPTIONAL: 1, ssl.CERT_REQUIRED: 3}
    settings_agree = (
        library.SSL_CTX_get_options(address) & 0xFFFFFFFF == context.options & 0xFFFFFFFF
        and library.SSL_CTX_get_verify_mode(address) == modes[context.verify_mode]
        and library.SSL_CTX_get_security_level(address) == context.security_level
    )
    if not settings_agree:
        raise NotSupported(f"{_REFUSED} (unknown layout of its contexts)")
    return address


def request_client_certificates(context: ssl.SSLContext) -> None:
    """Have a server context ask each client for a certificate and accept any or none. Raises NotSupported."""
    library = _libssl()
    address = _native_context(context)
    if library.RAND_status() != 1:
        raise NotSupported(f"{_REFUSED} (no random numbers yet)")
    context.verify_mode = ssl.CERT_OPTIONAL
    # RAND_status() takes nothing and returns 1, "accepted": no Python code runs inside the handshake.
    accept = ctypes.cast(library.RAND_status, ctypes.c_void_p)
    library.SSL_CTX_set_cert_verify_callback(address, accept, None)


def prove(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Make a handshake in memory with a self-signed client certificate; NotSupported where it is not seen."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.load_cert_chain(certificate, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = context.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server)
    try:
        _shake_hands(client_end, server_end)
        shown = server_end.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        raise NotSupported(f"{_REFUSED} ({error})") from error
    if shown != ssl.PEM_cert_to_DER_cert(certificate.read_text()):
        raise NotSupported(f"{_REFUSED} (the client's certificate is not seen)")


def _shake_hands(*ends: Any) -> None:
    open_ends = list(ends)
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not open_ends:
            return

"""The TLS of the API: version 1.3, the server's certificate, and a request for the client's."""

import ssl

from corral.server.auth.server_certificate import ServerCertificate
from corral.server.host import client_certificates


def make_context(certificate: ServerCertificate, *, allow_tls12: bool = False) -> ssl.SSLContext:
    """The context of the HTTPS listener, proved by a handshake in memory; raises NotSupported where it cannot work.

    Sessions are not resumed: each connection shows its certificate, and trust is looked up for each request.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if allow_tls12 else ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate.certificate_path, certificate.key_path)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    client_certificates.request_client_certificates(context)
    client_certificates.prove(context, certificate.certificate_path, certificate.key_path)
    return context

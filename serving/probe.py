"""`python -m serving.probe`: exit 0 if the service on this machine is ready, 1 if not.

For health checks in containers, which have no curl. It reads the service's own variables (flags it
cannot know) and imports little, since it is started every few seconds beside a service that wants
the processor.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

TIMEOUT_S = 2.0
_EVERY_ADDRESS = {"", "0.0.0.0", "::"}


def probe(environ: Mapping[str, str]) -> str:
    """Why the service is not ready; empty if it is."""
    host = environ.get("UNMIX_HOST", "127.0.0.1")
    port = int(environ.get("UNMIX_HTTP_PORT", "8000"))
    connection = _connection("127.0.0.1" if host in _EVERY_ADDRESS else host, port, environ)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"port {port} does not answer: {type(error).__name__}"
    finally:
        connection.close()
    return "" if status == 200 else f"/readyz answers {status}"


def _connection(host: str, port: int, environ: Mapping[str, str]) -> http.client.HTTPConnection:
    if not environ.get("UNMIX_TLS_CERTIFICATE"):
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    # It asks its own machine, by an address that no certificate need name: there is nobody to tell
    # apart, and the question holds nothing.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)


if __name__ == "__main__":
    fault = probe(os.environ)
    if fault:
        sys.exit(f"not ready: {fault}")

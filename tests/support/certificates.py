"""Certificates of a test's own, made by OpenSSL; and which one a server shows."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

_COMMAND = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    " -addext subjectAltName=IP:127.0.0.1"
)


def new_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = [*_COMMAND.split(), "-subj", f"/CN={name}", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


def der(certificate: Path) -> bytes:
    """A certificate as a server shows it."""
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def trusting() -> ssl.SSLContext:
    """A client's context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def shown(port: int) -> bytes:
    """The certificate that a new connection gets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
    del reader
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found

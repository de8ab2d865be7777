"""The certificate of an internal address: made at the process's start, and trusted by its copy in the database."""

import secrets
import ssl
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.models import utc_now

_LIFETIME: Final = timedelta(days=3650)
"""Longer than any process runs; a restart makes a new one."""


def make_certificate() -> tuple[str, ssl.SSLContext]:
    """Return a new self-signed certificate (PEM) and the TLS context of its server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gologin-automation")])
    now = utc_now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(secrets.randbits(64))
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with TemporaryDirectory() as folder:  # for this user alone; the library reads keys from files only
        path = Path(folder) / "key-and-certificate.pem"
        path.write_bytes(secret + text.encode())
        context.load_cert_chain(path)
    return text, context


def trusting(certificate: str) -> ssl.SSLContext:
    """Return the TLS context of a client that accepts this certificate and no other. Raises `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the one certificate stands for the one address
    context.load_verify_locations(cadata=certificate)
    return context

"""A certificate that nobody else trusts, made here; for tests of HTTPS."""

import shutil

import pytest
from environments import run


def self_signed(folder, *, passphrase=""):
    """Make `cert.pem` for this computer alone and its `key.pem` in `folder`; return both paths."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    cert, key = folder / "cert.pem", folder / "key.pem"
    hidden = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *hidden)
    names = ("-subj", "/CN=this computer", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    run("openssl", "req", "-x509", "-days", "2", *kind, *names, "-keyout", key, "-out", cert)
    return cert, key

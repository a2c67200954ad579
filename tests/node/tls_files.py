"""Certificates made for one test run with the `openssl` tool: authorities, and what they sign."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
[peer]
basicConstraints = CA:false
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


@dataclass(frozen=True)
class Pair:
    """PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for localhost; its files lie in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        (folder / f"{name}.cnf").write_text(_CONFIG)
        self._own = self._key(name)
        self._request(self._own)
        self._sign(self._own, 365, "authority", "-signkey", str(self._own.key))

    @property
    def ca(self) -> Path:
        """Its own certificate."""
        return self._own.certificate

    def issue(self, name: str, days: int = 365) -> Pair:
        """A new key, and a certificate that is good for so many days from now; less than 0: it has expired."""
        pair = self._key(f"{self._name}-{name}")
        self._request(pair)
        signer = ("-CA", str(self._own.certificate), "-CAkey", str(self._own.key), "-CAcreateserial")
        self._sign(pair, days, "peer", *signer)
        return pair

    def _key(self, name: str) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(pair.key))
        return pair

    def _request(self, pair: Pair) -> None:
        subject = ("-subj", f"/CN={pair.key.stem}", "-config", str(self._folder / f"{self._name}.cnf"))
        _openssl("req", "-new", "-key", str(pair.key), *subject, "-out", str(pair.key.with_suffix(".csr")))

    def _sign(self, pair: Pair, days: int, section: str, *signer: str) -> None:
        extensions = ("-extfile", str(self._folder / f"{self._name}.cnf"), "-extensions", section)
        request, out = str(pair.key.with_suffix(".csr")), str(pair.certificate)
        _openssl("x509", "-req", "-in", request, "-days", str(days), *extensions, *signer, "-out", out)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

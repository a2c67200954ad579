"""DICOM or HL7 over TLS, towards a peer that the node calls."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from config.setting_types import Section


class PeerTls(Section):
    """TLS (1.2 or newer) with a peer that the node calls. Files are PEM, read at each call."""

    ca: Path | None = None
    """Certificates of the authority that signed the peer's certificate; none: the public ones."""
    certificate: Path | None = None
    """The node's certificate, if the peer asks for one."""
    key: Path | None = None
    """Its private key, without a password."""
    verify: bool = True
    """False: any certificate is taken. That hides the data from who listens, not from who answers in the peer's
    place."""
    name: str = ""
    """Name that stands in the peer's certificate; empty: its `host`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """ValueError for half a setting."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give `certificate` and `key`, or none of them")
        if not self.verify and (self.ca is not None or self.name):
            raise ValueError("`ca` and `name` mean nothing with verify: false")
        return self

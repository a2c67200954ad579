"""What settings are made of: sections, names, addresses, secrets."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

AETitle = Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]
"""1 to 16 printable characters without backslash (DICOM PS3.5, VR AE)."""
UID = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=64)]
"""A DICOM UID (PS3.5 section 9)."""
Port = Annotated[int, Field(ge=0, le=65535)]
Secret = Annotated[str, Field(pattern=r"^((env|file):.+)?$")]
"""Where a secret is read from, each time it is needed: `env:NAME` or `file:/path`; never the secret itself."""
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
"""A name of the settings that stands in addresses and commands: 1 to 32 letters, digits, dashes, underscores."""
SERVICE_URL = r"^https?://[^/?#@\s]+(/[^?#\s]*)?$"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class HttpAccess(Section):
    """How the node makes itself known to an HTTP service, and how it knows the service."""

    user: str = ""
    """User name (HTTP Basic), with `password`; empty: none."""
    password: Secret = ""
    """Where the password is read from: `env:NAME` or `file:/path`."""
    token: Secret = ""
    """Where a bearer token is read from instead: `env:NAME` or `file:/path`."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authority that signed the service's certificate; none: the public ones."""

    def check_access(self, setting: str, url: str) -> None:
        """ValueError for half an authorisation, two of them, or one that anybody on the way could read."""
        if bool(self.user) != bool(self.password) or (self.user and self.token):
            raise ValueError("give `user` and `password`, or `token`, or none of them")
        parts = urlsplit(url)
        if (self.user or self.token) and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"{setting}: use https, so that nobody on the way can read the authorisation")

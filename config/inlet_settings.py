"""Settings of the ways in beside DIMSE: Orthanc, watched folders, DICOMweb."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from config.setting_types import LOOPBACK, SERVICE_URL, AETitle, HttpAccess, Port, Secret, Section


class OrthancSource(HttpAccess):
    """An Orthanc whose stable CT series are fetched over its REST interface."""

    url: Annotated[str, Field(pattern=SERVICE_URL)]
    """Its address. Example: http://127.0.0.1:8042"""
    ae_title: AETitle = "ORTHANC"
    """The AE title under which its images are known here (priorities, `sources`)."""
    from_start: bool = False
    """True: at first contact everything that it holds is fetched; False: what becomes stable from then on."""
    poll_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between two looks at its changes; its plugin makes the node look at once."""
    settle_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds after which it is asked about an image that belongs to no stable series yet: an Orthanc that was started
    again no longer tells when a series becomes stable."""
    at_once: Annotated[int, Field(ge=1, le=16)] = 4
    """Images that are fetched at the same time."""
    storage_dir: Path | None = None
    """Its storage folder, if the node can read it: images are copied from there, checked by their MD5, instead of over
    HTTP."""
    plugin_token: Secret = ""
    """Where the token is read from that its plugin shows to the node; empty: none, and the node's `web.host` must be
    loopback."""

    @model_validator(mode="after")
    def _access(self) -> Self:
        self.check_access("url", self.url)
        return self


class WatchedFolder(Section):
    """A folder whose DICOM files are taken. Files taken go to `done`, others to `rejected`, both in it."""

    path: Path
    """The folder, with its subfolders; it must be on a disk that the node can write."""
    ae_title: AETitle = "FOLDER"
    """The AE title under which its images are known here."""
    settle_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds that a file must stay as it is (size and times) before it counts as whole; nobody may hold it open for
    writing. Names that begin with a dot or end in .part, .tmp or .filepart are left alone."""
    poll_s: Annotated[float, Field(gt=0)] = 2.0
    """Seconds between two looks."""


class WebSettings(Section):
    """The way in over HTTP: DICOMweb (STOW-RS), and what the plugin of an Orthanc asks and tells."""

    enabled: bool = False
    """True: it listens."""
    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback every caller must show a token."""
    port: Port = 8113
    """TCP port; 0 takes a free one."""
    certificate: Path | None = None
    """The node's certificate (PEM, with intermediate authorities behind it): HTTPS; none: plain HTTP."""
    key: Path | None = None
    """Its private key, without a password."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which it may be called, beside localhost and plain addresses (DNS rebinding)."""
    senders: dict[AETitle, Secret] = {}  # noqa: RUF012 - pydantic copies it
    """Who may send by STOW-RS: the AE title under which a sender is known here, and where its bearer token is read
    from. None: whoever is on this machine, known as STOWRS."""
    max_object_mb: Annotated[int, Field(ge=1)] = 2048
    """Largest object that is taken, MB."""
    max_requests: Annotated[int, Field(ge=1, le=256)] = 16
    """Requests at once; more are answered with 503."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without a byte after which a request is given up."""

    @model_validator(mode="after")
    def _closed(self) -> Self:
        """ValueError for a door that anybody in the network could use, or half a certificate."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give `certificate` and `key`, or none of them")
        if not all(self.senders.values()):
            raise ValueError("senders: name for each where its token is read from (env:NAME or file:/path)")
        if self.enabled and self.host not in LOOPBACK and not self.senders:
            raise ValueError("name `senders` with their tokens before it listens beyond this machine")
        return self

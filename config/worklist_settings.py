"""Settings of the worklists on which the node takes work: Unified Procedure Step over HTTP (UPS-RS) or over DIMSE."""

from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import Field, model_validator

from config.setting_types import SERVICE_URL, AETitle, HttpAccess, PeerTls, Port, Section, SourceName

CodeText = Annotated[str, Field(pattern=r"^[^\\^]{1,16}\^[^\\^]{1,16}\^[^\\^]{1,64}$")]
"""A code as `VALUE^SCHEME^MEANING`."""


class _Tasks(Section):
    """Which workitems the node performs, and how."""

    station: CodeText
    """The node as a station, `VALUE^SCHEME^MEANING`: workitems that are scheduled for another station are left alone.
    Example: FVLM1^99HOSPITAL^fVLM Node"""
    procedures: tuple[CodeText, ...] = ()
    """Workitem codes that the node performs, also where no station is named; none: all that name this station."""
    poll_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between two looks at the worklist, and before another try while it is away."""
    at_once: Annotated[int, Field(ge=1, le=100)] = 8
    """Workitems that the node holds at the same time; the others stay for other performers."""
    source: SourceName | None = None
    """A name of `sources` from which input series that are not there are fetched, as `fvlm-node pull` does; none: they
    are waited for."""
    images_wait_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds after which a workitem whose input series did not come is cancelled (INPUTS_MISSING)."""


class WebWorklist(_Tasks, HttpAccess):
    """A worklist that speaks UPS-RS (PS3.18 section 11)."""

    kind: Literal["rs"]
    """The protocol."""
    url: Annotated[str, Field(pattern=SERVICE_URL)]
    """Its address, without `workitems`. Example: https://pacs.example.org/dicom-web"""
    events: bool = True
    """True: the node subscribes and keeps its event channel (WebSocket) open: work is taken at once, and cancel
    requests are heard. Without it, or while it does not come about, only `poll_s` counts."""
    events_url: Annotated[str, Field(pattern=r"^(wss?://[^/?#@\s]+(/[^?#\s]*)?)?$")] = ""
    """Address of the event channel up to the subscriber's AE title; empty: `url` with `/subscribers`."""

    @model_validator(mode="after")
    def _access(self) -> Self:
        self.check_access("url", self.url)
        self.check_access("events_url", self.events_url.replace("ws", "http", 1))
        return self

    @property
    def where(self) -> str:
        """For a person."""
        return self.url

    def channel(self, ae_title: str) -> str:
        """The address of the event channel of a subscriber (PS3.18 section 8.10.4)."""
        base = self.events_url or "ws" + self.url.rstrip("/").removeprefix("http") + "/subscribers"
        return f"{base.rstrip('/')}/{quote(ae_title, safe='')}"


class DimseWorklist(_Tasks):
    """A worklist that is an SCP of the Unified Procedure Step service class (PS3.4 annex CC)."""

    kind: Literal["dimse"]
    """The protocol."""
    ae_title: AETitle
    """Its AE title."""
    host: str
    """Its address."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Its TCP port."""
    tls: PeerTls | None = None
    """DICOM over TLS (`{}` for the public authorities) for what the node asks; none: plain."""
    events_port: Port | None = None
    """TCP port, on `dicom.host`, on which the worklist tells its events (plain DICOM; they name no patient): work is
    taken at once, and cancel requests are heard. None: the node does not subscribe, only `poll_s` counts."""
    events_ae_title: AETitle = "FVLMEVENTS"
    """The AE title of that port, by which the worklist has to know it."""

    @property
    def where(self) -> str:
        """For a person."""
        return f"{self.ae_title} at {self.host}:{self.port}"


Worklist = Annotated[WebWorklist | DimseWorklist, Field(discriminator="kind")]

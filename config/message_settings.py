"""Settings of messages: who is told of results beside the archives, of urgent findings, and of failures."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator

from config.setting_types import LOOPBACK, SERVICE_URL, HttpAccess, PeerTls, Secret, Section, SourceName
from config.vocabulary import load_vocabulary

_SITE: tuple[IPv4Network | IPv6Network, ...] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
    IPv6Network("fc00::/7"),
)
_MAIL_ADDRESS = r"^[^@\s<>,;]+@[^@\s<>,;]+$"
MailAddress = Annotated[str, Field(pattern=_MAIL_ADDRESS, max_length=254)]
ServiceUrl = Annotated[str, Field(pattern=SERVICE_URL)]


class Level(StrEnum):
    """How much of whose study it is leaves in a message; each level holds those before it."""

    NONE = "none"
    """A job number of the node, which means nothing to anybody else."""
    IDENTIFIERS = "identifiers"
    """Study and Series Instance UID, accession number."""
    PATIENT = "patient"
    """The patient ID and who issued it."""


class _AboutResults(Section):
    level: Level = Level.NONE
    """What is told of whose study it is. `none`: a job number; `identifiers`: also Study and Series Instance UID and
    accession number; `patient`: also the patient ID. Names, birth dates and study dates are never told."""


class _Web(_AboutResults):
    networks: tuple[IPvAnyNetwork, ...] = _SITE
    """Networks in which the address of its host must lie; the site's private ones until told otherwise. A host that is
    this machine (127.0.0.1, ::1, localhost) needs none."""


def _private(setting: str, url: str) -> None:
    """ValueError for a URL over which anybody on the way could read."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError(f"{setting}: use https; plain http is for this machine only")


class WebhookDestination(_Web):
    """An HTTP service that is sent JSON, signed as Standard Webhooks has it (HMAC-SHA256)."""

    kind: Literal["webhook"]
    """`webhook`"""
    url: ServiceUrl
    """Where to: https, or this machine. Redirects are not followed. Example: https://hooks.example.org/fvlm"""
    secret: Annotated[Secret, Field(min_length=1)]
    """Where the secret of the signature is read from: `env:NAME` or `file:/path`; `whsec_` and base64, or a text of at
    least 24 characters."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authority that signed the service's certificate; none: the public ones."""

    @property
    def where(self) -> str:
        """For a person."""
        return self.url

    @model_validator(mode="after")
    def _safe(self) -> Self:
        _private("url", self.url)
        return self


class Hl7Destination(_AboutResults):
    """An HL7 v2 receiver: ORU^R01 (2.5.1) over MLLP."""

    kind: Literal["hl7"]
    """`hl7`"""
    host: Annotated[str, Field(min_length=1)]
    """Its address."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Its TCP port."""
    application: Annotated[str, Field(max_length=180)] = ""
    """Its name, MSH-5."""
    facility: Annotated[str, Field(max_length=180)] = ""
    """Its facility, MSH-6."""
    sender: Annotated[str, Field(min_length=1, max_length=180)] = "FVLM"
    """The node's name, MSH-3."""
    sender_facility: Annotated[str, Field(max_length=180)] = ""
    """The node's facility, MSH-4."""
    tls: PeerTls | None = None
    """MLLP over TLS (`{}` for the public authorities); none: plain."""

    @property
    def where(self) -> str:
        """For a person."""
        return f"{self.host}:{self.port}"


class FhirDestination(_Web, HttpAccess):
    """A FHIR R4 server: DiagnosticReport, Observations and Device as one transaction."""

    kind: Literal["fhir"]
    """`fhir`"""
    base_url: ServiceUrl
    """Its base: https, or this machine. Example: https://fhir.example.org/r4"""

    @property
    def where(self) -> str:
        """For a person."""
        return self.base_url

    @model_validator(mode="after")
    def _safe(self) -> Self:
        _private("base_url", self.base_url)
        self.check_access("base_url", self.base_url)
        return self


class MailDestination(Section):
    """Mail about failures of the node, never about results: numbers, reason codes, cures."""

    kind: Literal["mail"]
    """`mail`"""
    host: Annotated[str, Field(min_length=1)]
    """SMTP server."""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    """Its TCP port."""
    starttls: bool = True
    """False: not encrypted, and then without user and password."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authority that signed the server's certificate; none: the public ones."""
    user: str = ""
    """User name, with `password`; empty: none."""
    password: Secret = ""
    """Where the password is read from: `env:NAME` or `file:/path`."""
    sender: MailAddress
    """From whom."""
    recipients: Annotated[tuple[MailAddress, ...], Field(min_length=1)]
    """To whom."""
    every_min: Annotated[float, Field(gt=0)] = 60.0
    """Minutes between two mails at least; what fails in between is told in the next one."""

    @property
    def where(self) -> str:
        """For a person."""
        return f"{', '.join(self.recipients)} by {self.host}:{self.port}"

    @model_validator(mode="after")
    def _access(self) -> Self:
        if bool(self.user) != bool(self.password):
            raise ValueError("give `user` and `password`, or none of them")
        if self.user and not self.starttls and self.host not in LOOPBACK:
            raise ValueError("user and password need starttls: true")
        return self


ResultDestination = WebhookDestination | Hl7Destination | FhirDestination
MessageDestination = Annotated[ResultDestination | MailDestination, Field(discriminator="kind")]


class UrgentSettings(Section):
    """Findings of which somebody is told at once, before and beside the result's own message."""

    findings: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}  # noqa: RUF012 - pydantic copies it
    """Finding (`anatomy.finding`) and the probability from which on it is urgent. One that the release calls absent is
    not. Example: {lung.pneumothorax: 0.9}"""
    destinations: tuple[str, ...] = ()
    """Names from `messages.destinations` that are told."""

    @field_validator("findings")
    @classmethod
    def _known(cls, findings: dict[str, float]) -> dict[str, float]:
        known = {finding.key for finding in load_vocabulary().findings}
        if unknown := sorted(set(findings) - known):
            raise ValueError(f"{', '.join(unknown)}: no such finding; docs/codes.md lists them")
        return findings

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.findings) != bool(self.destinations):
            raise ValueError("give `findings` and `destinations`, or none of them")
        return self


class MessageSettings(Section):
    """Messages beside the DICOM objects. None is sent until `results`, `urgent` or a `mail` destination says so."""

    destinations: dict[SourceName, MessageDestination] = {}  # noqa: RUF012 - pydantic copies it
    """Receivers of messages by name; no name may stand under the node's `destinations` as well."""
    results: tuple[str, ...] = ()
    """Names that get a message for each result."""
    urgent: UrgentSettings = UrgentSettings()

    @model_validator(mode="after")
    def _named(self) -> Self:
        for where, names in (("results", self.results), ("urgent.destinations", self.urgent.destinations)):
            for name in names:
                if name not in self.destinations:
                    raise ValueError(f"{where}: {name} not under `messages.destinations`; add it")
                if isinstance(self.destinations[name], MailDestination):
                    raise ValueError(f"{where}: {name}: mail tells of failures only")
        return self

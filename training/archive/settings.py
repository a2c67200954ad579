"""What `train collect` is told: a YAML file, over it the options of the command line."""

from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.settings import AETitle, PeerTls, Port, Secret
from training.archive.entries import CollectError, Days


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Pacs(_Section):
    """An archive that is a DICOM node."""

    ae_title: AETitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    calling: AETitle = "FVLM_COLLECT"
    """AE title to call oneself; the archive has to know it."""
    retrieve: Literal["get", "move"] = "get"
    """C-GET over the same connection, or C-MOVE to `listen_host` and `listen_port` under the name of `calling`."""
    listen_host: str = "127.0.0.1"
    """Address to listen on for C-MOVE. Loopback until told otherwise."""
    listen_port: Port = 11113
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest silence of the archive, seconds; some fetch from tape first."""
    tls: PeerTls | None = None
    """Speak TLS with the archive; with retrieve: get only."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.tls is not None and self.retrieve == "move":
            raise ValueError("with tls use retrieve: get; what C-MOVE sends would come without encryption")
        return self


class DicomWeb(_Section):
    """An archive with QIDO-RS and WADO-RS."""

    url: Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$")]
    """Example: https://pacs.example.org/dicom-web"""
    user: str = ""
    """User name (HTTP Basic), with `password`."""
    password: Secret = ""
    """Where the password is read from: `env:NAME` or `file:/path`."""
    token: Secret = ""
    """Where a bearer token is read from instead: `env:NAME` or `file:/path`."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authority that signed the service's certificate; none: the public ones."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0

    @model_validator(mode="after")
    def _authorisation(self) -> Self:
        if bool(self.user) != bool(self.password) or (self.user and self.token):
            raise ValueError("give `user` and `password`, or `token`, or none of them")
        return self


class PaceSettings(_Section):
    """How hard the archive is pulled at."""

    images_per_second: Annotated[float, Field(gt=0)] | None = None
    """At most, on average; None: as fast as it goes."""
    night_from: time | None = None
    """Local time from which on images may be fetched; with `night_to`. Example: "20:00"."""
    night_to: time | None = None
    """Local time from which on they may not. Example: "06:00"."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.night_from is None) != (self.night_to is None) or (
            self.night_from is not None and self.night_from == self.night_to
        ):
            raise ValueError("give `night_from` and `night_to`, which differ, or none of them")
        return self


class CollectSettings(_Section):
    """One collection: where it goes, where it comes from."""

    out: Path
    """Folder of the collection."""
    private: Path | None = None
    """Folder of salt, ledger and images on their way, all with patient data; None: `out` with `.private` at its end."""
    pacs: Pacs | None = None
    dicomweb: DicomWeb | None = None
    folder: Path | None = None
    """Folder with DICOM files, searched with subfolders."""
    reports: tuple[Path, ...] = ()
    """Files or folders: HL7 v2 ORU, FHIR, CDA, PDF in DICOM, SR; CSV by its suffix. Reports in the archive are found
    without it."""
    columns: dict[str, str] = {}
    """Names of the CSV's columns where they differ: study_instance_uid, accession_number, patient_id, study_date,
    findings, impression, text, language."""
    feedback: Path | None = None
    """What `fvlm-node feedback export` wrote."""
    first: date | None = None
    """Earliest day of study."""
    last: date | None = None
    """Latest day of study."""
    pace: PaceSettings = PaceSettings()
    min_slices: Annotated[int, Field(ge=2)] = 20
    """Fewest slices of a series."""
    issued_within_days: Annotated[int, Field(ge=0)] = 30
    """A report joined by accession number that does not say the day of the examination must have been issued on the
    day of the study or at most so many days later."""
    unverified: bool = False
    """True: reports that nobody has verified or called final are taken as well."""
    validate_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the subjects in the split `validate`."""
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the subjects in the split `test`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum(one is not None for one in (self.pacs, self.dicomweb, self.folder)) != 1:
            raise ValueError("name one archive: pacs, dicomweb or folder")
        if self.first and self.last and self.first > self.last:
            raise ValueError("`first` is after `last`")
        if self.validate_share + self.test_share >= 1:
            raise ValueError("validate_share and test_share leave nothing to train on")
        out, private = self.out.resolve(), self.private_folder.resolve()
        if private == out or out in private.parents:
            raise ValueError("`private` lies inside of `out`: salt and ledger must not travel with the collection")
        return self

    @property
    def private_folder(self) -> Path:
        return self.private or self.out.with_name(f"{self.out.name}.private")

    @property
    def days(self) -> Days:
        return Days(self.first, self.last)


def load(config: Path | None, options: dict[str, Any]) -> CollectSettings:
    """The settings of a file with options over them; an option that is None says nothing. Raises CollectError."""
    values: dict[str, Any] = {}
    if config is not None:
        try:
            content = yaml.safe_load(config.read_bytes())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise CollectError(f"{config} cannot be read as YAML ({type(error).__name__})") from error
        if not isinstance(content, dict | None):
            raise CollectError(f"{config} holds no settings by name (`key: value`)")
        values = content or {}
    given = {key: value for key, value in options.items() if value is not None}
    if {"pacs", "dicomweb", "folder"} & given.keys():
        values = {key: value for key, value in values.items() if key not in ("pacs", "dicomweb", "folder")}
    try:
        return CollectSettings.model_validate(values | given)
    except ValidationError as error:
        where = f"{config}: " if config is not None else ""
        told = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ")
            for one in error.errors(include_input=False)
        )
        raise CollectError(f"{where}{told}") from error

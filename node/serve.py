"""`fvlm-node serve`: the whole node in one command: a supervisor that starts, restarts and ends every process.

Processes: the embedded broker, receiver, inlets, reconciler, deliver worker, messenger, analyze worker, console. Their
logs are in `data_dir/logs`. With `only` a role: the supervisor of this one process, which logs to the standard error.
"""

import errno
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from urllib.parse import quote

import structlog
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from config import Settings
from config.inlet_settings import WebSettings
from config.secret import SecretError, read_secret
from config.settings import DicomSettings
from node.broker import BrokerError, EmbeddedBroker
from node.children import ForkedChild, listens
from node.console.notice import Notice, console_url
from node.console.password import USER, PasswordFile
from node.database import Records, open_database
from node.errors import CommandError
from node.leases import hand_back
from node.logs import configure_logs
from node.migrations import upgrade
from node.node_lock import locked, settings_file
from node.processes import name_process
from node.releases import shadow_wish
from node.releases.registry import path_in_force
from node.roles import MANY, MOST_OF_NAME, ROLES, wanted, worker_name
from node.rules.book import book_in_force, open_rulebook, take_configured
from node.tasks import SHADOW
from node.tls import TlsError, server_context
from node.worker import run_role, write_settings

_log = structlog.get_logger(__name__)

_SECTIONS = {"inlets": "web, orthancs, folders", "messenger": "messages", "console": "console.enabled"}
"""Where the settings say whether a role is wanted."""
_FIRST_RESTART_S = 0.5
_STABLE_S = 60.0
"""A process that lived this long is restarted at once when it dies."""
_RECEIVER_ENDS_S, _REST_ENDS_S = 12.0, 8.0
"""How long processes may take to end. Whoever takes longer is killed, which loses nothing."""
_READY_S = 60.0


@dataclass
class _Post:
    """A role, who holds it, and when it is filled again."""

    role: str
    child: ForkedChild
    started: float
    wait_s: float = _FIRST_RESTART_S
    restart_at: float | None = None


def serve(settings: Settings, config_file: Path | None = None, only: str = "", name: str = "") -> None:
    """Run the node until SIGTERM or Ctrl-C; must be called in the main thread.

    `only`: one of ROLES, to run the node in parts that meet in data folder, database and broker; workers of one role on
    one machine each have a `name`. Raises CommandError, with cause and cure, if it cannot start: data folder, port,
    database, broker; and config.rules.RulesError.
    """
    open_rulebook(settings)  # a bad one is refused before anything is begun
    part = _part(settings, only, name)
    name_process(f"serve {only}" if only else "serve")
    configure_logs()
    os.umask(0o077)  # inherited by every process of the node
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    console = Console()
    with _data_folder(settings.data_dir, part):
        settings = _with_ports(settings, only)
        if only in ("", "reconciler"):
            _take_rules(settings)
        try:
            _migrate(settings)
        except CommandError:
            if only != "receiver":  # which takes images while the database is away, from the start
                raise
            _log.warning("database_away", role=only)
        broker = None if settings.broker_url else EmbeddedBroker(settings.data_dir)
        try:
            if broker is not None:
                broker.start()
        except BrokerError as error:
            raise CommandError(f"The broker cannot be started: {error}.", "Or set broker_url to your Redis.") from error
        password = _new_password(settings) if only in ("", "console") else ""
        supervisor = _Supervisor(settings, broker, part, only, name)
        try:
            supervisor.start(ended)
            if only:
                _log.info("part_runs", role=only)
                if password:
                    console.print(f"Console: user {USER}, password {password} (shown this once)", highlight=False)
            elif not ended.is_set():
                console.print(_summary(settings, config_file, password))
            supervisor.watch(ended)
            if not only:
                console.print("Ending: senders and the job under way get a few seconds.", highlight=False)
        finally:
            supervisor.stop()
    if only:
        _log.info("part_ended", role=only)
    else:
        console.print("fVLM Node ended; nothing received is lost.", highlight=False)


def _part(settings: Settings, only: str, name: str) -> str:
    """The name of this part of the node, empty for a whole node. Raises CommandError if it cannot run apart."""
    if not only:
        if name:
            raise CommandError("--name is for one worker of several.", "Add --only analyze or --only deliver.")
        return ""
    if only not in ROLES:
        raise CommandError(f"--only {only}: there is no such role.", f"One of {', '.join(ROLES)}.")
    if not settings.broker_url:
        raise CommandError(
            "The parts of a node meet in a broker of their own, and broker_url is empty.",
            "Set broker_url to your Redis or RabbitMQ; without --only the node brings its own.",
        )
    if only != SHADOW and only not in wanted(settings):
        raise CommandError(f"The settings have no work for {only}.", f"Start it when they do: see `{_SECTIONS[only]}`.")
    if only not in MANY:
        if name:
            raise CommandError(f"A node has one {only}, which takes no --name.", "Leave --name away.")
        return only
    if not re.fullmatch(rf"[A-Za-z0-9._-]{{0,{MOST_OF_NAME}}}", name):
        raise CommandError(
            f"--name {name}: a name has at most {MOST_OF_NAME} letters, digits, dots, dashes or underscores.",
            "For example --name 2",
        )
    return quote(worker_name(only, settings.data_dir, name), safe=":")


def _with_ports(settings: Settings, only: str) -> Settings:
    """With the ports that this process, or its children, will listen on. Raises CommandError."""
    if only in ("", "receiver"):
        settings = settings.model_copy(update={"dicom": _usable_doors(settings.dicom)})
    if only in ("", "inlets"):
        settings = settings.model_copy(update={"web": _usable_web(settings.web)})
    if only in ("", "console"):
        console = settings.console.model_copy(update={"port": _console_port(settings)})
        settings = settings.model_copy(update={"console": console})
    return settings


class _Supervisor:
    def __init__(self, settings: Settings, broker: EmbeddedBroker | None, part: str, only: str, name: str) -> None:
        self._settings, self._broker, self._only, self._name = settings, broker, only, name
        self._logs = settings.data_dir / "logs"
        self._file = settings_file(settings.data_dir, part)
        self._posts: list[_Post] = []

    def start(self, ended: Event) -> None:
        """Start every role and wait until the receiver listens, or until `ended`."""
        write_settings(self._settings, self._file)
        roles = [self._only] if self._only else wanted(self._settings)
        if not self._only:
            self._logs.mkdir(exist_ok=True)
        self._posts = [_Post(role, self._spawn(role), time.monotonic()) for role in roles]
        host, port = _probe_address(self._settings.dicom.host), self._settings.dicom.open_port
        deadline = time.monotonic() + (_READY_S if "receiver" in roles else 0.0)
        while not listens(port, host) and time.monotonic() < deadline and not ended.wait(0.05):
            self._tend()

    def watch(self, ended: Event) -> None:
        """Restart what dies, until `ended`."""
        while not ended.wait(0.2):
            self._tend()

    def stop(self) -> None:
        """End everything: first whoever takes images, last the broker."""
        for post in self._posts[:1]:
            post.child.stop(_RECEIVER_ENDS_S)
        for post in self._posts[1:]:
            if post.child.running:
                post.child.process.terminate()
        deadline = time.monotonic() + _REST_ENDS_S
        for post in self._posts[1:]:
            post.child.stop(max(0.0, deadline - time.monotonic()))
        if self._only in ("", "analyze"):
            self._hand_back()
        if self._broker is not None:
            self._broker.stop()
        self._file.unlink(missing_ok=True)

    def _hand_back(self) -> None:
        """A job that was under way when its worker was killed here has not failed: it waits again."""
        engine = open_database(self._settings.database)
        try:
            with Records(engine).session() as session:
                jobs = hand_back(session, worker_name("analyze", self._settings.data_dir, self._name))
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)
        else:
            if jobs:
                _log.info("jobs_wait_again", jobs=jobs)
        finally:
            engine.dispose()

    def _spawn(self, role: str) -> ForkedChild:
        run = partial(run_role, role, self._file, self._name)
        return ForkedChild(role, run, None if self._only else self._logs / f"{role}.log")

    def _tend(self) -> None:
        if self._broker is not None and self._broker.process is not None and self._broker.process.poll() is not None:
            _log.error("broker_died", status=self._broker.process.returncode)
            try:
                self._broker.start()
            except BrokerError as error:
                _log.error("broker_does_not_start", detail=str(error))
        if not self._only:
            self._tend_shadow()
        for post in self._posts:
            if post.child.running:
                continue
            now = time.monotonic()
            if post.restart_at is None:
                if now - post.started > _STABLE_S:
                    post.wait_s = _FIRST_RESTART_S
                post.restart_at = now + post.wait_s
                _log.error(
                    "process_died",
                    role=post.role,
                    status=post.child.status,
                    detail=post.child.last_line(),
                    seconds=post.wait_s,
                )
            elif now >= post.restart_at:
                post.child, post.started, post.restart_at = self._spawn(post.role), now, None
                post.wait_s = min(self._settings.restart_max_s, 2 * post.wait_s)

    def _tend_shadow(self) -> None:
        """A process that reads in shadow as long as a release is in shadow."""
        wanted = shadow_wish.is_wanted(self._settings.data_dir)
        post = next((post for post in self._posts if post.role == SHADOW), None)
        if wanted and post is None:
            self._posts.append(_Post(SHADOW, self._spawn(SHADOW), time.monotonic()))
        elif not wanted and post is not None:
            if post.child.running:
                post.child.process.terminate()
            else:
                self._posts.remove(post)


@contextmanager
def _data_folder(folder: Path, part: str) -> Iterator[None]:
    """The data folder, private to this user and to this node, or this part of it. Raises CommandError if it is not to
    be had.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(folder)
        for inner in ("run", "results", "spool"):
            (folder / inner).mkdir(exist_ok=True)
        (folder / "run" / "lock").touch()
    except OSError as error:
        raise CommandError(
            f"The data folder {folder.resolve()} cannot be written: {error.strerror}.",
            "Set data_dir to a folder of the user that runs the node.",
        ) from error
    with locked(folder, part) as mine:
        if not mine and part:
            raise CommandError(
                f"A whole node, or {part}, runs on the data folder {folder.resolve()} already.",
                "End it first; several workers of a role on one machine each need a --name.",
            )
        if not mine:
            raise CommandError(
                f"Another node runs on the data folder {folder.resolve()}.", "End it first, or set another data_dir."
            )
        yield


def _take_rules(settings: Settings) -> None:
    """Follow a change of the rules file; a later one counts from the next start. Raises CommandError, RulesError."""
    try:
        take_configured(settings)
    except OSError as error:
        raise CommandError(
            f"{error.filename}: {error.strerror}.", "Mend the disk, or the rights of the rules file."
        ) from error
    book_in_force(settings)  # saved rules that no longer fit the settings are refused too


def _close_to_others(folder: Path) -> None:
    """Mode 0700, also for a folder that was there; only a warning if it is somebody else's (a mounted volume)."""
    if folder.stat().st_mode & 0o077:
        try:
            folder.chmod(0o700)
        except PermissionError:
            _log.warning("data_folder_open_to_others", detail="it belongs to another user; set its mode to 0700")


def _usable_doors(dicom: DicomSettings) -> DicomSettings:
    """With the ports to listen on (free ones for 0). Raises CommandError if one, or the certificate, cannot be had."""
    tls = dicom.tls
    if tls.certificate is not None:
        try:
            server_context(tls)
        except TlsError as error:
            raise CommandError(f"{error}.", "Name readable files in dicom.tls, or remove the section.") from error
        tls = tls.model_copy(update={"port": _usable_port(dicom.host, tls.port, "dicom.tls.port")})
    port = dicom.port if tls.only else _usable_port(dicom.host, dicom.port, "dicom.port")
    return dicom.model_copy(update={"port": port, "tls": tls})


def _usable_web(web: WebSettings) -> WebSettings:
    """With the port to listen on. Raises CommandError if it, the certificate or a token cannot be had."""
    if not web.enabled:
        return web
    try:
        for source in web.senders.values():
            read_secret(source)
        if web.certificate is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(web.certificate, web.key)
    except SecretError as error:
        raise CommandError(f"web.senders: {error}.", "Put the token there, or correct the setting.") from error
    except OSError as error:
        raise CommandError(
            f"web.certificate or web.key cannot be used: {error.strerror or type(error).__name__}.",
            "Name readable PEM files that belong together.",
        ) from error
    return web.model_copy(update={"port": _usable_port(web.host, web.port, "web.port")})


def _usable_port(host: str, port: int, setting: str) -> int:
    """The port to listen on (a free one for 0). Raises CommandError if it cannot be had."""
    try:
        return _bindable(host, port)
    except OSError as error:
        cures = {
            errno.EADDRINUSE: f"End what listens there, or set another {setting}.",
            errno.EACCES: f"Ports below 1024 need a privilege; set {setting} to 11112 for example.",
        }
        cure = cures.get(error.errno or 0, "Set dicom.host to an address of this machine, or to 0.0.0.0.")
        raise CommandError(f"The node cannot listen on {host}:{port}: {error.strerror}.", cure) from error


def _bindable(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises OSError if it cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def _console_port(settings: Settings) -> int:
    """The console's port (a free one for 0). One that cannot be had stands in the way of nothing: the console waits."""
    try:
        return _bindable(settings.console.host, settings.console.port)
    except OSError:
        return settings.console.port


def _new_password(settings: Settings) -> str:
    """The console's password if this is the first start, else empty. Raises CommandError if it cannot be kept."""
    file = PasswordFile.of(settings.data_dir)
    if not settings.console.enabled or file.path.exists():
        return ""
    try:
        return file.generate()
    except OSError as error:
        raise CommandError(
            f"{file.path.resolve()} cannot be written: {error.strerror}.", "Mend the disk or its rights."
        ) from error


def _migrate(settings: Settings) -> None:
    engine = open_database(settings.database)
    try:
        upgrade(engine)
    except DBAPIError as error:
        where, what = make_url(settings.database).render_as_string(), type(error.orig).__name__
        raise CommandError(
            f"The database {where} cannot be used: {what}.", "Check database_url, and that its server runs."
        ) from error
    finally:
        engine.dispose()


def _probe_address(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _summary(settings: Settings, config_file: Path | None, password: str) -> Panel:
    """What listens where, who may send, where results go; the console's password if it is new."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    dicom = settings.dicom
    plain = [] if dicom.tls.only else [f"{dicom.ae_title} on {dicom.host}:{dicom.port} (C-STORE, C-ECHO)"]
    secure = [] if dicom.tls.certificate is None else [f"{dicom.ae_title} on {dicom.host}:{dicom.tls.port} (over TLS)"]
    table.add_row("Listens as", "\n".join(plain + secure))
    table.add_row("May send", ", ".join(dicom.accept_from))
    if inlets := _inlets(settings):
        table.add_row("Takes as well", "\n".join(inlets))
    targets = [(name, settings.destinations[name]) for name in settings.routing.destinations]
    places = [f"{peer.where} ({name})" for name, peer in targets]
    table.add_row("Results go to", "\n".join(places) or f"{settings.results_dir.resolve()} only: no destination is set")
    if (book := book_in_force(settings)) is not None:
        rules = book.rules
        table.add_row("Rules", f"version {rules.version}, {len(rules.rules)} rules, SHA-256 {rules.digest[:12]}")
    if told := _told(settings):
        table.add_row("Messages go to", told)
    table.add_row("Model", f"{settings.model.release}, segmenter {settings.model.segmenter}")
    table.add_row("Model", f"{_release_in_force(settings)}, segmenter {settings.model.segmenter}")
    table.add_row("Data", str(settings.data_dir.resolve()))
    table.add_row("Database", make_url(settings.database).render_as_string())
    broker = make_url(settings.broker_url).render_as_string() if settings.broker_url else "embedded Valkey"
    table.add_row("Broker", broker)
    table.add_row("Logs", str((settings.data_dir / "logs").resolve()))
    if settings.console.enabled:
        table.add_row("Console", _console(settings, password))
    table.add_row("Configuration", str(config_file) if config_file else "defaults and environment")
    table.add_row("Status", "fvlm-node status" + (f" --config {config_file}" if config_file else ""))
    return Panel(table, title=Text("fVLM Node runs; Ctrl-C ends it"), title_align="left", expand=False)


def _inlets(settings: Settings) -> list[str]:
    """Ways in beside DIMSE."""
    web = settings.web
    scheme = "http" if web.certificate is None else "https"
    found = [f"STOW-RS at {scheme}://{web.host}:{web.port}/dicom-web"] if web.enabled else []
    found += [f"CT series of the Orthanc at {source.url} ({name})" for name, source in settings.orthancs.items()]
    return found + [f"files put into {folder.path} ({name})" for name, folder in settings.folders.items()]


def _release_in_force(settings: Settings) -> str:
    engine = open_database(settings.database)
    try:
        with Records(engine).reading() as session:
            return path_in_force(session, settings.model.release)
    except DBAPIError:
        return settings.model.release
    finally:
        engine.dispose()


def _told(settings: Settings) -> str:
    """Who gets messages, and of what."""
    messages = settings.messages
    of = {
        "results": messages.results,
        "urgent findings": messages.urgent.destinations,
        "failures": tuple(name for name, peer in messages.destinations.items() if peer.kind == "mail"),
    }
    peers = messages.destinations
    return "\n".join(f"{peers[name].where} ({name}: {what})" for what, names in of.items() for name in names)


def _console(settings: Settings, password: str) -> str:
    """Where the console is, or why not (yet), and how to get in."""
    told = Notice.of(settings.data_dir).read()
    where = told if told.startswith("cannot") else console_url(settings.console.host, settings.console.port)
    if password:
        return f"{where}\nuser {USER}, password {password} (shown this once; another: fvlm-node console password)"
    return f"{where}\nuser {USER}; forgotten the password: fvlm-node console password"

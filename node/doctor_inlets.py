"""`fvlm-node doctor`: the ways in beside DIMSE, and worklists."""

import os
from collections.abc import Iterator

from config import Settings
from config.inlet_settings import OrthancSource, WatchedFolder
from config.secret import SecretError, read_secret
from node.http_peer import HttpPeer, PeerError
from node.worklist.link import WorklistAwayError
from node.worklist.run import connect
from node.worklist.workitem import Code

_TIMEOUT_S = 5.0
Found = tuple[str, bool, str, str]
"""Name, whether it is well, what was found, cure."""


def examine_inlets(settings: Settings) -> Iterator[Found]:
    """One check after another; nothing where nothing is configured."""
    tokens = {f"web.senders.{name}": source for name, source in settings.web.senders.items()}
    tokens |= {f"orthancs.{name}.plugin_token": one.plugin_token for name, one in settings.orthancs.items()}
    for setting, source in tokens.items():
        if source:
            yield _token(setting, source)
    for name, orthanc in settings.orthancs.items():
        yield _orthanc(name, orthanc)
    for name, folder in settings.folders.items():
        yield _folder(name, folder)
    for name in settings.worklists:
        yield _worklist(name, settings)


def _token(setting: str, source: str) -> Found:
    try:
        read_secret(source)
    except SecretError as error:
        return f"Token {setting}", False, str(error), "Put the token there, readable by the node's user"
    return f"Token {setting}", True, f"{source} can be read", ""


def _orthanc(name: str, source: OrthancSource) -> Found:
    cure = "Check url, user, password, firewall and ca_file"
    try:
        with HttpPeer(source.url, source, _TIMEOUT_S) as peer:
            answer = peer.json("system")
        version = str(answer["Version"])[:20]
    except PeerError as error:
        return f"Orthanc {name}", False, error.detail, cure
    except (KeyError, TypeError):
        return f"Orthanc {name}", False, f"{source.url} is no Orthanc", cure
    if source.storage_dir is not None and not os.access(source.storage_dir, os.R_OK | os.X_OK):
        cure = "Let the node's user read it, or leave storage_dir out: images then come over HTTP"
        return f"Orthanc {name}", False, f"{source.storage_dir} cannot be read", cure
    return f"Orthanc {name}", True, f"{source.url} answers: version {version}", ""


def _folder(name: str, folder: WatchedFolder) -> Found:
    well = folder.path.is_dir() and os.access(folder.path, os.R_OK | os.W_OK | os.X_OK)
    found = f"{folder.path} can be read and written" if well else f"{folder.path} cannot be read and written"
    return f"Folder {name}", well, found, "Make it, and let the node's user read and write it"


def _worklist(name: str, settings: Settings) -> Found:
    worklist = settings.worklists[name]
    patience = settings.delivery.model_copy(update={"timeout_s": _TIMEOUT_S})
    settings = settings.model_copy(update={"delivery": patience})
    try:
        with connect(worklist, settings) as link:
            found, unreadable = link.search(
                Code.parse(worklist.station), tuple(Code.parse(text) for text in worklist.procedures)
            )
    except WorklistAwayError as error:
        return f"Worklist {name}", False, error.detail, "Check its address, authorisation, AE titles and firewall"
    told = f", {unreadable} cannot be read" if unreadable else ""
    return f"Worklist {name}", True, f"{worklist.where} answers: {len(found)} workitems wait{told}", ""

"""The private folder: salt, ledger and images on their way; and the mark in the collection that it belongs to."""

import json
import shutil
from pathlib import Path

from training.archive.entries import CollectError
from training.archive.ledger import Ledger
from training.archive.secret import Secret
from training.archive.settings import CollectSettings


class TemporaryRoom:
    """A new empty folder for what comes with patient data; gone at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(mode=0o700)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def staging(private: Path) -> Path:
    """Folder for single images on their way, empty and for nobody else's eyes. Raises OSError."""
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = private / "peek"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def open_private(private: Path, out: Path) -> tuple[Secret, Ledger]:
    """Raises CollectError if the collection was made with another salt."""
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    private.chmod(0o700)
    mark = out / "collection.json"
    if mark.exists() and not (private / "salt").exists():
        raise CollectError(f"{private} is not the private folder of {out}: no salt in it; name it with --private")
    secret = Secret.open(private)
    if mark.exists() and json.loads(mark.read_bytes()).get("salt") != secret.mark:
        raise CollectError(f"{private} is not the private folder of {out}: another salt; name it with --private")
    return secret, Ledger(private / "ledger.sqlite")


def keep_the_same(settings: CollectSettings, secret: Secret) -> None:
    """What must stay the same for all runs. Raises CollectError if it does not."""
    mark = settings.out / "collection.json"
    shares = {"validate_share": settings.validate_share, "test_share": settings.test_share}
    if mark.exists():
        known_shares = {key: json.loads(mark.read_bytes()).get(key) for key in shares}
        if known_shares != shares:
            raise CollectError(f"{settings.out} was begun with {known_shares}: subjects would change their split")
        return
    part = mark.with_suffix(".part")
    part.write_text(json.dumps({"version": 1, "salt": secret.mark} | shares) + "\n", encoding="utf-8")
    part.replace(mark)

"""What tests of the console need: the application on a real database, and a client that knows the password."""

from pathlib import Path

from rows import open_records, settings_for
from starlette.testclient import TestClient

from config import Settings
from config.settings import ConsoleSettings, DicomSettings
from node.console.app import make_app
from node.console.password import USER, PasswordFile
from node.console.server import read_only_database
from node.database import Records

PASSWORD = "correct horse"
HERE, ELSEWHERE = ("127.0.0.1", 50000), ("192.0.2.7", 50000)


def console_settings(folder: Path, *destinations: tuple[str, int], **console: object) -> Settings:
    """A data folder with a password, low-water mark 0."""
    settings = settings_for(
        folder / "data", *destinations, console=ConsoleSettings(**console), dicom=DicomSettings(min_free_mb=0)
    )
    settings.spool_dir.mkdir(parents=True)
    PasswordFile.of(settings.data_dir).set(PASSWORD)
    return settings


class ConsoleBench:
    """Settings, the database as the node writes it, and the application, which only reads it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records: Records = open_records(settings)
        self.app_records = Records(read_only_database(settings.database))
        self.app = make_app(self.app_records, settings, self.records)

    def client(self, password: str | None = PASSWORD, client: tuple[str, int] = HERE) -> TestClient:
        """Calls the application as a browser on `client` would."""
        made = TestClient(self.app, "http://127.0.0.1:8112", client=client, raise_server_exceptions=False)
        if password is not None:
            made.auth = (USER, password)
        return made

    def get(self, path: str) -> str:
        """The text of a page that must be there."""
        answer = self.client().get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def lose_database(self) -> None:
        """The file is gone, as when its disk is."""
        self.records.engine.dispose()
        self.app_records.engine.dispose()
        for path in self.settings.data_dir.glob("node.sqlite*"):
            path.rename(path.with_name(f"gone-{path.name}"))

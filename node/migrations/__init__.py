"""The schema of the node's database, in numbered steps (Alembic). `upgrade` runs at the start of every process."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, text

_ADVISORY_LOCK = 0x66564C4D
"""Key of the PostgreSQL advisory lock that lets one process migrate at a time."""


class SchemaError(RuntimeError):
    """The database has a schema that this version of the node does not know (it was used by a newer one)."""


def upgrade(engine: Engine) -> None:
    """Bring the database to the newest schema, in one transaction; other processes that start meanwhile wait.

    Raises sqlalchemy.exc.DBAPIError if the database cannot be reached, SchemaError.
    """
    config = _config()
    with engine.begin() as connection:  # on SQLite this takes the write lock (node.database.open_database)
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SchemaError("the database was written by a newer version of the node; install that one") from error


def is_current(engine: Engine) -> bool:
    """True if the database has the newest schema. Raises sqlalchemy.exc.DBAPIError."""
    with engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    return present == ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config

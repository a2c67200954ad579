"""A PostgreSQL server of one test or module; skips where server or driver are missing."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import Postgres


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running server with an empty database, which the test may stop and start."""
    pytest.importorskip("psycopg")
    if not Postgres.programs():
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="fvlm-postgres-"))
    folder.chmod(0o755)  # the server's user must reach what is in it
    try:
        with Postgres(folder / "server") as server:
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_postgres() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    with postgres_server() as server:
        yield server.url

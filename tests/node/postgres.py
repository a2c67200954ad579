"""A PostgreSQL server of one test, on a Unix socket in a temporary folder; skips where server or driver are missing."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_postgres() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    pytest.importorskip("psycopg")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else None  # initdb refuses root
    folder = Path(tempfile.mkdtemp(prefix="fvlm-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        tools, data = programs[-1].parent, folder / "data"
        _run(user, folder, tools / "initdb", "-D", data, "-U", "node", "--no-sync", "-A", "trust")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        _run(user, folder, tools / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://node@/postgres?host={folder}"
        finally:
            _run(user, folder, tools / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _run(user: str | None, folder: Path, *command: str | Path) -> None:
    subprocess.run([*map(str, command)], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

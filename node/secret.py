"""Secrets that the settings name: read where they stand, each time they are needed, never kept or logged."""

import os
from pathlib import Path


class SecretError(ValueError):
    """The secret cannot be had. The text says why; it holds nothing of the secret."""


def read_secret(source: str) -> str:
    """What stands in `env:NAME` or `file:PATH`. Raises SecretError."""
    kind, _, name = source.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")
    else:
        try:
            value = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"{source} cannot be read ({type(error).__name__})") from error
    value = value.strip()
    if not value or not (value.isascii() and value.isprintable()):
        raise SecretError(f"{source} holds nothing that can be used")
    return value

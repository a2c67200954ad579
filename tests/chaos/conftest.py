"""The longest files of all tests come first, so that no core idles at the end (with `--no-loadscope-reorder`)."""

import pytest

_LONG = ("chaos", "e2e", "viewers", "fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Else each file stays where it was."""
    items.sort(key=lambda item: item.path.parent.name not in _LONG)

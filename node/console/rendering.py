"""Templates to pages. Everything that is put into a template is escaped; nothing is marked as safe."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config import Settings
from node.console.standing import ago
from node.records import now

_PAGES = (
    ("/", "Overview"),
    ("/series", "Series"),
    ("/deliveries", "Deliveries"),
    ("/unreadable", "Unreadable"),
    ("/refused", "Refused callers"),
    ("/rules", "Rules"),
    ("/releases", "Releases"),
)


class Renderer:
    """Knows the templates and what stands on every page."""

    def __init__(self, settings: Settings) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(utc=_utc, since=_since, until=_until, size=_size, count=_count)
        self._environment.globals.update(
            node_title=settings.dicom.ae_title,
            dicom_address=f"{settings.dicom.host}:{settings.dicom.open_port}",
            version=version("fvlm-node"),
            refresh_s=settings.console.refresh_s,
            pages=_PAGES,
        )

    def page(self, request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
        """A page with its values, `path` (which page it is) and `at` (the time now) beside them."""
        text = self._environment.get_template(template).render(path=request.url.path, at=now(), **values)
        return HTMLResponse(text, status)


def _utc(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _since(moment: datetime, at: datetime) -> str:
    return f"{ago(at - moment)} ago"


def _until(moment: datetime, at: datetime) -> str:
    return "now" if moment <= at else f"in {ago(moment - at)}"


def _size(count: int | None) -> str:
    """Bytes for a person, decimal units."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")

"""Starts a performer, and where there is one its event channel, for each worklist of the settings."""

from collections.abc import Callable
from functools import partial
from threading import Event, Thread

from config import Settings
from config.worklist_settings import DimseWorklist, WebWorklist
from node.database import Records
from node.worklist.event_channel import EventChannel
from node.worklist.event_listener import EventListener
from node.worklist.events import Notice
from node.worklist.link import WorklistLink
from node.worklist.performer import Performer
from node.worklist.ups_dimse import DimseWorklistLink
from node.worklist.ups_rs import WebWorklistLink


def connect(worklist: WebWorklist | DimseWorklist, settings: Settings) -> WorklistLink:
    """A link to a worklist. Raises WorklistAwayError."""
    timeout_s = settings.delivery.timeout_s
    if isinstance(worklist, WebWorklist):
        return WebWorklistLink(worklist, timeout_s)
    return DimseWorklistLink(worklist, settings.dicom.ae_title, timeout_s)


def start_performers(settings: Settings, records: Records, ended: Event) -> list[Thread]:
    """Daemon threads, one or two for each worklist; they end soon after `ended` is set."""
    threads: list[Thread] = []
    for name, worklist in settings.worklists.items():
        performer = Performer(name, worklist, settings, records, partial(connect, worklist, settings))
        threads.append(Thread(target=performer.run, args=(ended,), name=f"worklist_{name}", daemon=True))
        if (listen := _events(name, worklist, settings, performer.notify)) is not None:
            threads.append(Thread(target=listen, args=(ended,), name=f"events_{name}", daemon=True))
    for thread in threads:
        thread.start()
    return threads


def _events(
    name: str, worklist: WebWorklist | DimseWorklist, settings: Settings, take: Callable[[Notice], None]
) -> Callable[[Event], None] | None:
    """What keeps listening to the events of a worklist; None: it is only polled."""
    title, timeout_s = settings.dicom.ae_title, settings.delivery.timeout_s
    if isinstance(worklist, WebWorklist):
        return EventChannel(name, worklist, title, timeout_s, take).run if worklist.events else None
    if worklist.events_port is None:
        return None
    return EventListener(name, worklist, title, settings.dicom.host, timeout_s, take).run

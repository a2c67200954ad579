"""Starts a performer, and where there is one its event channel, for each worklist of the settings."""

from functools import partial
from threading import Event, Thread

from config import Settings
from config.worklist_settings import DimseWorklist, WebWorklist
from node.database import Records
from node.worklist.event_channel import EventChannel
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
        if isinstance(worklist, WebWorklist) and worklist.events:
            channel = EventChannel(
                name, worklist, settings.dicom.ae_title, settings.delivery.timeout_s, performer.notify
            )
            threads.append(Thread(target=channel.run, args=(ended,), name=f"events_{name}", daemon=True))
    for thread in threads:
        thread.start()
    return threads

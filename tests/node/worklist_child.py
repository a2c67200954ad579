"""`python worklist_child.py SETTINGS`: the performers of a node, as a process that tests kill."""

import sys
from pathlib import Path
from threading import Event

from node.database import Records, open_database
from node.logs import configure_logs
from node.worker import read_settings
from node.worklist.run import start_performers

configure_logs()
settings = read_settings(Path(sys.argv[1]))
start_performers(settings, Records(open_database(settings.database)), Event())
Event().wait()

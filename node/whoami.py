"""Who runs a command."""

import os
import pwd


def operator() -> str:
    """The user of the operating system who runs this process, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())

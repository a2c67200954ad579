"""Settings of the comparison with the patient's earlier reading."""

from typing import Annotated

from pydantic import Field

from config.setting_types import Section


class PriorSettings(Section):
    """Where the patient's earlier reading is looked for, beside the node's own records (docs/operations/priors.md)."""

    source: str | None = None
    """A name of `sources`: an archive that is asked for our own reports of older studies (QIDO-RS and WADO-RS with
    `dicomweb_url`, else C-FIND and `retrieve`); none: only the node's own records."""
    wait_s: Annotated[float, Field(gt=0, le=600)] = 20.0
    """Longest time, seconds, for which a new job waits for the archive; then it is read without what it did not say."""
    always: bool = False
    """True: the archive is asked for every job, and the newer reading counts; False: only where the node's own records
    have none."""

"""Lets the fuzzing modules import the helpers of other test folders, as `campaign.py` does when it runs alone."""

import sys
from pathlib import Path

for folder in ("fuzz", "ct", "node", "dicom_sr"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

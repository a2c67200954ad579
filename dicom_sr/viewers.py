"""The viewers and profiles whose rules for a Structured Report are known (`dicom_sr.viewer_check`)."""

from enum import StrEnum


class Viewer(StrEnum):
    """Who opens a report."""

    OHIF = "ohif"
    WEASIS = "weasis"
    SLICER = "slicer"
    """3D Slicer with QuantitativeReporting."""
    AIR = "air"
    """The encoding rules of IHE AI Results, whoever opens it."""

"""CT: series of DICOM instances -> Volume, Volume -> AnatomyMap, and synthetic patients."""

from ct.load import load_series, load_volume
from ct.part10 import Unfit
from ct.series import FolderScan, Header, Problem, Series, group, read_header, scan_folder
from ct.vetting import Vetted, vet
from ct.volume import Grid, SourceAxes, SourceSlice, Volume

__all__ = [
    "FolderScan",
    "Grid",
    "Header",
    "Problem",
    "Series",
    "SourceAxes",
    "SourceSlice",
    "Unfit",
    "Vetted",
    "Volume",
    "group",
    "load_series",
    "load_volume",
    "read_header",
    "scan_folder",
    "vet",
]

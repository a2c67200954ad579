"""CT: series of DICOM instances -> Volume, Volume -> AnatomyMap, and synthetic patients."""

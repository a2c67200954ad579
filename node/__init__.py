"""The clinical service: images in over DICOM, readings out as DICOM objects."""

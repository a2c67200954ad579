"""A Reading as DICOM objects, and back."""

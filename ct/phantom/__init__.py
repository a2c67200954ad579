"""Synthetic patients: an anthropomorphic CT of chest, abdomen and pelvis with labels, diseases and a report."""

from ct.phantom.dicom import Orientation, write_series
from ct.phantom.diseases import DISEASES, FURTHER_DISEASES, PREVALENCE
from ct.phantom.export import to_volume, write_nifti
from ct.phantom.patient import Body, Lesion, PhantomPatient
from ct.phantom.rendering import ANATOMIES, LABELS, Rendered, lesion_mask, render
from ct.phantom.report import AnatomyText, Habits, Report, write_report

__all__ = [
    "ANATOMIES",
    "DISEASES",
    "FURTHER_DISEASES",
    "LABELS",
    "PREVALENCE",
    "AnatomyText",
    "Body",
    "Habits",
    "Lesion",
    "Orientation",
    "PhantomPatient",
    "Rendered",
    "Report",
    "lesion_mask",
    "render",
    "to_volume",
    "write_nifti",
    "write_report",
    "write_series",
]

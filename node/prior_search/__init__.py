"""The patient's earlier reading out of an archive: our own report of an older study is found, fetched and read back.

Over DICOMweb or DIMSE, in the reconciler's process, before the job is taken: workers need no network, and what was
found is kept with the job.
"""

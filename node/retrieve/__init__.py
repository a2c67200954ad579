"""A study that a person names is fetched from an archive: over DICOMweb, by C-GET, or by C-MOVE to the node itself.

Only CT series; images that are in the spool are not fetched again, so a retrieval that broke off goes on.
"""

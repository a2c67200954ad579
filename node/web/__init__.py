"""The way in over HTTP: DICOMweb's STOW-RS (PS3.18 section 10.5), and what the plugin of an Orthanc asks and tells.

Without torch. Objects go through the one door (`node.intake`), piece by piece; nothing is held in memory as a whole.
"""

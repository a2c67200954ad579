"""An Orthanc as a source: its changes are followed, its CT series fetched into the spool, its users answered.

The node asks, Orthanc answers; what the plugin (`node/orthanc_plugin.py`) tells only makes the node look sooner. So
nothing depends on both being up at the same time. `docs/operations/orthanc.md`.
"""

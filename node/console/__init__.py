"""The web console: what the node does, to look at. A process of its own, without torch. It reads; only `judging` writes
what readers say of findings, and `editing` what operators change.
"""

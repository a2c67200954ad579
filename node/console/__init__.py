"""The web console: what the node does, to look at. A process of its own, without torch; it only reads."""

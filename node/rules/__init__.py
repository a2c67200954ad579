"""Routing rules at work: the rules file of the settings, the facts of a series, the decision, and what it would have
been for the series of last week. What the rules do to series and jobs is `node.routing`'s matter."""

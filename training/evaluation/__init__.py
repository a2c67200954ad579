"""Evaluation on public data sets: their layouts, predictions, the published protocol's metrics, a report."""

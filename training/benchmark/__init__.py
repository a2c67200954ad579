"""The paper's comparison on synthetic patients: seven ways to learn from reports, on the same patients and architecture.

`patients` draws who has what, `data` renders them once, `methods` trains, `scores` measures, `page` writes it down, and
`run` does it all and goes on where it was interrupted.
"""

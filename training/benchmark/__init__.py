"""The paper's comparison on synthetic patients: seven ways to learn from reports, same patients, same architecture.

`patients` draws who has what, `data` renders them once, `stem` and `encode` save convolutions, `trainees` are what is
trained, `scores` and `figures` measure, `page` writes it down, and `run` does it all and goes on where it stopped.
"""

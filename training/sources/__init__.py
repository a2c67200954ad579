"""Where studies come from: a collection of the hospital's archive, public data sets as published, phantoms.

Each room gives a list of `training.study.Study`; `masks` is where their anatomies come from.
"""

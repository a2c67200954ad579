"""A trained model as a release folder: `product` writes it (the phantom training too), `card` says what it is, with the
figures that `evaluated` reads from an evaluation, `from_run` makes one of a finished run, `cli` is
`fvlm-node train release`.
"""

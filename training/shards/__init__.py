"""Shards: preprocessed studies on disk, read as random crops at the speed of the disk.

`plan` says what shards are made for, `crop` brings a study onto the model's grid, `record` is what is written beside
the voxels, `format` is the file, `folder` the index over many, `build` makes them. `crops` and `dataset` are the
reader's side: random crops, which anatomies are whole in them, batches.
"""

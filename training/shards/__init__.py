"""Shards: preprocessed studies on disk, read as random crops at the speed of the disk.

The writer's side: `plan` says what shards are made for, `body_crop` brings a study onto the model's grid, `texts` takes
its report apart, `record` is what stands beside the voxels, `format` is the file, `make` makes one, `build` a folder of
them with `workers`. The reader's side: `folder` with its index, `crops`, `dataset`.
"""

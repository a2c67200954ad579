"""Pretraining on an archive: what `fvlm-node train pretrain` does.

`config` is the YAML file, `batches` where studies come from (`archive`, `phantoms`), `trainees` what is learned (fVLM,
CLIP, supervised), `initial` its first weights, `step` one gradient over the whole batch, `distributed` the processes of
torchrun, `student` a model with all that training adds to it, `loop` the run, read from top to bottom. `plan` is what
`--dry-run` prints, `result` what is left in the end.
"""

"""Training: pairs of CT and report -> pretraining -> evaluation -> released model."""

"""The fVLM model (Shui et al., ICLR 2025): a Volume and an AnatomyMap in, a Reading out."""

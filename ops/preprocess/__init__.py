"""Orient, resample, window: the same mathematics on NumPy (CPU) and torch (any device)."""

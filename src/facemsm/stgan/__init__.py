"""Stage 1: the spatial transformer GAN (Section III-A)."""

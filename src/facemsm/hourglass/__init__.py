"""Stage 2: the stacked hourglass (Section III-B)."""

"""Stage 3: the exemplar shape dictionary, and the reconstruction of points from it."""

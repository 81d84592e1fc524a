"""Confidence: the probabilities that a point is right and that it is occluded."""

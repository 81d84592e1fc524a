"""How far to trust a point, and whether something hides it, as probabilities."""

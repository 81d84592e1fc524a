"""Many photos."""

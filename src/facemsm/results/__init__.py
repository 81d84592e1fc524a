"""Alignment results on disk and in other tools' forms."""

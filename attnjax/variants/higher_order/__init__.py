"""Attention over pairs and tuples of keys."""

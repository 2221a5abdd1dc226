"""Mixers of tokens or pixels that are not attention."""

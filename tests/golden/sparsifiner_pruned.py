"""Sparsifiner's whole network, which prunes tokens, against the authors'."""

from tests.golden.sparsifiner_model import compare

__all__ = ["compare"]

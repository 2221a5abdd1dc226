"""CrossFormer++, the whole network with its cooling layers, against the authors'."""

from tests.golden.crossformer_model import compare

__all__ = ["compare"]

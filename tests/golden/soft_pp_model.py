"""SOFT++'s whole network, as in the authors' file of it, against their run."""

from tests.golden.soft_model import compare

__all__ = ["compare"]

"""Fused kernels, one package an algorithm, named for the algorithm."""

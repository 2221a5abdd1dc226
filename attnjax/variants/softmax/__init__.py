"""Softmax attention and what changes its scores, weights or outputs."""

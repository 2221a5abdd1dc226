"""Attention without the softmax: linear in the number of tokens."""

"""Attention heads that are gated, routed, shared or pruned."""

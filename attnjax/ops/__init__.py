"""Attention functions that systems share: windows, halos, self-attention of hosts."""

"""Grids of tokens: windows and halos, neighbourhoods, orders, pooling."""

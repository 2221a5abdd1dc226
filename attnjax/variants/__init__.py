"""The catalogue: one folder a family, one module a paper."""

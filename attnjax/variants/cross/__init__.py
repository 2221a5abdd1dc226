"""Attention between sequences: the queries of one, the keys of another."""

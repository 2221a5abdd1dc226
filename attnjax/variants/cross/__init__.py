"""Attention between streams: the queries of one, the keys of another."""

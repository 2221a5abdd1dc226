"""Softmax attention within windows and neighbourhoods."""

"""Attention between modalities: text, video, sound."""

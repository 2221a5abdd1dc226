"""Softmax attention over tokens that are selected by what they hold."""

"""Recurrences over tokens: linear attention, diagonal states, softmax of prefixes."""

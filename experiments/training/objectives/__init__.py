"""Objectives that training minimises, one file each; a task names its own.

A module has `totals(outputs, batch)`: from a model's outputs for a batch, and the
batch, to a dict of sums over examples, with "loss" and "count" among them. They are
sums, so that parts of a batch add up to the whole.
"""

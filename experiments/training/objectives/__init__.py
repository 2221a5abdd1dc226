"""What is minimised, one file an objective; a task names its own.

A module has `totals(outputs, batch)`: what a host's model gave for a batch, and the
batch, to a dict of sums over examples, with "loss" and "count" among them: sums, so
that parts of a batch add up to the whole.
"""

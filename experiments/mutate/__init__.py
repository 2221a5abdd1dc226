"""Breaks details of a system one at a time, and reports which its tests notice.

Mutation testing: Richard DeMillo, Richard Lipton, Frederick Sayward. Hints on Test Data
Selection. 1978. `details` makes the mutants of a module's syntax tree, `trials` runs a
system's tests on each in a process of its own, and `outputs` tells whether what
survives changes a result at all.
"""

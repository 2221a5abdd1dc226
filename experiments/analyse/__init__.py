"""Analyses of saved runs: the trace of some examples, reports, numbers and a page."""

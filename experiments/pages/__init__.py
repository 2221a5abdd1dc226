"""The pages of a run's report and of the comparison of several runs."""

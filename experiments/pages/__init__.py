"""What people read: the report of a run, the comparison of several."""

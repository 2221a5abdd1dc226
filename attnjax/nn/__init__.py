"""NNX blocks that are not attention."""

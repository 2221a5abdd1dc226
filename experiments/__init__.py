"""The application: train, evaluate, sample, compare, and check the papers' claims."""

"""Tasks that several claims share; data sets are in `experiments.data`."""

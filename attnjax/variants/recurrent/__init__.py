"""Recurrent systems: mechanisms whose past is a state of fixed size."""

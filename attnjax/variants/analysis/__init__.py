"""Analyses of trained models: reports of what is inside, and interventions."""

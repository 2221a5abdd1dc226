"""Configs: programs whose get_config makes the config of a run."""

"""Hosts: models that take a mechanism's constructor."""

"""Computations on many devices: each computes its part of batches and of heads."""

from attnjax.core.devices.alignment import aligned, divided
from attnjax.core.devices.context import at_once, no_mesh, vary, vary_like, zeros
from attnjax.core.devices.partitioned import per_device

__all__ = [
  "aligned",
  "at_once",
  "divided",
  "no_mesh",
  "per_device",
  "vary",
  "vary_like",
  "zeros",
]

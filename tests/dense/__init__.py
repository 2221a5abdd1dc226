"""Kernels' passes over whole matrices: what a system asks kernels for.

The kernels' own tests show that they compute what is below. What is left to show for a
system is that the arrays, programs and lists that it hands to them are those of its
definition. `replacing_kernels` puts these passes in the place of the kernels' and
leaves all that is before and behind them.
"""

import contextlib
import dataclasses
import importlib
from unittest import mock

from pallas_kernels.calling import BACKENDS
from tests.dense import (
  decayed_linear,
  prefix_softmax,
  softmax,
  softmax_statistics,
  third_order,
)

PASSES = {
  "flash": softmax,
  "decayed_linear": decayed_linear,
  "prefix_softmax": prefix_softmax,
  "softmax_statistics": softmax_statistics,
  "third_order": third_order,
}


@contextlib.contextmanager
def replacing_kernels():
  """Within it the forward and backward passes of all kernels are evaluated densely."""
  with contextlib.ExitStack() as stack:
    for algorithm, passes in PASSES.items():
      for backend in BACKENDS.values():
        module = importlib.import_module(f"pallas_kernels.{algorithm}.{backend}")
        own = {name: getattr(passes, name) for name in ("forward", "backward")}
        kernel = dataclasses.replace(module.KERNEL, **own)
        stack.enter_context(mock.patch.object(module, "KERNEL", kernel))
    yield

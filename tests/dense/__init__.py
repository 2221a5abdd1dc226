"""Kernels' passes over whole matrices: what a system asks kernels for.

The kernels' own tests show that they compute what is below. What is left to show for a
system is that the arrays, programs and lists that it hands to them are those of its
definition. `replacing_kernels` puts these passes in the place of the kernels' and
leaves all that is before and behind them.
"""

import contextlib
import dataclasses
import importlib
import pkgutil
from unittest import mock

from pallas_kernels.calling import BACKENDS

# The passes of each package of kernels: the module of its name here.
PASSES = {
  found.name: importlib.import_module(f"{__name__}.{found.name}")
  for found in pkgutil.iter_modules(__path__)
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

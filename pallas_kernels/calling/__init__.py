"""How kernels are called: what is written once for all algorithms and backends.

A backend's module exports a `Kernel`, two passes over arrays on one device. Its
algorithm's package says by two `Layout`s how the arrays of both lie, and composes

  forward = spread(kernel.forward, FORWARD, tiles=tiles)      # per_device(batched(...))
  backward = spread(kernel.backward, BACKWARD, tiles=tiles)
  call = derivatives.differentiable(forward, tangent, transpose, saved=SAVED)

where `transpose` is written with `backward`, and `tangent` is that of the plain form
(`derivatives.tangent_of`) or `kernel.no_tangent`. From the outside to the inside:

  differentiable  derivatives (`attnjax.core.derivatives`)
  per_device      each device computes its batches and heads (`attnjax.core.devices`)
  batched         an axis of `jax.vmap` becomes a part of the batch (`batching`)
  the pass        a function of arrays, which calls Pallas or `triton`

Nothing here knows of an algorithm. A further one is a package with a module for each
backend; `attnjax.backends.choose` finds out which implementation computes a call.
"""

from collections.abc import Callable
from typing import Any

from attnjax.core import devices
from pallas_kernels.calling.batching import Layout, batched, mapped
from pallas_kernels.calling.kernel import BACKENDS, Kernel, check_types, load
from pallas_kernels.calling.launching import PTX_VERSION, cost, triton

__all__ = [
  "BACKENDS",
  "PTX_VERSION",
  "Kernel",
  "Layout",
  "batched",
  "check_types",
  "cost",
  "load",
  "mapped",
  "spread",
  "triton",
]


def spread(function: Callable, layout: Layout, **constants: Any) -> Callable:
  """Returns function(*arrays, **constants) on all devices, and under `jax.vmap`.

  It has no derivative.

  Args:
    function: a pass of a `Kernel`.
    layout: of its arrays.
    **constants: the same on all devices.
  """
  function = batched(function, layout, **constants)
  return devices.per_device(function, layout.inputs, layout.outputs)

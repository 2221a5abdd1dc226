"""The calls of kernels: vmap, meshes and derivatives around the passes of a backend.

A backend's module exports a `Kernel`, two passes over arrays on one device. Its
algorithm's package says by two `Layout`s how the arrays of both lie, and composes

  forward = spread(kernel.forward, FORWARD, tiles=tiles)      # per_device(batched(...))
  backward = spread(kernel.backward, BACKWARD, tiles=tiles)
  call = derivatives.differentiable(forward, tangent, transpose, saved=SAVED)

where `transpose` is written with `backward`, and `tangent` is that of the plain form
(`derivatives.tangent_of`) or `kernel.no_tangent`. From the outside to the inside:

  differentiable  derivatives (`attnjax.core.derivatives`)
  per_device      each device computes its batches and heads (`attnjax.core.devices`)
  batched         an axis of `jax.vmap` joins the batch (`pallas_kernels.batching`)
  the pass        a function of arrays, which calls Pallas or `triton`

Nothing here knows of an algorithm. A further one is a package with a module for each
backend; `attnjax.backends.choose` finds out which implementation computes a call.

Triton writes the PTX version of its own assembler, and jaxlib assembles that text with
the one that it finds: CUDA 13.0 refuses what Triton 3.9 writes of itself for an H100.
"""

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import devices
from attnjax.core.platform import target_capability
from pallas_kernels.batching import Layout, batched

# PTX 8.8, of CUDA 12.9: the least that describes all chips that the tiles are for.
PTX_VERSION = 88
# The module of an algorithm's package for each implementation.
BACKENDS = {"pallas": "mosaic_tpu", "triton": "triton_gpu"}


def _unchanged(shared, *arrays):
  del arrays
  return shared


@dataclasses.dataclass(frozen=True)
class Kernel:
  """An algorithm on one kind of machine, the constant `KERNEL` of a backend's module.

  The passes know of one device and of one batch: `jax.vmap`, meshes and derivatives are
  around them, see `pallas_kernels.calling`. They take arrays, or pytrees of them, in
  the order of the algorithm's layouts, then constants by name.

  Attributes:
    impl: the backend's name, a key of `BACKENDS`.
    forward: computes the results of arrays; (*arrays, tiles=, **constants).
    backward: computes the gradients, in the inputs' order, of what `forward` took, kept
      and gave, and of cotangents; (*arrays, tiles=, **constants).
    supports: raises NotImplementedError with the reason for a problem that the passes
      cannot compute; it takes what the algorithm chooses by, arrays or their shapes.
    tiles: computes the default tile sizes from what `supports` takes.
    prepared: adds what only this backend's passes need to what all calls share, such as
      block lists; (shared, *arrays), where static numbers are still constants.
  """

  impl: str
  forward: Callable[..., Any]
  backward: Callable[..., Any]
  supports: Callable[..., None]
  tiles: Callable[..., Any]
  prepared: Callable[..., Any] = _unchanged

  def no_tangent(self, *_: Any) -> Any:
    """Raises NotImplementedError: the tangent map of kernels that have none."""
    raise NotImplementedError(
      f"impl {self.impl!r} has first-order reverse derivatives only; impl 'xla' has jvp"
      " and derivatives of any order"
    )


def load(package: str, impl: str) -> Kernel:
  """Returns a package's kernel, whose module is imported when it is first asked for.

  Raises:
    ImportError: if what the backend needs is not installed, with its name.
    ValueError: if there is no such backend.
  """
  if impl not in BACKENDS:
    raise ValueError(f"impl {impl!r} is none of {', '.join(BACKENDS)}")
  with needing(impl):
    if impl == "triton":
      importlib.import_module("jax_triton")
    return importlib.import_module(f"{package}.{BACKENDS[impl]}").KERNEL


@contextlib.contextmanager
def needing(impl: str):
  """Turns an ImportError inside the context into one that names `impl` and package."""
  try:
    yield
  except ImportError as error:
    raise ImportError(
      f"impl {impl!r} needs {error.name}: pip install attnjax[cuda]"
    ) from error


def check_types(impl: str, known: tuple[str, ...], **arrays: Any) -> None:
  """Raises NotImplementedError for arrays whose type is not in `known`."""
  for name, array in arrays.items():
    if array.dtype.name not in known:
      raise NotImplementedError(
        f"impl {impl!r}: {name} has the type {array.dtype}; it takes {known}"
      )


def spread(function: Callable, layout: Layout, **constants: Any) -> Callable:
  """Returns function(*arrays, **constants) on all devices, and under `jax.vmap`.

  The result has no derivative.

  Args:
    function: a pass of a `Kernel`.
    layout: of the pass's arrays.
    **constants: options of the pass, equal on all devices.
  """
  function = batched(function, layout, **constants)
  return devices.per_device(function, layout.inputs, layout.outputs)


def triton(
  *arguments, kernel, out_type, grid, name: str, warps: int, stages: int, **constants
):
  """Runs a kernel and returns its outputs, in the structure of `out_type`.

  Args:
    *arguments: arrays, None or tuples of arrays, in the kernel's order; the outputs
      follow them.
    kernel: a function of triton.jit.
    out_type: the outputs' shapes and types.
    grid: programs along each axis.
    name: of the call in profiles.
    warps: of 32 threads, of a program.
    stages: tiles in flight from memory, the current one included.
    **constants: the kernel's scalars and constants by name.

  Raises:
    ImportError: without jax-triton, naming what is missing.
  """
  with needing("triton"):
    import jax_triton
  return jax_triton.triton_call(
    *arguments,
    kernel=kernel,
    out_type=out_type,
    grid=grid,
    name=name,
    num_warps=warps,
    num_stages=stages,
    # Of the chip that the call is lowered for: jax-triton would ask the local one.
    compute_capability=target_capability(),
    backend_options=dict(enable_fp_fusion=True, ptx_version=PTX_VERSION),
    **constants,
  )


def cost(flops: float, exponentials: float, arrays):
  """Returns a `pl.CostEstimate`; `arrays`, or shapes, are read or written once."""
  from jax.experimental import pallas as pl

  size = sum(
    math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(arrays)
  )
  return pl.CostEstimate(
    flops=int(flops), transcendentals=int(exponentials), bytes_accessed=size
  )

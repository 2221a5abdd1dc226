"""What a backend gives of an algorithm, and how it is found."""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

# The module of an algorithm's package for each implementation.
BACKENDS = {"pallas": "mosaic_tpu", "triton": "triton_gpu"}


def _unchanged(shared, *arrays):
  del arrays
  return shared


@dataclasses.dataclass(frozen=True)
class Kernel:
  """An algorithm on one kind of machine: what `KERNEL` of a backend's module is.

  The passes know of one device and of one batch: `jax.vmap`, meshes and derivatives are
  around them, see `pallas_kernels.calling`. They take arrays, or pytrees of them, in
  the order of the algorithm's layouts, then constants by name.

  Attributes:
    impl: its name among `BACKENDS`.
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
    """Stands in the place of the tangent map of kernels that have none."""
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
  """Names, in the error of an import within it, who needs what."""
  try:
    yield
  except ImportError as error:
    raise ImportError(
      f"impl {impl!r} needs {error.name}: pip install attnjax[cuda]"
    ) from error


def check_types(impl: str, known: tuple[str, ...], **arrays: Any) -> None:
  """Raises NotImplementedError for arrays whose type is none of those known."""
  for name, array in arrays.items():
    if array.dtype.name not in known:
      raise NotImplementedError(
        f"impl {impl!r}: {name} has the type {array.dtype}; it takes {known}"
      )

"""Small problems of a system's functions: they drive tests, lowering and benchmarks."""

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
  """A small problem on which all implementations of a function agree.

  Attributes:
    name: a part of the test's name.
    shapes: maps an argument's name to its shape; arrays are drawn from a unit normal.
    options: keyword arguments without derivatives: numbers, strings, and functions of
      a key, which are called to make integer or boolean arrays.
    make: makes arrays with derivatives that need a structure; they replace the drawn
      ones, or are added to them.
    function: the name of the module's function that the problem is for.
  """

  name: str
  shapes: Mapping[str, tuple[int, ...]]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  make: Callable[[jax.Array], Mapping[str, jax.Array]] | None = None
  function: str = "attend"

  def arrays(self, dtype="float32", seed=0) -> dict[str, jax.Array]:
    """Returns the arguments with derivatives; equal seeds give equal arrays."""
    draw = np.random.default_rng(seed).standard_normal
    drawn = {
      name: jnp.asarray(np.asarray(draw(shape)).astype(jnp.dtype(dtype)))
      for name, shape in self.shapes.items()
    }
    return drawn | dict(self.make(jax.random.key(seed)) if self.make else {})

  def implemented(self, module: ModuleType) -> Callable:
    """Returns the function, which takes `impl=`."""
    return getattr(module, self.function)

  def defined(self, module: ModuleType) -> Callable:
    """Returns the function's definition: `reference`, or `reference_<function>`."""
    own = f"reference_{self.function}"
    return getattr(module, own if hasattr(module, own) else "reference")

  def arguments(self, seed=0) -> dict[str, Any]:
    """Returns the other keyword arguments, with their arrays made."""
    key = jax.random.key(seed + 1)
    return {n: v(key) if callable(v) else v for n, v in self.options.items()}

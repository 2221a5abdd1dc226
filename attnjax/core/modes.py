"""JAX's debugging modes, inside of the library.

`jax_numpy_rank_promotion` and `jax_debug_infs` look for errors in a user's program.
Broadcasting inside the library, and the -inf of masked scores, are no such errors.
"""

import functools
from collections.abc import Callable

import jax


def broadcasting(function: Callable) -> Callable:
  """Wraps `function` so that ranks are promoted in it, whatever the mode."""

  @functools.wraps(function)
  def run(*arguments, **options):
    with jax.numpy_rank_promotion("allow"):
      return function(*arguments, **options)

  return run


def whole(function: Callable) -> Callable:
  """Compiles `function` as one if every operation's result is tested for infinity."""
  return jax.jit(function) if jax.config.jax_debug_infs else function

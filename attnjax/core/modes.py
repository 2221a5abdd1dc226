"""JAX's debugging mode for infinities, inside of the library.

`jax_debug_infs` looks for errors in a user's program. The -inf of masked scores is no
such error.
"""

from collections.abc import Callable

import jax


def whole(function: Callable) -> Callable:
  """Returns `function`, compiled as one if each operation's result is tested."""
  return jax.jit(function) if jax.config.jax_debug_infs else function

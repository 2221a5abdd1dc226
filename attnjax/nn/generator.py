"""A generator of absent views from those that are there."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnjax.nn import linear


class Generator(nnx.Module):
  """Makes each view of all others, by an MLP with one hidden layer for each.

  Args:
    views: M.
    width: W, numbers of a view.
    hidden: width of the hidden layers.
    rngs: for the parameters.
  """

  def __init__(self, views: int, width: int, hidden: int, *, rngs: nnx.Rngs):
    inputs = views * (width + 1)
    self.up = nnx.List(linear.linear(inputs, hidden, rngs=rngs) for _ in range(views))
    self.down = nnx.List(linear.linear(hidden, width, rngs=rngs) for _ in range(views))

  def __call__(
    self, views: Float[Array, "B M W"], present: Bool[Array, "B M"]
  ) -> Float[Array, "B M W"]:
    """Returns every view as the other views tell it, whether it is there or not.

    Args:
      views: of which absent ones are not read.
      present: False where a view is absent.
    """
    B, M, _ = views.shape
    made = []
    for m in range(M):
      seen = present.at[:, m].set(False)
      known = jnp.where(seen[..., None], views, 0).reshape(B, -1)
      known = jnp.concatenate([known, seen.astype(views.dtype)], axis=1)
      made.append(self.down[m](jax.nn.relu(self.up[m](known))))
    return jnp.stack(made, axis=1)


def completed(
  views: Float[Array, "B M W"],
  made: Float[Array, "B M W"],
  present: Bool[Array, "B M"],
) -> Float[Array, "B M W"]:
  """Returns the views with generated ones, as constants, where one is absent."""
  return jnp.where(present[..., None], views, jax.lax.stop_gradient(made))

"""The attentions: softmax, linear and normalised."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn.linear import INIT, linear
from attnjax.variants.recurrent.dynamical_systems import builders
from attnjax.variants.recurrent.dynamical_systems.system import System


class Attention(nnx.Module):
  """Queries and keys of size `state` / heads, values of size dim / heads, biases.

  Linear attention drives its state with `counted` values and takes the `mean` of the
  output. Normalised attention divides by a function of the token instead.
  """

  def __init__(
    self, dim: int, *, kind: str, heads: int, state: int, eta: str, rngs: nnx.Rngs
  ):
    for name, size in (("dim", dim), ("state", state)):
      if size % heads:
        raise ValueError(f"{name} = {size} does not divide by heads = {heads}")
    shapes = (heads, state // heads), (heads, dim // heads)
    # `linear` draws small weights: normalised attention does not scale its scores and
    # diverges with larger ones.
    self.query, self.key = (linear(dim, shapes[0], rngs=rngs) for _ in range(2))
    self.value = linear(dim, shapes[1], rngs=rngs)
    if kind == "normalised":
      self.normaliser = linear(dim, heads, rngs=rngs)
    self.out = nnx.LinearGeneral(
      shapes[1], dim, axis=(-2, -1), kernel_init=INIT, rngs=rngs
    )
    self.kind, self.heads, self.eta = kind, heads, eta
    self.sizes = state // heads, dim // heads

  @property
  def state_shape(self) -> tuple[int, int, int]:
    """Returns (N, H, E), the shape of one sequence's state."""
    return self.heads, self.sizes[0], self.sizes[1] + (self.kind == "linear")

  def init_cache(self, batch: int, dtype):
    """Returns (), as there is no convolution."""
    del batch, dtype
    return ()

  def project(self, x: Float[Array, "B T D"]):
    """Returns the heads q, k and v."""
    return self.query(x), self.key(x), self.value(x)

  def drive(self, x: Float[Array, "B T D"], cache, segment_ids):
    """Returns (system, the values that drive it, None for `finish`, cache)."""
    del segment_ids
    q, k, v = self.project(x)
    if self.kind == "normalised":
      system = builders.normalised(q, k, self.normaliser(x), eta=self.eta)
      return system, v.astype(accumulator_dtype(v)), None, cache
    q, k = (builders.features(y)[..., None] for y in (q, k))
    system = System(jnp.zeros((1, x.shape[1], 1, 1, 1), q.dtype), k, q)
    return system, v.astype(q.dtype), None, cache

  def finish(self, out, rest):
    """Projects the system's output (B, T, N, E) to (B, T, D)."""
    del rest
    return self.out(out)

  def system(self, x: Float[Array, "B T D"], **options) -> tuple[System, Array]:
    """Returns (system, values), with the normaliser in the system.

    `options` are the builder's.
    """
    q, k, v = self.project(x)
    if self.kind == "normalised":
      options = {"x": self.normaliser(x), "eta": self.eta} | options
    return builders.to_dsf(self.kind, q=q, k=k, **options), v


def counted(v: Float[Array, "B T N E"]) -> Float[Array, "B T N C"]:
  """Returns (v, 1), whose last element becomes linear attention's denominator."""
  return jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)


def mean(out: Float[Array, "B T N C"]) -> Float[Array, "B T N E"]:
  """Returns the output for `counted` values, divided by its last element."""
  total = out[..., -1:]
  # A token that sees nothing, not even itself, gives 0.
  return jnp.where(total == 0, 0, out[..., :-1] / jnp.where(total == 0, 1, total))

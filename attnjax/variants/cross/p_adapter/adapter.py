"""The adapters' own parameters: of the p-Laplacian step, and the plain bottleneck."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import linear


class PAdapter(nnx.Module):
  """y = Wout( gelu(Wg c) * F' ), with F' of `p_laplacian_step` on Wi(nodes).

  Args:
    dim: D.
    heads: N.
    reduction: r; the adapter is D / r wide, of which a head has D / (r N).
    p: of the energy, or its start.
    mu: weight of the source, times 2 + tanh(m), m learned and 0 at first.
    learn_p: whether p is a parameter.
    zero_init: whether Wout and its bias are 0 at first, so that y is; else all maps are
      drawn as torch draws them, as the authors do.
    rngs: for the parameters.

  Raises:
    ValueError: if r N does not divide D, or a number is not allowed.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    reduction: int = 8,
    p: float = 1.75,
    mu: float = 0.1,
    learn_p: bool = True,
    zero_init: bool = False,
    rngs: nnx.Rngs,
  ):
    if reduction < 1 or heads < 1 or dim % (reduction * heads):
      raise ValueError(
        f"reduction = {reduction}, heads = {heads}: their product divides dim = {dim}"
      )
    if p <= 0 or mu < 0:
      raise ValueError(f"p = {p}, mu = {mu}: p is above 0, mu at least 0")
    width = dim // reduction
    self.heads, self.mu = heads, mu
    self.into = linear.linear(dim, width, rngs=rngs)
    self.gate = linear.linear(dim, width, rngs=rngs)
    self.out = _back(width, dim, zero_init, rngs)
    self.p: Any = nnx.Param(jnp.full((), p, jnp.float32)) if learn_p else p
    self.shift = nnx.Param(jnp.zeros(()))  # m

  def numbers(self) -> tuple[Any, Array]:
    """Returns p, and the weight of the source, mu (2 + tanh(m)); wide."""
    p = self.p if isinstance(self.p, float) else self.p[...]
    m = self.shift[...]
    return p, self.mu * (2 + jnp.tanh(m.astype(accumulator_dtype(m))))

  def features(self, nodes: Float[Array, "B S D"]) -> Float[Array, "B S N C"]:
    """Returns the features of nodes, cut into heads."""
    found = self.into(nodes)
    return found.reshape(*found.shape[:2], self.heads, found.shape[2] // self.heads)

  def __call__(
    self, c: Float[Array, "B T D"], message: Float[Array, "B T N C"]
  ) -> Float[Array, "B T D"]:
    """Returns what is added to the attention's output c."""
    gate = jax.nn.gelu(self.gate(c), approximate=False)
    return self.out(gate * message.reshape(gate.shape).astype(gate.dtype))


class Bottleneck(nnx.Module):
  """Wup relu(Wdown x): the adapter beside a feed-forward block, whose input x it reads.

  Args:
    dim: D.
    reduction: r; it is D / r wide.
    zero_init: whether Wup and its bias are 0 at first.
    rngs: for the parameters.

  Raises:
    ValueError: if r does not divide D.
  """

  def __init__(
    self, dim: int, *, reduction: int = 8, zero_init: bool = False, rngs: nnx.Rngs
  ):
    if reduction < 1 or dim % reduction:
      raise ValueError(f"reduction = {reduction}; it divides dim = {dim}")
    self.down = linear.linear(dim, dim // reduction, rngs=rngs)
    self.up = _back(dim // reduction, dim, zero_init, rngs)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns what is added to x."""
    return self.up(jax.nn.relu(self.down(x)))


def _back(width: int, dim: int, zero: bool, rngs: nnx.Rngs) -> nnx.LinearGeneral:
  """Returns the map back to the model's width."""
  made = linear.linear(width, dim, rngs=rngs)
  if zero:
    assert made.bias is not None
    for part in (made.kernel, made.bias):
      part.set_value(jnp.zeros_like(part[...]))
  return made

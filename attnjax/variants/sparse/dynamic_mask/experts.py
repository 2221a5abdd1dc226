"""Cross-domain mixture of experts: a dense MLP beside many experts of one unit."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.nn import mlp

_INIT = nnx.initializers.normal(0.02)


class CrossDomainExperts(nnx.Module):
  """swiglu(x) + sum_e p[e] silu(d[e] . x) u[e], over the best of `experts` experts e.

  Jingze Shi, Bingheng Wu. Wonderful Matrices. arXiv:2412.11834; the code
  is the Doge model's. Expert e = i n + j of n^2 has the score a[i] + b[j], with a and
  b linear in x (product keys); p is the softmax of the scores of those chosen. The
  best sums are among those of the best of each half, so that of n^2 scores only
  `chosen`^2 are formed.

  The released code reshapes the scores of a batch of tokens such that a token's two
  halves come from other tokens, later ones among them; here they are its own. Of a
  single token both agree.

  Args:
    dim: D.
    hidden: width of the dense MLP.
    experts: number of experts, a square.
    chosen: number of experts of each token.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    *,
    experts: int = 16384,
    chosen: int = 64,
    rngs: nnx.Rngs,
  ):
    keys = math.isqrt(experts)
    if keys**2 != experts or not 1 <= chosen <= experts:
      raise ValueError(
        f"experts = {experts}, chosen = {chosen}: a square, and from 1 to all of them"
      )
    self.shared = mlp.SwiGLU(dim, hidden, rngs=rngs)
    self.router = nnx.Linear(
      dim, 2 * keys, use_bias=False, kernel_init=_INIT, rngs=rngs
    )
    self.down, self.up = (
      nnx.Param(_INIT(rngs.params(), (experts, dim))) for _ in range(2)
    )
    self.keys, self.chosen = keys, chosen

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the sum of the MLP's and the experts' outputs, without the residual."""
    weights, chosen = self.route(x)
    down, up = self.down[...][chosen], self.up[...][chosen]  # (*B, E, D)
    units = jax.nn.silu(jnp.einsum("...ed,...d->...e", down, x))
    routed = jnp.einsum("...e,...ed->...d", units * weights.astype(x.dtype), up)
    return self.shared(x) + routed.astype(x.dtype)

  def route(
    self, x: Float[Array, "*B D"]
  ) -> tuple[Float[Array, "*B E"], Int[Array, "*B E"]]:
    """Returns the weights of the chosen experts, which sum to 1, and their numbers."""
    scores = self.router(x).astype(jnp.float32).reshape(*x.shape[:-1], 2, self.keys)
    best, where = jax.lax.top_k(scores, min(self.chosen, self.keys))
    sums = best[..., 0, :, None] + best[..., 1, None, :]
    names = where[..., 0, :, None] * self.keys + where[..., 1, None, :]
    sums, names = (y.reshape(*x.shape[:-1], -1) for y in (sums, names))
    best, place = jax.lax.top_k(sums, self.chosen)
    return jax.nn.softmax(best), jnp.take_along_axis(names, place, axis=-1)

"""Linear maps with low-rank terms on some of the tokens."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

_INIT = nnx.initializers.normal(0.02)


class TokenLoRA(nnx.Module):
  """linear(x), and on some tokens alpha / rank B A x.

  Edward J. Hu et al. LoRA. arXiv:2106.09685.

  Args:
    below: width of x.
    dim: of the result.
    rank: of the term; there is none if 0.
    alpha: its weight is alpha / rank.
    noise: standard deviation of B at the start; zeros, so that the term begins at
      nothing, if 0.
    bias: of the linear map.
    rngs: for the parameters.
  """

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    rank: int = 16,
    alpha: float = 16.0,
    noise: float = 0.0,
    bias: bool = False,
    rngs: nnx.Rngs,
  ):
    if rank < 0:
      raise ValueError(f"rank = {rank}: it must be at least 0")
    self.linear = nnx.Linear(below, dim, use_bias=bias, kernel_init=_INIT, rngs=rngs)
    gaussian, unit = (
      nnx.initializers.normal(1 / max(rank, 1)),
      nnx.initializers.normal(1),
    )
    first, second = rngs.params(), rngs.params()
    self.down = nnx.Param(gaussian(first, (below, rank))) if rank else None
    self.up = nnx.Param(noise * unit(second, (rank, dim))) if rank else None
    self.factor = alpha / max(rank, 1)

  def __call__(
    self, x: Float[Array, "B T D"], tokens: Bool[np.ndarray, "T"]
  ) -> Float[Array, "B T E"]:
    """The result; `tokens` are those with the term, known when a program is traced."""
    y, chosen = self.linear(x), np.flatnonzero(tokens)
    if self.down is None or self.up is None or not chosen.size:
      return y
    # Streams lie one after the other: the term is made from the first to the last.
    first, last = chosen[0], chosen[-1] + 1
    down, up = (part[...].astype(x.dtype) for part in (self.down, self.up))
    term = self.factor * (x[:, first:last] @ down @ up)
    term = jnp.where(tokens[first:last, None], term, 0)
    return y + jnp.pad(term, ((0, 0), (first, x.shape[1] - last), (0, 0)))

"""Linear maps with low-rank terms on some of the tokens."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

_INIT = nnx.initializers.normal(0.02)


class TokenLoRA(nnx.Module):
  """A linear map, plus alpha / rank B A x on some tokens.

  Edward J. Hu et al. LoRA. arXiv:2106.09685.

  Args:
    below: width of x.
    dim: width of the output.
    rank: of the term; no term if 0.
    alpha: the term's weight is alpha / rank.
    noise: initial standard deviation of B; if 0, the term is zero at first.
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
    """Returns the output; `tokens` flags the tokens with the term, and is static."""
    y, chosen = self.linear(x), np.flatnonzero(tokens)
    if self.down is None or self.up is None or not chosen.size:
      return y
    # Streams are contiguous: the term is computed from the first token to the last.
    first, last = chosen[0], chosen[-1] + 1
    down, up = (part[...].astype(x.dtype) for part in (self.down, self.up))
    term = self.factor * (x[:, first:last] @ down @ up)
    term = jnp.where(tokens[first:last, None], term, 0)
    return y + jnp.pad(term, ((0, 0), (first, x.shape[1] - last), (0, 0)))

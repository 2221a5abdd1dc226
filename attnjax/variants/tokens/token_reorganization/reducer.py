"""The reducer: reorganisation between the blocks of any host of sequences."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.tokens.token_reorganization.reorganize import (
  count_kept,
  reduce_tokens,
)

SCORES = ("query", "norm")


class Reducer(nnx.Module):
  """Reorganisation of tokens between blocks; see `attnjax.contract.forms.tokens`.

  Between blocks there is no attention to read, and a host may have no class token.
  Where the caller gives no scores, ours are, both with the sum 1:

    "query"  softmax_t(n(x_t) . q / sqrt(D)), n a norm without parameters, q the mean of
             n(x) over the prefix, or over all tokens if there is none: the attention of
             a class token, or of the mean, without projections
    "norm"   |x_t| / sum_t |x_t|

  There are no parameters.

  Args:
    dim: D; it is not needed.
    keep_ratio: share of a row's tokens that stay, see `count_kept`.
    fuse: whether the others become one token.
    prefix: how many of a row's first tokens always stay, such as a class token.
    score: one of SCORES, where the caller gives no scores.
    impl: as in `reduce_tokens`.
    rngs: for parameters, of which there are none.
  """

  causal = False
  refuses = {
    "segment_ids": "tokens are ranked and fused in the whole row: each document would"
    " keep its own share, and no fixed number of tokens holds that of all packings"
  }

  def __init__(
    self,
    dim: int,
    *,
    keep_ratio: float = 0.7,
    fuse: bool = True,
    prefix: int = 0,
    score: str = "query",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    del dim, rngs
    count_kept(keep_ratio, 1)
    check_known("score", score, SCORES)
    self.keep_ratio, self.fuse, self.prefix = keep_ratio, fuse, prefix
    self.score, self.impl = score, impl

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    scores: Float[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B R D"], Int[Array, "B R"]]:
    """Returns the tokens that are left, and the place in x that each stands for.

    Args:
      x: tokens.
      scores: by which tokens are kept, and the weights of those that are fused.
      valid: True at the real tokens.
      segment_ids: refused.

    Raises:
      NotImplementedError: for `segment_ids`.
    """
    if segment_ids is not None:
      raise NotImplementedError(f"segment_ids: {self.refuses['segment_ids']}")
    if scores is None:
      scores = self._scores(x, valid)
    options = {"keep_ratio": self.keep_ratio, "fuse": self.fuse, "prefix": self.prefix}
    return reduce_tokens(x, scores, valid=valid, impl=self.impl, **options)

  def _scores(self, x, valid) -> Float[Array, "B T"]:
    real = jnp.ones(x.shape[:2], bool) if valid is None else valid
    x = jnp.where(real[..., None], x, 0).astype(accumulator_dtype(x))
    if self.score == "norm":
      # A token of zeros has the slope 0, where that of a root is infinite.
      square = jnp.square(x).sum(axis=-1)
      size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
      total = size.sum(axis=1, keepdims=True)
      return size / jnp.where(total > 0, total, 1)
    x = jax.nn.standardize(x, axis=-1, epsilon=1e-6)
    own = real & (jnp.cumsum(real, axis=1) <= (self.prefix or x.shape[1]))
    number = jnp.maximum(own.sum(axis=1, keepdims=True), 1)
    query = jnp.where(own[..., None], x, 0).sum(axis=1) / number
    score = jnp.einsum("btd,bd->bt", x, query) * x.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(real, score, -1e30), axis=1)

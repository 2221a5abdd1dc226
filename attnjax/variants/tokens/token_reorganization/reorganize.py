"""The functions: the class token's attention, and tokens that are kept or fused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core import select
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.tokens.token_reorganization.definition import (
  reference_class_attention,
  reference_reduce_tokens,
  reference_reorganize,
)

IMPLEMENTATIONS = ("reference", "xla")


def class_attention(
  q: Float[Array, "B N H"],
  k: Float[Array, "B T N H"],
  *,
  scale: float | None = None,
  valid: Bool[Array, "B T"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T"]:
  """Computes one query's attention to all tokens, averaged over the heads.

  arXiv:2202.07800, section 3.2, equations 1 and 2. It is one row of the matrix that a
  fused attention beside it does not store; its sum is 1.

  Args:
    q: query of the class token.
    k: keys of all tokens, its own included.
    scale: H^-0.5 if None.
    valid: True at the tokens that may be seen; a row needs one.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if (q.shape[0], *q.shape[1:]) != (k.shape[0], *k.shape[2:]):
    raise ValueError(f"q {q.shape}, k {k.shape}: B, N and H must be equal")
  if impl == "reference":
    return reference_class_attention(q, k, scale=scale, valid=valid)
  wide = accumulator_dtype(q)
  if valid is not None:
    k = jnp.where(valid[..., None, None], k, 0)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  score = scale * jnp.einsum("bnh,btnh->bnt", q, k, preferred_element_type=wide)
  if valid is not None:
    score = jnp.where(valid[:, None], score, -jnp.inf)
  return jax.nn.softmax(score, axis=-1).mean(axis=1)


def reorganize(
  x: Float[Array, "B T D"],
  scores: Float[Array, "B P"],
  *,
  keep_ratio: float,
  fuse: bool = True,
  impl: str = "auto",
) -> tuple[Float[Array, "B R D"], Int[Array, "B M"]]:
  """Keeps the class token and the patches of the greatest scores, and fuses the rest.

  arXiv:2202.07800, section 3.2. The result is [class, kept patches by falling score,
  fused token]; the fused token is the sum of the others, each by its score, not
  renormalised. If M = P, x is returned as it is.

  Args:
    x: tokens, the class token first: T = 1 + P.
    scores: of the patches, see `class_attention`; their order takes no gradient.
    keep_ratio: share of the patches that stay, see `count_kept`.
    fuse: whether there is a fused token; else R = 1 + M.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Returns:
    (the tokens, R = 2 + M; the places of kept patches among the P, in their order).

  Raises:
    ValueError: if shapes do not fit, `keep_ratio` is out of its range or `impl` is
      unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  B, T, _ = x.shape
  if scores.shape != (B, T - 1):
    raise ValueError(f"scores {scores.shape} of x {x.shape}: one for each patch")
  count = count_kept(keep_ratio, T - 1)
  if impl == "reference":
    return reference_reorganize(x, scores, keep_ratio=keep_ratio, fuse=fuse)
  if count == T - 1:
    return x, jnp.broadcast_to(jnp.arange(T - 1, dtype=jnp.int32), (B, T - 1))
  _, index = jax.lax.top_k(jax.lax.stop_gradient(scores), count)
  patches = x[:, 1:]
  parts = [x[:, :1], jnp.take_along_axis(patches, index[..., None], axis=1)]
  if fuse:
    parts.append(fused(patches, jnp.where(chosen(index, T - 1), 0, scores)))
  return jnp.concatenate(parts, axis=1), index.astype(jnp.int32)


def reduce_tokens(
  x: Float[Array, "B T D"],
  scores: Float[Array, "B T"],
  *,
  keep_ratio: float,
  fuse: bool = True,
  prefix: int = 0,
  valid: Bool[Array, "B T"] | None = None,
  impl: str = "auto",
) -> tuple[Float[Array, "B R D"], Int[Array, "B R"]]:
  """Keeps the tokens of the greatest scores in the row's order, and fuses the rest.

  It is `reorganize` for hosts that read the order of tokens, and for padded rows. A row
  keeps the share `keep_ratio` of its own tokens. The fused token stands at the place of
  the heaviest token in it, the first that was not kept. R is that of a row without
  padding; what a shorter row leaves free is padding, zeros at the end.

  Args:
    x: tokens.
    scores: of the tokens; their order takes no gradient.
    keep_ratio: share of the tokens that stay, see `count_kept`.
    fuse: whether there is a fused token.
    prefix: how many of a row's first tokens always stay, and do not count.
    valid: True at the real tokens.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Returns:
    (the tokens, the place in x that each stands for).

  Raises:
    ValueError: if shapes do not fit, an option is out of its range or `impl` is
      unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  B, T, _ = x.shape
  if scores.shape != (B, T):
    raise ValueError(f"scores {scores.shape} of x {x.shape}: one for each token")
  if not 0 <= prefix < T:
    raise ValueError(f"prefix = {prefix}; it must be from 0 to below T = {T}")
  count_kept(keep_ratio, T)
  own = {"keep_ratio": keep_ratio, "fuse": fuse, "prefix": prefix, "valid": valid}
  if impl == "reference":
    return reference_reduce_tokens(x, scores, **own)
  return _in_order(x, scores, **own)


def _in_order(x, scores, *, keep_ratio, fuse, prefix, valid):
  """Computes `reduce_tokens` by sorting."""
  B, T, _ = x.shape
  whole = count_kept(keep_ratio, T - prefix)
  real = jnp.ones((B, T), bool) if valid is None else valid
  x = x if valid is None else jnp.where(real[..., None], x, 0)
  if whole == T - prefix:
    places = jnp.arange(T, dtype=jnp.int32)
    return x, jnp.broadcast_to(places, (B, T))
  x, stays = _decided(x, scores, real, keep_ratio, fuse, prefix)
  key = jnp.where(stays, 0, jnp.where(real, 2, 1))
  order = jnp.argsort(key, axis=1, stable=True)[:, : prefix + whole + fuse]
  there = jnp.take_along_axis(real, order, axis=1)
  y = jnp.take_along_axis(x, order[..., None], axis=1)
  return jnp.where(there[..., None], y, 0), order.astype(jnp.int32)


def _decided(x, scores, real, keep_ratio, fuse, prefix):
  """Returns tokens with the fused one at its place, and which of them stay."""
  tokens = x.shape[1] - prefix
  ranked = real & (jnp.cumsum(real, axis=1) > prefix)
  counts = np.array([count_kept(keep_ratio, n) for n in range(tokens + 1)])
  count = jnp.asarray(counts)[ranked.sum(axis=1, keepdims=True)]
  kept = select.kept(scores, ranked, count)
  stays = kept | (real & ~ranked)
  if fuse:
    others = ranked & ~kept
    first = select.kept(scores, others, 1)
    token = fused(x, jnp.where(others, scores, 0))
    x, stays = jnp.where(first[..., None], token, x), stays | first
  return x, stays


def count_kept(keep_ratio: float, tokens: int) -> int:
  """Returns M = ceil(keep_ratio x tokens), the number of tokens that stay.

  As in the authors' code it is the ceiling of a product of Python numbers, whose
  rounding may add a token: ceil(0.55 x 100) is 56.

  Args:
    keep_ratio: share of the tokens.
    tokens: their number.

  Raises:
    ValueError: if `keep_ratio` is not in (0, 1].
  """
  if not 0 < keep_ratio <= 1:
    raise ValueError(f"keep_ratio = {keep_ratio}: it must be above 0, and at most 1")
  return min(math.ceil(keep_ratio * tokens), tokens)


def fused(
  x: Float[Array, "B T D"], weights: Float[Array, "B T"]
) -> Float[Array, "B 1 D"]:
  """Returns the weighted sum of tokens as one token, in the type of x."""
  wide = accumulator_dtype(x)
  with jax.default_matmul_precision("highest"):
    total = jnp.einsum("bt,btd->bd", weights.astype(wide), x.astype(wide))
  return total[:, None].astype(x.dtype)


def chosen(index: Int[Array, "B M"], tokens: int) -> Bool[Array, "B T"]:
  """Returns whether each of so many tokens is among those of an index."""
  rows = jnp.arange(len(index))[:, None]
  return jnp.zeros((len(index), tokens), bool).at[rows, index].set(True)

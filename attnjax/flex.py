"""FlexAttention's interface: custom functions for the scores and for the mask.

Juechu Dong et al. Flex Attention. 2024. arXiv:2412.05496. The names, the layout and the
meaning are those of `torch.nn.attention.flex_attention`:

  def alibi(score, b, h, q_idx, kv_idx):
    return score - slopes[h] * (q_idx - kv_idx)

  def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx

  block_mask = attnjax.create_block_mask(causal, None, None, T, S)
  attnjax.flex_attention(q, k, v, score_mod=alibi, block_mask=block_mask)

Both functions may read arrays that they capture; a score function's get gradients.

Not here: `kernel_options` and block sizes, which are chosen for the shape and device.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.attention import dot_product_attention
from attnjax.core import score_function
from attnjax.core.devices import at_once
from attnjax.core.masks import Mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskMod(Mask):
  """A mask by a traced function, at the positions 0, 1, 2, ... of queries and keys.

  Attributes:
    values: arrays (B|1, N|1, T|1, S|1) that are computed outside of the tiles.
    inner: the part of the function that runs on tiles.
  """

  values: Any
  inner: Any = dataclasses.field(metadata={"static": True})

  def operands(self):
    """Returns the arrays."""
    return self.values

  def seen(self, q, k, *operands):
    """Returns the function's value."""
    return self.inner(q, k, *operands)


@dataclasses.dataclass(frozen=True)
class _Inner:
  """The part of a mask function that runs on tiles; compared by the function's text."""

  function: score_function.Function
  run: Callable = dataclasses.field(compare=False)

  def __call__(self, q, k, *values):
    return self.run(jnp.zeros((), jnp.float32), q, k, *values)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockMask:
  """A mask function for one shape; made by `create_block_mask`.

  A block mask that a jitted function closes over is static: its blocks are listed when
  the function is traced. One that is an argument is data, and may change.

  Attributes:
    mask: the function as a `Mask`.
    shape: (B|1, H|1, T, S).
  """

  mask: Mask
  shape: tuple[int, int, int, int] = dataclasses.field(metadata={"static": True})

  def to_dense(self) -> Bool[Array, "B H T S"]:
    """Returns the dense mask."""
    return jnp.broadcast_to(self.mask.dense(*self.shape[2:]), self.shape)

  def sparsity(self) -> Float[Array, ""]:
    """Returns the percentage of scores that are not seen."""
    return 100.0 * (1.0 - self.to_dense().mean())

  def __str__(self) -> str:
    return str(self.mask)


def create_block_mask(
  mask_mod: Callable[..., Array],
  B: int | None,
  H: int | None,
  Q_LEN: int,
  KV_LEN: int,
) -> BlockMask:
  """Traces a mask function; where it is True, a query may attend.

  Args:
    mask_mod: (b, h, q_idx, kv_idx), integer scalars, to a boolean; in jax.numpy.
    B: number of examples; None if they all share one mask (b is then 0).
    H: number of query heads; None if they all share one mask (h is then 0).
    Q_LEN: number of queries.
    KV_LEN: number of keys.

  Raises:
    ValueError: if `mask_mod` does not return one boolean.
  """
  shape = (B or 1, H or 1, Q_LEN, KV_LEN)

  def function(score, b, h, q_idx, kv_idx):
    del score
    seen = jnp.asarray(mask_mod(b, h, q_idx, kv_idx))
    if seen.dtype != bool:
      raise ValueError(f"mask_mod returns {seen.dtype}; it must return a boolean")
    return seen

  traced, consts = score_function.trace(function, returns=jnp.bool_)
  known = not any(isinstance(x, jax.core.Tracer) for x in consts)
  with at_once() if known else contextlib.nullcontext():
    b, n, q, k = (jnp.arange(size, dtype=jnp.int32) for size in shape)
    inner, values = score_function.hoisted(traced, consts, (b, n), q[None], k[None])
    values = tuple(map(np.asarray if known else jnp.asarray, values))
  return BlockMask(MaskMod(values, _Inner(traced, inner)), shape)


def and_masks(*mask_mods: Callable[..., Array]) -> Callable[..., Array]:
  """Combines mask functions to one that is True where all of them are."""

  def both(b, h, q_idx, kv_idx):
    result = jnp.asarray(True)
    for mask_mod in mask_mods:
      result = result & mask_mod(b, h, q_idx, kv_idx)
    return result

  return both


def or_masks(*mask_mods: Callable[..., Array]) -> Callable[..., Array]:
  """Combines mask functions to one that is True where any of them is."""

  def either(b, h, q_idx, kv_idx):
    result = jnp.asarray(False)
    for mask_mod in mask_mods:
      result = result | mask_mod(b, h, q_idx, kv_idx)
    return result

  return either


def flex_attention(
  query: Float[Array, "B H T D"],
  key: Float[Array, "B K S D"],
  value: Float[Array, "B K S V"],
  score_mod: Callable[..., Array] | None = None,
  block_mask: BlockMask | Mask | None = None,
  scale: float | None = None,
  enable_gqa: bool = False,
  return_lse: bool = False,
  *,
  impl: str = "auto",
) -> Any:
  """Computes softmax attention with heads before tokens: (B, H, T, V).

  A query that may attend to nothing gives 0, with lse = -inf.

  Args:
    query: (B, H, T, D).
    key: (B, K, S, D); K is H, or, with `enable_gqa`, divides H.
    value: (B, K, S, V); V need not be D.
    score_mod: (score, b, h, q_idx, kv_idx) to a score; captured arrays get gradients.
    block_mask: from `create_block_mask`, for this shape; or a `Mask`.
    scale: D^-0.5 if None; scores are scaled before `score_mod`.
    enable_gqa: whether `key` and `value` may have fewer heads.
    return_lse: also returns the differentiable lse (B, H, T), a natural logarithm.
    impl: as `attnjax.dot_product_attention` has it.

  Raises:
    ValueError: if shapes do not fit.
    NotImplementedError: if the implementation cannot run a function.
  """
  (B, H, T, _), (K, S) = query.shape, key.shape[1:3]
  if H != K and not enable_gqa:
    raise ValueError(f"query has {H} heads and key {K}; that needs enable_gqa=True")
  if isinstance(block_mask, BlockMask):
    sizes = block_mask.shape
    fits = sizes[0] in (1, B) and sizes[1] in (1, H)
    if not fits or sizes[2:] != (T, S):
      raise ValueError(f"block_mask is for {sizes}; (B, H, T, S) is {(B, H, T, S)}")
    block_mask = block_mask.mask
  out, lse = dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)),
    mask=block_mask,
    score=score_mod,
    scale=scale,
    return_lse=True,
    impl=impl,
  )
  out = out.swapaxes(1, 2)
  return (out, lse.swapaxes(1, 2)) if return_lse else out

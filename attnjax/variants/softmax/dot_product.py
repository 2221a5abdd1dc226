"""Scaled dot-product attention with multi-head and grouped-query heads: the baseline.

Ashish Vaswani et al. Attention Is All You Need. 2017. arXiv:1706.03762, section 3.2.
Joshua Ainslie et al. GQA. 2023. arXiv:2305.13245, section 2.2 (K < N heads of k and v).
Code: `jax.nn.dot_product_attention` has the same layout and meaning.

  score[t, s] = scale q[t, n] . k[s, n K / N] + bias[t, s]    where seen, else -inf
  out[t, n]   = sum_s softmax_s(score[t])[s] v[s, n K / N]

Causal attention with T != S is aligned bottom-right: token t sees s <= t + S - T. A
token that sees nothing gives 0.

Cost: O(T S H N) time; memory O(T + S) in "xla", O(T S N) in "reference". Decoding
keeps 2 K H elements a token.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, D model width.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import definition, masks, softmax
from attnjax.core.cache import KeyValueCache
from attnjax.core.masks import Mask
from attnjax.core.scores import Scores
from attnjax.nn import projections
from attnjax.ops import self_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
FORMS = ("causal", "sequence", "image")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  mask: Bool[Array, "#B #N #T #S"] | Mask | None = None,
  bias: Float[Array, "#B #N #T #S"] | None = None,
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes softmax attention: (B, T, N, V), and lse (B, T, N) if `return_lse`.

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    causal: token t sees the keys s <= t + offset.
    offset: S - T if None, which aligns the last query with the last key.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    mask: True = may attend, in conjunction with the rest; or a Mask of the places 0,
      1, 2, ... of queries and keys.
    bias: added to the scaled scores; its gradient is summed over broadcast axes.
    scale: H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, differentiable.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  (B, T, N, _), S = q.shape, k.shape[1]
  seen = masks.conjunction(
    (B, N, T, S), causal, offset, segment_ids, kv_segment_ids, mask
  )
  scores = Scores(seen, bias=bias)
  softmax.check(q, k, v, scores)
  if impl == "reference":
    given = {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids, "mask": mask}
    given |= {"causal": causal, "offset": offset, "bias": bias, "scale": scale}
    return reference(q, k, v, **given, return_lse=return_lse)
  out, lse = attention.attend(q, k, v, scores, scale=scale, impl=impl)
  return (out, lse) if return_lse else out


def reference(q, k, v, *, bias=None, scale=None, return_lse=False, mask=None, **seen):
  """Computes the definition: one (T, S) matrix of scores for each head."""
  shape = q.shape[1], k.shape[1]
  mask = mask.dense(*shape) if hasattr(mask, "dense") else mask
  seen = definition.visible(*shape, mask=mask, **seen)
  out, lse = definition.attention(q, k, v, seen, bias=bias, scale=scale)
  return (out, lse) if return_lse else out


class Layer(nnx.Module):
  """Projections, rotary positions and `attend`; x (B, T, D) or (B, H, W, D)."""

  chosen_keys = "gathered"  # by a cache policy
  softmax_alone = True  # `mix` is H^-0.5 scores of what is seen, their softmax, values

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,  # 0: as many as heads
    head_dim: int = 0,  # 0: dim / heads
    qk_norm: bool = False,
    rope_theta: float = 10000.0,  # 0: no rotation
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads,
      size,
      qk_norm=qk_norm,
      rope_theta=rope_theta,
      bias=qkv_bias,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.size, self.impl = form, size, impl
    self.kv_heads = kv_heads

  @property
  def heads(self) -> int:
    """Returns N, the query heads that the layer has, also after some were pruned."""
    return self.qkv.query.kernel.shape[-2]

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B *T D"], **context: Unpack[Context]) -> Heads:
    """Returns the rotated queries and keys, and the values, of every token."""
    return self_attention.heads(
      x, context, self.qkv, form=self.form, refuses=self.refuses
    )

  def mix(self, heads: Heads, *, bias: Array | None = None) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads, with a bias (B|1, N|1, T|1, S|1) of scores."""
    causal = self.form == "causal"
    given: dict[str, Any] = {"causal": causal, "bias": bias, "impl": self.impl}
    return attend(heads.q, heads.k, heads.v, **given, **heads.seen)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *T D"]:
    """Returns the projection of all heads' outputs, in the shape of the input."""
    x = heads.tokens.x
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *T D"], **context: Unpack[Context]
  ) -> Float[Array, "B *T D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache with room for `length` tokens."""
    return self_attention.empty_cache(
      self.form, batch, length, self.kv_heads, self.size, dtype, self.heads
    )

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)


def _shapes(B, T, S, N, K, H, V):
  return {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}


def _packed(key):
  del key
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _random_mask(key):
  mask = jax.random.bernoulli(key, 0.5, (2, 1, 33, 47))
  return mask.at[0, :, :5].set(False)  # rows that see nothing


CASES = (
  Case("whole", _shapes(2, 64, 64, 2, 2, 16, 16)),
  Case("causal_grouped", _shapes(2, 65, 65, 4, 2, 8, 8), {"causal": True}),
  Case("one_token", _shapes(1, 1, 1, 1, 1, 4, 4), {"causal": True}),
  Case("seven", _shapes(1, 7, 7, 3, 1, 8, 5), {"causal": True, "return_lse": True}),
  Case("more_keys", _shapes(1, 7, 63, 2, 2, 8, 8), {"causal": True}),
  Case("more_queries", _shapes(1, 63, 7, 2, 1, 8, 8), {"causal": True}),
  Case("segments", _shapes(2, 39, 39, 2, 1, 8, 8), {"segment_ids": _packed}),
  Case(
    "mask_and_bias",
    _shapes(2, 33, 47, 2, 2, 8, 8) | {"bias": (1, 2, 33, 47)},
    {"mask": _random_mask, "scale": 0.3, "return_lse": True},
  ),
  Case("tiles", _shapes(1, 530, 1030, 2, 1, 4, 4), {"causal": True}),
)
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2}
GROWTH = 2.0

"""Visual attention redistribution without weights, by attention to groups of keys."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.core import masks, softmax
from attnjax.core.scores import Scores
from attnjax.variants.analysis.visual_sinks.definition import reference
from attnjax.variants.analysis.visual_sinks.weights import image_centric

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  sink_mask: Bool[Array, "B S"],
  vis_mask: Bool[Array, "B S"],
  query_mask: Bool[Array, "B T"] | None = None,
  rho: ArrayLike = 0.8,
  summ: ArrayLike = 0.2,
  p: ArrayLike = 0.4,
  return_selected: bool = False,
  impl: str = "auto",
  **options: Any,
) -> Any:
  """Computes attention that gives weight of sinks to the image: (B, T, N, V).

  Args:
    q: queries; one of them in decoding.
    k: keys; those of the cache in decoding.
    v: values.
    sink_mask: True at the sinks among the keys, those of the text too.
    vis_mask: True at the keys of the image.
    query_mask: True where redistribution may be; everywhere if None.
    rho: the least share of a head's weight on the image that is not on sinks.
    summ: the least weight on the image.
    p: the share of the sinks' weight that is moved.
    return_selected: also returns which heads look at the image, bool (B, N, T).
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.
    **options: `causal`, `offset`, `segment_ids`, `kv_segment_ids`, `bias` and `scale`,
      as in `dot_product.attend`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  for name, array in (("sink_mask", sink_mask), ("vis_mask", vis_mask)):
    if array.shape != k.shape[:2]:
      raise ValueError(f"{name} has the shape {array.shape}, not {k.shape[:2]}")
  how: dict[str, Any] = {"sink_mask": sink_mask, "vis_mask": vis_mask, "rho": rho}
  how |= {"summ": summ, "p": p, "query_mask": query_mask}
  if impl == "reference":
    out, selected = reference(q, k, v, **how, **options, return_selected=True)
  else:
    groups = _groups(sink_mask, vis_mask)
    outs, lses = _attended(q, k, v, groups, impl=impl, **options)
    out, selected = _joined(outs, _shares(lses), **how)
  return (out.astype(v.dtype), selected) if return_selected else out.astype(v.dtype)


def group_shares(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  *,
  sink_mask: Bool[Array, "B S"],
  vis_mask: Bool[Array, "B S"],
  **options: Any,
) -> Float[Array, "4 B N T"]:
  """Computes the weight of each query on four groups of keys, without a matrix.

  They are the image without its sinks, its sinks, the sinks of the text, all others.

  Args:
    q: queries.
    k: keys.
    sink_mask: True at the sinks.
    vis_mask: True at the image.
    **options: of `attend`, who sees whom, `bias`, `scale` and `impl`.
  """
  groups, one = _groups(sink_mask, vis_mask), jnp.ones_like(k[..., :1])
  return _shares(_attended(q, k, one, groups, **options)[1]).swapaxes(2, 3)


def _groups(sink_mask, vis_mask):
  """Returns masks of keys: the image, its sinks, those of the text, all others."""
  both = vis_mask & sink_mask
  return jnp.stack([vis_mask ^ both, both, sink_mask ^ both, ~sink_mask & ~vis_mask])


def _attended(
  q,
  k,
  v,
  groups,
  *,
  causal=False,
  offset=None,
  segment_ids=None,
  kv_segment_ids=None,
  bias=None,
  scale=None,
  impl="auto",
):
  """Returns the outputs and the lse of attention to each group of keys."""
  (B, T, N, _), S = q.shape, k.shape[1]
  others = kv_segment_ids
  if others is None:
    others = jnp.zeros((B, S), jnp.int32) if segment_ids is None else segment_ids
  ids = jnp.zeros((B, T), jnp.int32) if segment_ids is None else segment_ids

  def one(group):
    own = jnp.where(group, others, -1)
    mask = masks.conjunction((B, N, T, S), causal, offset, ids, own)
    scores = Scores(mask, bias=bias)
    softmax.check(q, k, v, scores)
    return attention.attend(q, k, v, scores, scale=scale, impl=impl)

  return jax.vmap(one)(groups)


def _shares(lses):
  """Returns the groups' weights exp(lse - lse of all), (4, B, T, N); 0 of nothing."""
  top = jax.lax.stop_gradient(lses.max(axis=0))
  raw = jnp.exp(lses - jnp.where(jnp.isfinite(top), top, 0))
  total = raw.sum(axis=0)
  return raw / jnp.where(total > 0, total, 1)


def _joined(outs, shares, *, sink_mask, vis_mask, query_mask, rho, summ, p):
  """Returns (out, selected) from the attention to each of `_groups`.

  Moving p of the sinks' weight to the rest of the image in its own proportions scales
  each group's mean as a whole:

    w_rest <- w_rest + p (w_sinks of image and text),   w_sinks <- (1 - p) w_sinks
  """
  image, own, text, others = shares
  on_rest, on_sinks = (w.swapaxes(1, 2) for w in (image, own))
  how = {"rho": rho, "summ": summ}
  selected = image_centric(on_rest, on_sinks, sink_mask, vis_mask, **how)
  if query_mask is not None:
    selected &= query_mask[:, None]
  moved = jnp.where(selected.swapaxes(1, 2), p, 0.0).astype(image.dtype)
  image = image + moved * (own + text)
  kept = image, (1 - moved) * own, (1 - moved) * text, others
  weighted = [w[..., None] * out.astype(w.dtype) for w, out in zip(kept, outs)]
  return functools.reduce(operator.add, weighted), selected

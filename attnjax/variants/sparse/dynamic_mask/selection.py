"""Importance of tokens, and which of them a query keeps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core import linear, masks, select
from attnjax.core.softmax import wide

BIAS_FORMS = ("exp", "linear")
# exp of more than this overflows sums of products with values.
_STEEPEST = 30.0


def value_importance(
  v: Float[Array, "B S K V"],
  weight: Float[Array, "K V K"],
  amplitude: Float[Array, "K"],
  *,
  offset: Float[Array, "K"] | None = None,
  form: str = "exp",
) -> Float[Array, "B S K"]:
  """How important each token is to each key head, from the values of all of them.

  Args:
    v: values, not rotated.
    weight: dt = sum over heads and features of v weight.
    amplitude: A.
    offset: added to dt.
    form: "exp": exp(A softplus(dt)), its exponent at most 30; "linear": A
      softplus(dt). Both float32 (float64 for float64).
  """
  check_known("bias_form", form, BIAS_FORMS)
  v, weight, amplitude = (x.astype(wide(v)) for x in (v, weight, amplitude))
  dt = jnp.einsum("bskv,kvn->bsn", v, weight)
  dt = dt if offset is None else dt + offset[None, None]
  importance = amplitude[None, None] * jax.nn.softplus(dt)
  return jnp.exp(jnp.minimum(importance, _STEEPEST)) if form == "exp" else importance


def allowed(
  shape: tuple[int, int, int],
  causal: bool,
  documents: Int[Array, "B T"] | None = None,
  mask: Bool[Array, "#B 1 #T #S"] | None = None,
) -> Bool[Array, "#B 1 T S"]:
  """Which keys a query may select, for the shape (B, T, S)."""
  B, T, S = shape
  seen = masks.conjunction((B, 1, T, S), causal, segment_ids=documents, array=mask)
  return seen.dense(T, S)


def selected(
  importance: Float[Array, "B S K"],
  seen: Bool[Array, "#B 1 T S"],
  keep_keys: int,
  block_smooth: int = 0,
) -> Bool[Array, "B K T S"]:
  """The keys that each query keeps of those it may see; of equals the earlier."""
  kept = select.kept(importance.swapaxes(1, 2)[:, :, None], seen, keep_keys)
  return smoothed(kept, block_smooth) & seen if block_smooth else kept


def smoothed(kept: Bool[Array, "B K T S"], size: int) -> Bool[Array, "B K T S"]:
  """All or none of each aligned group of keys: all where more than half are kept."""
  S = kept.shape[-1]
  group = jnp.pad(kept, ((0, 0),) * 3 + ((0, -S % size),))
  count = group.reshape(*kept.shape[:3], -1, size).sum(axis=-1)
  length = jnp.minimum(size, S - size * jnp.arange(count.shape[-1]))
  return jnp.repeat(2 * count > length, size, axis=-1)[..., :S]


def documents(
  segment_ids: Int[Array, "B T"] | None,
) -> Int[Array, "B T"] | None:
  """Numbers of the runs of equal ids, -1 at the padding; None if there are no ids."""
  if segment_ids is None:
    return None
  filled, real = linear.spans(segment_ids)
  return jnp.where(real, masks.documents(filled), -1)


def best_of_documents(
  importance: Float[Array, "B T K"], documents: Int[Array, "B T"], keep_keys: int
) -> Bool[Array, "B K T"]:
  """Whether a token is among the `keep` best of its document."""
  B, T, K = importance.shape
  heads = importance.swapaxes(1, 2)
  documents = jnp.broadcast_to(documents[:, None], (B, K, T))
  order = jnp.lexsort((-heads, documents), axis=-1)
  run = jnp.take_along_axis(documents, order, axis=2)
  first = jnp.concatenate(
    [run[..., :1] < run[..., :1] + 1, run[..., 1:] != run[..., :-1]], 2
  )
  place = jnp.arange(T)[None, None]
  start = jax.lax.cummax(jnp.where(first, place, 0), axis=2)
  best = (place - start < keep_keys) & (run >= 0)
  return jnp.take_along_axis(best, jnp.argsort(order, axis=2), axis=2)

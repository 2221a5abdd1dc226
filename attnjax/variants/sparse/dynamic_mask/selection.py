"""The importance of tokens, and the selection of keys by it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core import masks, select
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import linear

BIAS_FORMS = ("exp", "linear")
# The exp of a greater exponent makes sums of products with values overflow.
_STEEPEST = 30.0


def value_importance(
  v: Float[Array, "B S K V"],
  weight: Float[Array, "K V K"],
  amplitude: Float[Array, "K"],
  *,
  offset: Float[Array, "K"] | None = None,
  form: str = "exp",
) -> Float[Array, "B S K"]:
  """Computes the importance of each token to each key head from all heads' values.

  Args:
    v: values, not rotated.
    weight: dt = sum over heads and features of v weight.
    amplitude: A.
    offset: added to dt, as a bias.
    form: "exp": exp(A softplus(dt)), its exponent at most 30; "linear": A
      softplus(dt). Either is float32 (float64 for float64).
  """
  check_known("bias_form", form, BIAS_FORMS)
  v, weight, amplitude = (
    x.astype(accumulator_dtype(v)) for x in (v, weight, amplitude)
  )
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
  """Returns which keys a query may select, for the shape (B, T, S)."""
  B, T, S = shape
  seen = masks.conjunction((B, 1, T, S), causal, segment_ids=documents, array=mask)
  return seen.dense(T, S)


def selected(
  importance: Float[Array, "B S K"],
  seen: Bool[Array, "#B 1 T S"],
  keep_keys: int,
  block_smooth: int = 0,
) -> Bool[Array, "B K T S"]:
  """Returns which allowed keys each query keeps; of equal importances the earlier."""
  kept = select.kept(importance.swapaxes(1, 2)[:, :, None], seen, keep_keys)
  return smoothed(kept, block_smooth) & seen if block_smooth else kept


def smoothed(kept: Bool[Array, "B K T S"], size: int) -> Bool[Array, "B K T S"]:
  """Returns all keys of an aligned group if more than half of it is kept, else none."""
  S = kept.shape[-1]
  group = jnp.pad(kept, ((0, 0),) * 3 + ((0, -S % size),))
  count = group.reshape(*kept.shape[:3], -1, size).sum(axis=-1)
  length = jnp.minimum(size, S - size * jnp.arange(count.shape[-1]))
  return jnp.repeat(2 * count > length, size, axis=-1)[..., :S]


def documents(
  segment_ids: Int[Array, "B T"] | None,
) -> Int[Array, "B T"] | None:
  """Returns the consecutive numbers of the runs of equal ids, -1 at padding.

  Returns None if there are no ids.
  """
  if segment_ids is None:
    return None
  filled, real = linear.spans(segment_ids)
  return jnp.where(real, masks.documents(filled), -1)


def best_of_documents(
  importance: Float[Array, "B T K"], documents: Int[Array, "B T"], keep_keys: int
) -> Bool[Array, "B K T"]:
  """Returns whether a token is among the `keep_keys` best of its document."""
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

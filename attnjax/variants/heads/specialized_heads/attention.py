"""The function: attention by the one head that a router takes, and its cases."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.contract import Case, check_known
from attnjax.core import definition, softmax
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.softmax import dot_product

IMPLEMENTATIONS = dot_product.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T K H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  logits: Float[Array, "B #T N"],
  *,
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B T 1 V"]:
  """Computes r_e A_e, the output of the head e of the greatest logit, (B, T, 1, V).

  Args:
    q: queries of all heads, K = N, or of the head that is taken alone, K = 1.
    k: keys.
    v: values.
    logits: of the heads: (B, T, N), or (B, 1, N) where a row takes one head, whose
      attention alone is computed then.
    causal: token t sees the keys s <= t + offset.
    offset: S - T if None.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check(q, k, v, logits)
  seen = {"causal": causal, "offset": offset, "segment_ids": segment_ids}
  seen |= {"kv_segment_ids": kv_segment_ids, "scale": scale}
  if impl == "reference":
    return reference(q, k, v, logits, **seen)
  if segment_ids is not None and logits.shape[1] == segment_ids.shape[1]:
    # Nothing of padding reaches a gate.
    logits = jnp.where((segment_ids >= 0)[..., None], logits, 0)
  gate, head = taken(logits)
  if q.shape[2] > 1 and logits.shape[1] == 1:
    q, k, v = (_of_row(x, head[:, 0]) for x in (q, k, v))
  given: dict[str, Any] = seen | {"impl": impl}
  out = dot_product.attend(q, k, v, **given).astype(gate.dtype)
  if out.shape[2] > 1:
    out = jnp.take_along_axis(out, head[:, :, None, None], axis=2)
  return (out * gate[:, :, None, None]).astype(v.dtype)


def taken(
  logits: Float[Array, "B T N"],
) -> tuple[Float[Array, "B T"], Int[Array, "B T"]]:
  """Returns (r_e, e): the greatest softmax and its head; of equals the first head."""
  share = jax.nn.softmax(logits.astype(accumulator_dtype(logits)), axis=-1)
  head = jnp.argmax(jax.lax.stop_gradient(logits), axis=-1).astype(jnp.int32)
  return jnp.take_along_axis(share, head[..., None], axis=-1)[..., 0], head


def _check(q, k, v, logits):
  """Raises ValueError for shapes that do not fit."""
  softmax.check(q, k, v)
  heads, N = q.shape[2], logits.shape[2]
  if k.shape[2] != heads or heads not in (1, N):
    raise ValueError(
      f"{heads} heads of q, {k.shape[2]} of k, logits of {N}: all {N}, or the one taken"
    )


def _of_row(x, head):
  """Returns the head (B,) of each row of x (B, T, N, H), as (B, T, 1, H)."""
  return jnp.take_along_axis(x, head[:, None, None, None], axis=2)


def reference(q, k, v, logits, **given):
  """Computes the definition: all heads, of which the gates leave one."""
  scale, seen = given.pop("scale", None), given
  seen = definition.visible(q.shape[1], k.shape[1], **seen)
  out, _ = definition.attention(q, k, definition.wide(v), seen, scale=scale)
  logits = definition.wide(logits)
  ids = given.get("segment_ids")
  if ids is not None and logits.shape[1] == ids.shape[1]:
    logits = jnp.where(ids[..., None] >= 0, logits, 0)
  best = definition.best(logits, jnp.ones(logits.shape, bool), 1)
  gate = best * jax.nn.softmax(logits, axis=-1)
  if out.shape[2] == 1:
    gate = gate.sum(axis=-1, keepdims=True)
  return (gate[..., None] * out).sum(axis=2, keepdims=True).astype(v.dtype)


def _shapes(B, T, S, N, H, V, rows):
  return {"q": (B, T, N, H), "k": (B, S, N, H), "v": (B, S, N, V)} | {
    "logits": (B, rows, 4)
  }


def _packed(_):
  return jnp.array([[2] * 5 + [-1] * 2 + [0] * 6, [-1] + [4] * 12])


CASES = (
  Case(
    "tokens",
    _shapes(2, 13, 13, 4, 4, 5, 13),
    {"causal": True, "segment_ids": _packed},
  ),
  Case("rows", _shapes(2, 7, 9, 4, 4, 4, 1), {"scale": 0.3}),
)

"""Attention between the channels of each group."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.dtypes import accumulator_dtype
from pallas_kernels.calling import BACKENDS

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
SCALES = ("channels", "tokens")


def attend(
  q: Float[Array, "B T N V"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  *,
  scale_by: str = "channels",
  scale: float | None = None,
  valid: Bool[Array, "B T"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N H"]:
  """Computes softmax attention of key channels to value channels, applied to queries.

  Args:
    q: queries, whose channels are mixed, token by token.
    k: keys; their channels are the rows of the weights.
    v: values; their channels are the columns of the weights.
    scale_by: the logits are multiplied by H^-0.5 ("channels"), or by the number of real
      tokens to the power -0.5 ("tokens").
    scale: the logits' factor, instead of `scale_by`.
    valid: True at the real tokens; others are not seen, and give 0.
    impl: "reference", "xla", or "auto", which takes "xla". The kernels of softmax
      attention keep a token's features whole; here the features are all T tokens.

  Raises:
    ValueError: if shapes do not fit, or `scale_by` or `impl` is unknown.
    NotImplementedError: if a kernel is asked for.
  """
  check_known("scale_by", scale_by, SCALES)
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl in BACKENDS:
    raise NotImplementedError(
      f"impl {impl!r} has no attention between channels, a softmax of (H, V) numbers"
      " between two matrix products; 'xla' has it"
    )
  if q.shape != v.shape or k.shape[:3] != v.shape[:3]:
    raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} do not fit")
  if impl == "reference":
    return reference(q, k, v, scale_by, scale, valid)
  if valid is not None:
    q, k, v = (jnp.where(valid[..., None, None], x, 0) for x in (q, k, v))
  logits = jnp.einsum(
    "btnh,btnv->bnhv", k, v, preferred_element_type=accumulator_dtype(k)
  )
  weights = jax.nn.softmax(logits * _factor(scale, scale_by, k, valid), axis=-1)
  out = jnp.einsum("btnv,bnhv->btnh", q.astype(weights.dtype), weights)
  return out.astype(q.dtype)


def reference(q, k, v, scale_by="channels", scale=None, valid=None):
  """Computes `attend` by its definition: sums of all products."""
  real = jnp.ones(q.shape[:2], bool) if valid is None else valid
  query, key, value = (
    jnp.where(real[..., None, None], definition.wide(x), 0) for x in (q, k, v)
  )
  channels = definition.wide(jnp.full(q.shape[0], k.shape[3]))
  tokens = jnp.maximum(definition.wide(real.sum(axis=1)), 1)
  factor = (channels if scale_by == "channels" else tokens) ** -0.5
  if scale is not None:
    factor = jnp.full(q.shape[0], scale)
  logits = (key[..., :, None] * value[..., None, :]).sum(axis=1)
  weights, _ = definition.weights(factor[:, None, None, None] * logits)
  mixed = (query[..., None, :] * weights[:, None]).sum(axis=-1)
  return mixed.astype(q.dtype)


def _factor(scale, scale_by, k, valid):
  if scale is not None:
    return scale
  if scale_by == "channels":
    return k.shape[-1] ** -0.5
  if valid is None:
    return k.shape[1] ** -0.5
  count = valid.sum(axis=1).astype(accumulator_dtype(k))
  return jax.lax.rsqrt(jnp.maximum(count, 1))[:, None, None, None]


def _shapes(B, T, N, H, V):
  return {"q": (B, T, N, V), "k": (B, T, N, H), "v": (B, T, N, V)}


def _padded(key: jax.Array) -> jax.Array:
  del key
  return jnp.arange(65) < jnp.array([[65], [9], [0]])


CASES = (
  Case("whole", _shapes(2, 63, 2, 8, 8)),
  Case("one_token", _shapes(1, 1, 1, 4, 4), {"scale_by": "tokens"}),
  Case("seven", _shapes(1, 7, 3, 5, 3), {"scale": 0.3}),
  Case("valid", _shapes(3, 65, 2, 4, 4), {"valid": _padded, "scale_by": "tokens"}),
)
REFUSED = dict.fromkeys(BACKENDS, tuple(case.name for case in CASES))

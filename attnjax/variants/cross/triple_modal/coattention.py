"""Co-attention of three streams: one softmax for each block of keys."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from attnjax import attention
from attnjax.contract import check_known, check_options
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.triple_modal import definition
from attnjax.variants.cross.triple_modal.weights import KINDS, Weights, check

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B *M T N H"],
  k: Float[Array, "B M S N H"],
  v: Float[Array, "B M S N V"],
  *,
  valid: Bool[Array, "B M S"] | None = None,
  drop_rate: float = 0.0,
  key: Key[Array, ""] | None = None,
  impl: str = "auto",
) -> Float[Array, "B M T N V"]:
  """Computes attention to each of M blocks of keys, with a softmax for each block.

  Args:
    q: queries (B, T, N, H) that all blocks share, or (B, M, T, N, H).
    k: keys of the blocks.
    v: values of the blocks.
    valid: True at the real keys; a block without any gives 0.
    drop_rate: share of the weights that is dropped with a key.
    key: turns dropout on.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
    NotImplementedError: for dropout in "reference".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  B, M, S = k.shape[:3]
  shared = q.ndim == 4
  if (q.shape[0], *q.shape[-2:]) != (B, *k.shape[3:]) or v.shape[:4] != k.shape[:4]:
    raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} do not fit")
  if not shared and (q.ndim != 5 or q.shape[1] != M):
    raise ValueError(f"q {q.shape}: (B, T, N, H), or (B, {M}, T, N, H)")
  if impl == "reference":
    definition.refuse(key)
    return definition.reference(q, k, v, valid=valid)
  if shared:
    q = jnp.broadcast_to(q[:, None], (B, M, *q.shape[1:]))
  seen: dict[str, Any] = {}
  if valid is not None:
    seen["segment_ids"] = jnp.zeros((B * M, q.shape[2]), jnp.int32)
    seen["kv_segment_ids"] = jnp.where(valid, 0, -1).reshape(B * M, S)
  if key is not None:
    seen |= {"dropout_rng": key, "dropout_rate": drop_rate}
  blocks = (x.reshape(B * M, *x.shape[2:]) for x in (q, k, v))
  out = attention.dot_product_attention(*blocks, impl=impl, **seen)
  return out.reshape(B, M, *out.shape[1:])


def tri_coattention(
  x1: Float[Array, "B T D"],
  x2: Float[Array, "B T D"],
  x3: Float[Array, "B T D"],
  weights: Weights,
  *,
  kind: str = "joint",
  heads: int = 1,
  present: Bool[Array, "B 3"] | None = None,
  drop_rate: float = 0.1,
  key: Key[Array, ""] | None = None,
  impl: str = "auto",
) -> tuple[Array, Array, Array, Float[Array, "B L D"]]:
  """Computes the co-attention of three streams, and their concatenation.

  Args:
    x1: tokens of the first stream, MRI.
    x2: tokens of the second stream, PET; token t belongs to token t of the others.
    x3: tokens of the third stream, the clinical table.
    weights: the parameters of that kind.
    kind: one of KINDS: who asks whom.
    heads: N, which divides D.
    present: False where an example lacks a stream: whatever stands there is replaced
      by the stream's learned token, and its keys are seen by nobody.
    drop_rate: share of the weights that is dropped with a key.
    key: turns dropout on.
    impl: one of IMPLEMENTATIONS, or "auto".

  Returns:
    (out_1, out_2, out_3, all of them): (B, T, D) each, and (B, 3 T, D), where "joint"
    interleaves the first two.

  Raises:
    ValueError: if shapes do not fit, or a name is unknown.
    NotImplementedError: for dropout in "reference".
  """
  check_options(kind=(kind, KINDS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
  _check((x1, x2, x3), weights, kind, heads)
  if impl == "reference":
    definition.refuse(key)
    return definition.reference_tri_coattention(
      x1, x2, x3, weights, kind=kind, heads=heads, present=present
    )
  x = jnp.stack([x1, x2, x3], axis=1)
  real = None if present is None else jnp.broadcast_to(present[..., None], x.shape[:3])
  x, q, k, v, seen = project(x, real, weights, kind, heads)
  context = attend(q, k, v, valid=seen, drop_rate=drop_rate, key=key, impl=impl)
  out = merge(context, x, weights, kind)
  return out[:, 0], out[:, 1], out[:, 2], fused(out, kind)


def _check(streams, weights, kind, heads):
  """Raises ValueError if the streams, the parameters or the heads do not fit."""
  shapes = [x.shape for x in streams]
  if len(set(shapes)) != 1:
    raise ValueError(f"streams {shapes}: token t of each belongs together")
  check(weights, kind, shapes[0][-1])
  head_size(shapes[0][-1], heads)


def head_size(D: int, heads: int) -> int:
  """Returns H; ValueError if the heads do not divide D."""
  if heads < 1 or D % heads:
    raise ValueError(f"heads = {heads}; it must divide D = {D}")
  return D // heads


def project(
  x: Float[Array, "B 3 T D"],
  real: Bool[Array, "B 3 T"] | None,
  weights: Weights,
  kind: str,
  heads: int,
) -> tuple[Array, Array, Array, Array, Array | None]:
  """Computes (x with learned tokens, queries, keys, values, which keys are seen)."""
  if real is not None:
    token = weights.absent.astype(x.dtype)[:, None]
    x = jnp.where(real[..., None], x, token)
  k, v = (_mapped(x, weights, name) for name in ("key", "value"))
  if kind == "ring":  # stream m asks stream m + 1
    q = _mapped(x, weights, "query")
    k, v = (jnp.roll(y, -1, axis=1) for y in (k, v))
    real = None if real is None else jnp.roll(real, -1, axis=1)
  else:
    D = x.shape[-1]
    wide = jnp.moveaxis(x, 1, 2).reshape(x.shape[0], x.shape[2], 3 * D)
    q = product("bti,ij->btj", wide, weights.joint) + weights.joint_bias
    q = q.astype(x.dtype)
  if kind == "joint_mha":
    q = _added(product("bti,mij->bmtj", q, weights.query), weights.query_bias, x)
  size = x.shape[-1] // heads
  q, k, v = (y.reshape(*y.shape[:-1], heads, size) for y in (q, k, v))
  return x, q, k, v, real


def merge(
  context: Float[Array, "B 3 T N V"],
  x: Float[Array, "B 3 T D"],
  weights: Weights,
  kind: str,
) -> Float[Array, "B 3 T D"]:
  """Computes the outputs of the streams; all but "joint_mha" read [x, context]."""
  context = context.reshape(x.shape).astype(x.dtype)
  if kind != "joint_mha":
    context = jnp.concatenate([x, context], axis=-1)
  out = product("bmti,mij->bmtj", context, weights.out)
  return _added(out, weights.out_bias, x)


def fused(out: Float[Array, "B 3 T D"], kind: str) -> Float[Array, "B L D"]:
  """Concatenates the streams' tokens; "joint" interleaves the first two streams."""
  B, _, T, D = out.shape
  if kind != "joint":
    return out.reshape(B, 3 * T, D)
  vision = jnp.moveaxis(out[:, :2], 1, 2).reshape(B, 2 * T, D)
  return jnp.concatenate([vision, out[:, 2]], axis=1)


def product(text: str, x: Array, y: Array) -> Array:
  """Computes a product in the type of x, added up in float32."""
  return jnp.einsum(
    text, x, y.astype(x.dtype), preferred_element_type=accumulator_dtype(x)
  )


def _mapped(x, weights, name):
  matrix, bias = getattr(weights, name), getattr(weights, f"{name}_bias")
  return _added(product("bmti,mij->bmtj", x, matrix), bias, x)


def _added(y, bias, x):
  return (y + bias[:, None]).astype(x.dtype)

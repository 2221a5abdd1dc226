"""The function: a softmax over pairs of keys, in every implementation."""

import functools
from typing import Any, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax import backends
from attnjax.contract import check_known
from attnjax.core import third_order
from attnjax.variants.higher_order.tensor_attention import determinant, sight
from attnjax.variants.higher_order.tensor_attention.definition import reference
from attnjax.variants.higher_order.tensor_attention.sight import Seen
from pallas_kernels import third_order as kernels

IMPLEMENTATIONS = backends.IMPLEMENTATIONS
KINDS = ("trilinear", "determinant")


def attend(
  q: Float[Array, "B T N H"],
  k1: Float[Array, "B S K H"],
  k2: Float[Array, "B S K H"],
  v1: Float[Array, "B S K V"],
  v2: Float[Array, "B S K V"],
  *,
  kind: str = "trilinear",
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
  **seen: Unpack[Seen],
) -> Any:
  """Computes third-order attention, (B, T, N, V), and lse (B, T, N) if `return_lse`.

  Args:
    q: queries.
    k1: keys of the first stream; K divides N, query head n reads key head n K // N.
    k2: keys of the second stream.
    v1: values of the first stream.
    v2: values of the second stream.
    kind: "trilinear", or "determinant": the sum of determinants of pieces of 3.
    scale: of the scores; H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, in float32.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest on this platform.
    **seen: causal, offset, window, segment_ids, kv_segment_ids and mask, see `Seen`.

  Raises:
    ValueError: if shapes do not fit, or a number or a name is not allowed.
    NotImplementedError: if the named implementation does not support the problem.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  check_known("kind", kind, KINDS)
  third_order.check(q, k1, k2, v1, v2)
  window = sight.windows(seen.get("window"), 2)
  if impl == "reference":
    return reference(q, k1, k2, v1, v2, kind, scale, return_lse, **seen)
  scale = q.shape[3] ** -0.5 if scale is None else scale
  who, ids, offset = sight.of(q, k1, scale, window, seen)
  if 0 in (*q.shape, *v1.shape):
    found = _nothing(q, v1)
    return found if return_lse else found[0]
  x: tuple[Any, ...] = q, k1, k2, v1, v2
  if ids is not None:
    real = [(i >= 0)[..., None, None] for i in (ids[0], *[ids[1]] * 4)]
    x = tuple(jnp.where(one, y, 0) for one, y in zip(real, x))
  if kind == "determinant":
    x = *determinant.features(*x[:3]), *x[3:]
  out, lse = _run(impl, who, (ids, offset), x)
  return (out, lse) if return_lse else out


def _run(impl: str, who: third_order.Sight, data, x):
  """Returns (out, lse) by an implementation; the second stream is the wider one."""
  one, two = (w or x[1].shape[1] for w in who.windows)
  if one > two:
    q, k1, k2, v1, v2 = x
    x, who = (q, k2, k1, v2, v1), who.swapped
  plain: Any = {"xla": functools.partial(third_order.tiled, sight=who)}
  run = backends.choose(
    impl, plain, lambda impl: kernels.prepared(*x, sight=who, impl=impl)
  )
  return run(*x, data)


def _nothing(q, v1):
  """Returns (out, lse) of a problem with an empty axis."""
  lse = jnp.full(q.shape[:3], -jnp.inf, jnp.promote_types(q.dtype, jnp.float32))
  return jnp.zeros((*q.shape[:3], v1.shape[3]), v1.dtype), lse

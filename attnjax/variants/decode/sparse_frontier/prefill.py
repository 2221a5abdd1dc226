"""Attention of a prompt's queries to the keys that a pattern chooses for them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax import attention
from attnjax.contract import check_known
from attnjax.core import masks, select
from attnjax.variants.decode.sparse_frontier import definition, patterns
from attnjax.variants.decode.sparse_frontier.prompts import METHODS, VerticalSlash

IMPLEMENTATIONS = ("reference", "xla")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  method: str = "vertical_slash",
  lengths: Int[Array, "B"] | None = None,
  impl: str = "auto",
  **options: Any,
) -> Float[Array, "B T N V"]:
  """Computes causal attention of a prompt to the keys that a pattern chooses.

  The choice has no gradient. Blocks of 128 x 128 in which nothing is seen are skipped;
  the verticals of "vertical_slash" are gathered.

  Args:
    q: queries.
    k: keys, S = T; K divides N.
    v: values.
    method: one of METHODS.
    lengths: tokens of each row; later ones are padding, T if None.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest of `attnjax.attention`.
    **options: fields of METHODS[method].

  Raises:
    ValueError: for an unknown method, option or `impl`, and sizes that do not fit.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  chosen = made(method, options)
  (B, T), S = q.shape[:2], k.shape[1]
  if T != S:
    raise ValueError(f"{T} queries and {S} keys; a prompt has as many of both")
  if impl == "reference":
    whole = dataclasses.asdict(chosen)
    return definition.reference(q, k, v, method=method, lengths=lengths, **whole)
  ids = None
  if lengths is not None:
    real = jnp.arange(T) < lengths[:, None]
    q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
    ids = jnp.where(real, 0, -1)
  whole = jnp.full((B,), T, jnp.int32) if lengths is None else lengths
  if isinstance(chosen, VerticalSlash):
    return _joined(q, k, v, chosen, whole, impl=impl)
  mask = masks.Causal() & chosen.mask(q, k, whole)
  return attention.dot_product_attention(q, k, v, mask=mask, segment_ids=ids, impl=impl)


def _joined(q, k, v, policy: VerticalSlash, lengths, *, impl: str) -> Array:
  """Computes vertical-slash attention, the slashes by blocks, the verticals gathered.

  Verticals lie anywhere, so that lists of blocks would skip few.
  """
  (B, T, N, _), K = q.shape, k.shape[2]
  options: dict[str, Any] = dataclasses.asdict(policy)
  rounded = options.pop("rounded")
  verticals, slashes = patterns.vertical_slash(q, k, lengths=lengths, **options)
  real = jnp.arange(T) < lengths[:, None]
  mask = patterns.listed(
    patterns.seen(jnp.zeros_like(verticals), slashes, rounded=rounded)
  )
  given: dict[str, Any] = {"return_lse": True, "impl": impl}
  ids = jnp.where(real, 0, -1)
  near = attention.dot_product_attention(
    q, k, v, mask=masks.Causal() & mask, segment_ids=ids, **given
  )
  index, some = select.top(jnp.where(verticals, 0.0, -jnp.inf), policy.verticals)
  if not index.shape[2]:
    return near[0]
  seen = some[:, :, None] & ~patterns.reached(slashes, index, rounded=rounded)
  seen &= (index[:, :, None] <= jnp.arange(T)[:, None]) & real[:, None, :, None]
  rows, heads = jnp.arange(B)[:, None, None], jnp.arange(N)[:, None] * K // N
  k, v = (x[rows, index, heads].swapaxes(1, 2) for x in (k, v))
  far = attention.dot_product_attention(q, k, v, mask=seen, **given)
  return attention.combine(*map(list, zip(near, far)))[0]


def made(method: str, options: dict[str, Any]) -> Any:
  """Returns METHODS[method](**options).

  Raises:
    ValueError: for an unknown method or option, and sizes that do not fit.
  """
  check_known("method", method, METHODS)
  known = [field.name for field in dataclasses.fields(METHODS[method])]
  for name in options:
    check_known(f"option of {method}", name, known)
  return METHODS[method](**options)

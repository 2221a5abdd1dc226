"""The two ways to gather along edges: the softmax engine, and blocks of queries."""

from typing import Any, TypedDict

import jax
import jax.numpy as jnp

from attnjax import attention
from attnjax.core import masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.variants.softmax.isomorphic_graph import blocks

_SEEN = ("offset", "segment_ids", "kv_segment_ids")
_TRANSFORM = {"edges": "none", "beta": 10.0, "keep_keys": 8}
_TRANSFORM |= {"keep_ratio": 0.1, "binary_scale": 1.0}


class Given(TypedDict, total=False):
  """Further arguments of `attend`.

  scale, H^-0.5 by default; weighting, "softmax" or "relu" of the scores; edges, beta,
  keep_keys, keep_ratio and binary_scale as in `edges.transformed`; offset: token t sees
  the keys s <= t + offset, S - T by default; segment_ids (B, T): tokens see their own
  segment, negative ids see nothing; kv_segment_ids (B, S): `segment_ids` by default.
  """

  scale: float | None
  weighting: str
  edges: str
  beta: float
  keep_keys: int
  keep_ratio: float
  binary_scale: float
  offset: Any
  segment_ids: Any
  kv_segment_ids: Any


def gathered(arrays: dict[str, Any], impl: str, given: Given, **options: Any) -> Any:
  """Returns what tokens gather, (B, T, N, W) in the wide type; see `attend`.

  Raises:
    NotImplementedError: if the named implementation cannot do the problem.
  """
  if _sums(options["kind"], given):
    return _and_itself(_by_engine(arrays, impl, given, **options), arrays, **options)
  if impl in ("pallas", "triton"):
    raise NotImplementedError(
      f"impl {impl!r} sums along the weights of a softmax; kind {options['kind']!r}"
      f" with edges {given.get('edges', 'none')!r} is computed by 'xla'"
    )
  return _and_itself(_by_blocks(arrays, given, **options), arrays, **options)


def _and_itself(out, arrays, *, kind, as_released):
  """Returns the sums of "gin" with epsilon times the own values added."""
  del as_released
  epsilon, own = arrays["epsilon"], arrays["own"]
  if epsilon is None or kind != "gin":
    return out
  return out + epsilon.astype(out.dtype)[None, None, :, None] * own.astype(out.dtype)


def _sums(kind: str, given: Given) -> bool:
  """Returns whether the edges are a softmax's weights, so that sums are attention."""
  plain = given.get("weighting", "softmax"), given.get("edges", "none")
  return kind != "pna_lm" and plain == ("softmax", "none")


def _by_engine(arrays, impl, given: Given, *, kind, as_released):
  """Returns the sums by attention; squares of values are more values."""
  q, k, v, own = (arrays[n] for n in ("q", "k", "v", "own"))
  (B, T, N, _), S = q.shape, k.shape[1]
  seen: Any = [given.get(n) for n in _SEEN]
  what = Scores(masks.conjunction((B, N, T, S), True, *seen))
  how = {"scale": given.get("scale"), "impl": impl}
  wide = accumulator_dtype(q)
  if kind == "gin":
    out = attention.attend(q, k, v, what, **how)[0].astype(wide)
    if arrays["second_q"] is None:
      return out
    second = arrays["second_q"], arrays["second_k"], v
    return out - arrays["mixing"] * attention.attend(*second, what, **how)[0].astype(
      wide
    )
  both = jnp.concatenate([v, v * v], axis=-1).astype(wide)
  out = attention.attend(q.astype(wide), k.astype(wide), both, what, **how)[0]
  mean, square = jnp.split(out, 2, axis=-1)
  spread = jnp.maximum(square - mean * mean, 0)
  most = own.astype(wide) if as_released else _greatest(arrays, wide, given)
  return jnp.concatenate([mean, mean, most, spread], axis=-1)


def _greatest(arrays, wide, given: Given):
  """Returns the maximum of the values that are seen: a running one, if all are."""
  q, v = arrays["q"], arrays["v"].astype(wide)
  T, S = q.shape[1], v.shape[1]
  if T == S and all(given.get(n) is None for n in _SEEN):
    return jax.lax.cummax(v, axis=1)
  part, rest = parts(arrays, given)

  def block(first, part):
    seen, _ = blocks.pairs(first, part, rest)
    near = jnp.broadcast_to(seen, (q.shape[0], q.shape[2], *seen.shape[2:]))
    return blocks.greatest(near, rest["v"].astype(wide), part["own"].astype(wide))

  return blocks.over_queries(block, part, (*q.shape[:1], q.shape[2], T, S))


def _by_blocks(arrays, given: Given, *, kind, as_released):
  """Returns what is gathered along edges that a transform has changed."""
  q, S = arrays["q"], arrays["k"].shape[1]
  part, rest = parts(arrays, given)

  def block(first, part):
    found = blocks.adjacency(first, part, rest)
    near = blocks.neighbours(found, kind, arrays["threshold"], as_released)
    return blocks.gathered(kind, found.found, near, rest["v"], part["own"])

  return blocks.over_queries(block, part, (q.shape[0], q.shape[2], q.shape[1], S))


def parts(arrays: dict[str, Any], given: Given) -> Any:
  """Returns (arrays of the queries, of all tokens), without values of padding."""
  q, k, ids = arrays["q"], arrays["k"], given.get("segment_ids")
  T, S, kv_ids = q.shape[1], k.shape[1], given.get("kv_segment_ids")
  rows = {}
  for name, size, found in (
    ("ids", T, ids),
    ("kv_ids", S, ids if kv_ids is None else kv_ids),
  ):
    rows[name] = None
    if found is not None:
      rows[name] = jnp.broadcast_to(jnp.atleast_2d(found), (q.shape[0], size))

  def real(name, of):
    x, ids = arrays.get(name), rows[of]
    if x is None or ids is None:
      return x
    return jnp.where((ids >= 0)[:, :, None, None], x, 0)

  part = {n: real(n, "ids") for n in ("q", "second_q", "own")} | {"ids": rows["ids"]}
  rest = {n: real(n, "kv_ids") for n in ("k", "second_k", "v")}
  rest |= {"kv_ids": rows["kv_ids"], "mixing": arrays["mixing"]}
  rest |= {"threshold": arrays["threshold"]}
  scale, offset = given.get("scale"), given.get("offset")
  rest["scale"] = q.shape[3] ** -0.5 if scale is None else scale
  rest["offset"] = S - T if offset is None else offset
  rest["weighting"] = given.get("weighting", "softmax")
  rest["transform"] = _TRANSFORM | {n: x for n, x in given.items() if n in _TRANSFORM}
  return part, rest

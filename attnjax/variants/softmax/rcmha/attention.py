"""The function: causal softmax attention with terms of relative distance, and cases.

A term that is None is 0. Negative distances, of given positions, read row 0 of tables.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, dropout, softmax
from attnjax.variants.softmax.rcmha import blocks

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S N H"],
  v: Float[Array, "B S N V"],
  u: Float[Array, "N H"] | None = None,
  w: Float[Array, "N H"] | None = None,
  rel_k: Float[Array, "R N H"] | None = None,
  rel_b: Float[Array, "R N"] | None = None,
  *,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  mask: Bool[Array, "#B #N #T #S"] | None = None,
  positions: Int[Array, "#B T"] | None = None,
  kv_positions: Int[Array, "#B S"] | None = None,
  scale: float | None = None,
  dropout_rate: float = 0.0,
  dropout_key: Key[Array, ""] | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes causal softmax attention with relative terms, (B, T, N, V).

  Args:
    q: queries.
    k: keys; those before the first query are a memory.
    v: values.
    u: added to the queries where they meet keys.
    w: added to the queries where they meet `rel_k`.
    rel_k: a vector for each distance; distances from R - 1 on read the last one.
    rel_b: a bias for each distance, scaled as all else is.
    offset: token t sees the keys s <= t + offset; S - T if None.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    mask: True = may attend, in conjunction with the rest.
    positions: integers whose differences are the distances; else offset + t - s is.
    kv_positions: of the keys; `positions` if None (needs T = S).
    scale: of the whole sum; H^-0.5 if None.
    dropout_rate: share of the weights that is set to 0; "reference" takes none.
    dropout_key: a random key, which dropout needs.
    return_lse: also return the log of the softmax's denominator, (B, T, N) float32.
    impl: one of IMPLEMENTATIONS, or "auto".
  """
  seen = {"offset": offset, "segment_ids": segment_ids, "mask": mask, "scale": scale}
  seen |= {"kv_segment_ids": kv_segment_ids, "positions": positions}
  drop = _dropout(q, dropout_rate, dropout_key, impl)
  arrays = q, k, v, u, w, rel_k, rel_b
  result = _run(arrays, impl, seen | {"kv_positions": kv_positions}, drop)
  return result if return_lse else result[0]


def _run(arrays, impl, seen: dict[str, Any], drop) -> Any:
  """Checks the arguments of `attend`; returns (out, lse)."""
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  q, k, v, u, w, rel_k, rel_b = arrays
  if seen["positions"] is not None and seen["kv_positions"] is None:
    seen["kv_positions"] = seen["positions"]
  check(q, k, v, {"u": u, "w": w}, rel_k, rel_b)
  check_positions(q, k, seen["positions"], seen["kv_positions"])
  if seen["offset"] is None:
    seen["offset"] = k.shape[1] - q.shape[1]
  if seen["scale"] is None:
    seen["scale"] = q.shape[3] ** -0.5
  if impl == "reference":
    return reference(*arrays, **seen, return_lse=True)
  return blocks.attend(*arrays, **seen, **drop, impl=impl)


def reference(
  q,
  k,
  v,
  u=None,
  w=None,
  rel_k=None,
  rel_b=None,
  *,
  scale=None,
  positions=None,
  kv_positions=None,
  return_lse=False,
  **seen,
):
  """Computes the definition: a vector and a bias looked up for every pair of tokens."""
  (B, T), S = q.shape[:2], k.shape[1]
  scale = q.shape[3] ** -0.5 if scale is None else scale
  if positions is None:
    offset = S - T if seen.get("offset") is None else seen["offset"]
    distance = (offset + jnp.arange(T)[:, None] - jnp.arange(S))[None]
  else:
    keys = positions if kv_positions is None else kv_positions
    distance = positions[:, :, None] - keys[:, None, :]
  query, bias = definition.wide(q), jnp.zeros((1, 1, 1, 1))
  if rel_k is not None:
    vector = definition.wide(rel_k)[jnp.clip(distance, 0, rel_k.shape[0] - 1)]
    vector = jnp.broadcast_to(vector, (B, *vector.shape[1:]))
    met = query if w is None else query + definition.wide(w)
    bias = bias + jnp.einsum("btnh,btsnh->bnts", met, vector)
  if rel_b is not None:
    number = definition.wide(rel_b)[jnp.clip(distance, 0, rel_b.shape[0] - 1)]
    bias = bias + jnp.moveaxis(number, 3, 1)
  met = query if u is None else query + definition.wide(u)
  visible = definition.visible(T, S, True, **seen)
  out, lse = definition.attention(met, k, v, visible, bias=scale * bias, scale=scale)
  return (out, lse) if return_lse else out


def _dropout(q, rate, key, impl) -> dict[str, Any]:
  """Returns the seeds and the rate of the engine's dropout."""
  if not 0 <= rate < 1:
    raise ValueError(f"dropout_rate = {rate}; it must be in [0, 1)")
  if rate and impl == "reference":
    raise NotImplementedError("impl 'reference' takes no dropout_rate; 'xla' does")
  if rate and key is None:
    raise ValueError(f"dropout_rate = {rate} needs a dropout_key")
  seeds = dropout.seeds(key, q.shape[0], q.shape[2]) if rate else None
  return {"seeds": seeds, "rate": float(rate)}


def check(q, k, v, biases, rel_k, rel_b) -> None:
  """Raises ValueError for shapes that do not fit; `biases` are u and w by name."""
  softmax.check(q, k, v)
  N, H = q.shape[2:]
  if k.shape[2] != N:
    raise ValueError(f"{k.shape[2]} heads of k, {N} of q: relative terms are by head")
  for name, x in biases.items():
    if x is not None and x.shape != (N, H):
      raise ValueError(f"{name} has the shape {x.shape}; it must be (N, H) {(N, H)}")
  for name, x, tail in (("rel_k", rel_k, (N, H)), ("rel_b", rel_b, (N,))):
    if x is not None and (x.ndim == 0 or x.shape[1:] != tail or not x.shape[0]):
      raise ValueError(f"{name} has the shape {x.shape}; it must be (R, *{tail})")
  if rel_k is not None and rel_b is not None and len(rel_k) != len(rel_b):
    raise ValueError(f"rel_k has {len(rel_k)} distances, rel_b has {len(rel_b)}")
  if biases["w"] is not None and rel_k is None:
    raise ValueError("w without rel_k: it is added to queries where they meet rel_k")


def check_positions(q, k, positions, kv_positions) -> None:
  """Raises ValueError for positions that are no integers of the tokens."""
  if positions is None and kv_positions is not None:
    raise ValueError("kv_positions without positions")
  for name, x, like in (("positions", positions, q), ("kv_positions", kv_positions, k)):
    if x is None:
      continue
    B, T = like.shape[:2]
    if x.shape not in ((B, T), (1, T)):
      raise ValueError(f"{name} has the shape {x.shape}; it must be {(B, T)}")
    if not jnp.issubdtype(x.dtype, jnp.integer):
      raise ValueError(f"{name} are {x.dtype}: distances are rows of a table, integers")


def _packed(_):
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 5, axis=1)


# Memories, offsets and positions are held to numbers by hand in the system's test.
CASES = (
  Case(
    "packed",
    {"q": (2, 15, 2, 4), "k": (2, 15, 2, 4), "v": (2, 15, 2, 3)}
    | {"u": (2, 4), "w": (2, 4), "rel_k": (6, 2, 4), "rel_b": (6, 2)},
    {"segment_ids": _packed, "scale": 0.4, "return_lse": True},
  ),
)

"""The functions: softmax attention with a gate at its output, and their cases."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case
from attnjax.core import definition, softmax
from attnjax.core.masks import Mask
from attnjax.nn import gate as gates
from attnjax.variants.softmax import dot_product

IMPLEMENTATIONS = dot_product.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  gate: Float[Array, "B T #N #V"],
  *,
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  mask: Bool[Array, "#B #N #T #S"] | Mask | None = None,
  bias: Float[Array, "#B #N #T #S"] | None = None,
  act: str = "sigmoid",
  combine: str = "mul",
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes softmax attention with a gate at its output (G1), (B, T, N, V).

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    gate: before its activation; shared by the heads if N is 1, headwise if V is 1.
    causal: token t sees the keys s <= t + offset.
    offset: S - T if None, which aligns the last query with the last key.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    mask: True = may attend, in conjunction with the rest; or a Mask of places.
    bias: added to the scaled scores.
    act: "sigmoid", "silu" or "ns_sigmoid" (1/2 + sigmoid / 2), in float32.
    combine: "mul" or "add".
    scale: H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, (B, T, N) float32.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit, or `act`, `combine` or `impl` is unknown.
  """
  gates.check(act, combine)
  given: dict[str, Any] = {"causal": causal, "offset": offset, "scale": scale}
  given |= {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids}
  given |= {"mask": mask, "bias": bias}
  if impl == "reference":
    softmax.check(q, k, v)
    return reference(q, k, v, gate, act, combine, return_lse, **given)
  out, lse = dot_product.attend(q, k, v, **given, return_lse=True, impl=impl)
  if segment_ids is not None:
    gate = jnp.where((segment_ids >= 0)[..., None, None], gate, 0)
  out = gates.apply(out, gate, act=act, combine=combine)
  return (out, lse) if return_lse else out


def reference(q, k, v, gate, act="sigmoid", combine="mul", return_lse=False, **options):
  """Computes the definition: a (T, S) matrix of scores for each head, then the gate."""
  out, lse = dot_product.reference(q, k, v, return_lse=True, **options)
  gate, ids = definition.wide(gate), options.get("segment_ids")
  if ids is not None:
    gate = jnp.where((ids >= 0)[..., None, None], gate, 0)
  opened = 1 / (1 + jnp.exp(-gate))
  acts = {"sigmoid": opened, "silu": gate * opened, "ns_sigmoid": (1 + opened) / 2}
  wide, opened = definition.wide(out), acts[act]
  out = (wide * opened if combine == "mul" else wide + opened).astype(out.dtype)
  return (out, lse) if return_lse else out


def _shapes(B, T, S, N, K, H, V, G):
  q, k, v = (B, T, N, H), (B, S, K, H), (B, S, K, V)
  return {"q": q, "k": k, "v": v, "gate": (B, T, *G)}


def _packed(_):
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _case(name, shapes, **options):
  return Case(name, _shapes(*shapes), {"causal": True} | options)


_BIASED = _shapes(1, 9, 9, 2, 1, 8, 8, (2, 8)) | {"bias": (1, 2, 9, 9)}
CASES = (
  _case("elementwise", (2, 65, 65, 4, 2, 8, 8, (4, 8))),
  _case("headwise", (2, 63, 63, 4, 2, 8, 6, (4, 1)), return_lse=True),
  _case("shared", (1, 64, 64, 2, 2, 8, 8, (1, 8)), act="ns_sigmoid"),
  _case("one_token", (1, 1, 1, 1, 1, 4, 4, (1, 4))),
  _case("one_head", (1, 7, 7, 1, 1, 8, 5, (1, 1)), causal=False),
  _case("more_keys", (1, 7, 63, 2, 1, 8, 8, (2, 8)), scale=0.3),
  _case("more_queries", (1, 63, 7, 2, 1, 8, 8, (2, 1)), act="silu"),
  _case("segments", (2, 39, 39, 2, 1, 8, 8, (2, 8)), segment_ids=_packed),
  Case("biased", _BIASED, {"causal": True}),
  _case("added", (1, 33, 33, 2, 2, 8, 8, (2, 8)), act="silu", combine="add"),
)

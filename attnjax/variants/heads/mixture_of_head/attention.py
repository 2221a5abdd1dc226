"""The function: softmax attention with heads gated for each token, and its cases."""

from typing import Any, TypedDict, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core import softmax
from attnjax.variants.heads.mixture_of_head import dispatch, routing
from attnjax.variants.heads.mixture_of_head.definition import reference
from attnjax.variants.softmax import dot_product

IMPLEMENTATIONS = dot_product.IMPLEMENTATIONS


class Softmax(TypedDict, total=False):
  """Further arguments of `attend`, which are those of `dot_product.attend`."""

  causal: bool
  offset: Any
  segment_ids: Any
  kv_segment_ids: Any
  mask: Any
  bias: Any
  scale: float | None


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  routed: Float[Array, "B T R"],
  shared: Float[Array, "B T A"] | None = None,
  balance: Float[Array, "B T 2"] | None = None,
  *,
  top_k: int,
  quantised: bool = False,
  capacity: float = 0.0,
  return_loss: bool = False,
  impl: str = "auto",
  **given: Unpack[Softmax],
) -> Any:
  """Computes softmax attention with gated heads, (B, T, N, V).

  Args:
    q: queries; the last R of the N heads are routed.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    routed: logits, as in `gates`; so are `shared` and `balance`.
    shared: see `routed`.
    balance: see `routed`.
    top_k: routed heads that a token takes.
    quantised: gates are 0 or 1, see `gates`.
    capacity: c; a routed head attends for ceil(c top_k n / R) of a row's n tokens, the
      first that take it, at the cost of these, and is 0 for others. With 0, or where
      there is room for all tokens, all heads attend for all tokens.
    return_loss: also return `balance_loss`; negative segment_ids count nowhere.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.
    **given: causal, offset, segment_ids, ... as in `dot_product.attend`.

  Raises:
    ValueError: if shapes do not fit, or a number or name is not allowed.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  softmax.check(q, k, v)
  check_capacity(capacity)
  logits: Any = routed, shared, balance
  if impl == "reference":
    options: Any = top_k, quantised, capacity, return_loss
    return reference(q, k, v, *logits, *options, **given)
  valid = _valid(given.get("segment_ids"), q.shape[:2])
  if valid is not None:
    logits = tuple(_blank(x, valid) for x in logits)
  found = routing.gates(*logits, heads=q.shape[2], top_k=top_k, quantised=quantised)
  out = _mixed(q, k, v, found, capacity, top_k, valid, {**given, "impl": impl})
  return (out, routing.balance_loss(found, valid)) if return_loss else out


def _mixed(q, k, v, found, capacity, top_k, valid, given: dict[str, Any]):
  """Returns the gated outputs, in the dispatch form where it has less to do."""
  T, R = found.active.shape[1:]
  size = dispatch.places(capacity, top_k, R, T) if capacity and R else T
  if size == T:
    return gated(dot_product.attend(q, k, v, **given), found.weights)
  active = found.active if valid is None else found.active & valid[..., None]
  taken = dispatch.admitted(active, capacity, top_k)
  return dispatch.attend(q, k, v, found.weights, taken, size, given)


def _valid(ids, shape):
  """Returns which tokens are real, (B, T), or None if all are."""
  return None if ids is None else jnp.broadcast_to(jnp.atleast_2d(ids) >= 0, shape)


def gated(
  out: Float[Array, "B T N V"], weights: Float[Array, "B T N"]
) -> Float[Array, "B T N V"]:
  """Returns the heads' outputs times their gates, multiplied in the wider type."""
  return (out.astype(weights.dtype) * weights[..., None]).astype(out.dtype)


def check_capacity(capacity: float) -> None:
  """Raises ValueError for a negative capacity."""
  if capacity < 0:
    raise ValueError(f"capacity = {capacity}; it is 0 (room for all) or more")


def _blank(x, valid):
  """Returns the logits x, 0 at padding."""
  return None if x is None else jnp.where(valid[..., None], x, 0)


def _shapes(B, T, S, N, K, H, V, shared, routed):
  shapes = {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}
  shapes |= {"routed": (B, T, routed)}
  if shared:
    shapes |= {"shared": (B, T, N - routed)}
    shapes |= {"balance": (B, T, 2)} if routed else {}
  return shapes


def _packed(_):
  return jnp.array([[4] * 7 + [-1] * 3 + [1] * 9, [-1] * 2 + [2] * 17])


CASES = (
  Case(
    "dispatched",
    _shapes(2, 19, 19, 6, 2, 4, 4, True, 4),
    {"top_k": 2, "causal": True, "capacity": 1.0, "segment_ids": _packed}
    | {"return_loss": True},
  ),
)


def _long(**options):
  """Returns a function of T: a problem of 8 heads of 32 elements, of which 2 shared."""
  shapes = dict(N=8, K=8, H=32, V=32, shared=True, routed=6)
  given = {"top_k": 2, "causal": True, **options}
  return lambda T: Case("long", _shapes(1, T, T, **shapes), given)


# Name -> (the power of T that the work grows with, the problem of T tokens).
CURVES = {
  "all heads": (2.0, _long()),
  "half of heads": (2.0, _long(capacity=1.0)),
}

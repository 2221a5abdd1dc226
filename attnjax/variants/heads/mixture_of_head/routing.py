"""The router: gates of heads from logits, their balance loss, norms of queries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.core.dtypes import accumulator_dtype


class Gates(NamedTuple):
  """The gates of all heads, shared ones first.

  Attributes:
    weights: (B, T, N), float32 (float64 for float64); 0 for heads that are not active.
    active: bool, (B, T, R), whether a token takes a routed head.
    share: (B, T, R), the softmax p of the routed heads' logits.
  """

  weights: Any
  active: Any
  share: Any


def gates(
  routed: Float[Array, "B T R"],
  shared: Float[Array, "B T A"] | None = None,
  balance: Float[Array, "B T 2"] | None = None,
  *,
  heads: int,
  top_k: int,
  quantised: bool = False,
) -> Gates:
  """Computes the gates of all heads from the router's logits.

  Args:
    routed: logits of the R routed heads, R = 0 without them.
    shared: logits of the A = heads - R shared heads; their gates are 1 if None.
    balance: logits of shared and routed heads as groups; both weights are 1 if None.
    heads: N.
    top_k: routed heads that a token takes; of equal p the first ones.
    quantised: gates are 0 or 1, and the gradient of an active head's gate is that of p.

  Raises:
    ValueError: if shapes do not fit, or top_k is not in 1, ..., R (0 for R = 0).
  """
  _check(routed, shared, balance, heads, top_k, quantised)
  wide = accumulator_dtype(routed)
  (B, T, R), A = routed.shape, heads - routed.shape[2]
  first = jnp.ones((B, T, A), wide)
  if shared is not None:
    first = A * jax.nn.softmax(shared.astype(wide), axis=-1)
  if not R:
    return Gates(first, jnp.zeros((B, T, 0), bool), jnp.zeros((B, T, 0), wide))
  share = jax.nn.softmax(routed.astype(wide), axis=-1)
  _, index = jax.lax.top_k(jax.lax.stop_gradient(share), top_k)
  active = jax.nn.one_hot(index, R, dtype=bool).any(axis=-2)
  if quantised:
    last = jnp.where(active, 1 + share - jax.lax.stop_gradient(share), 0)
  else:
    chosen = jnp.where(active, share, 0)
    total = chosen.sum(axis=-1, keepdims=True)
    last = top_k * chosen / jnp.maximum(total, jnp.finfo(wide).eps)
  if balance is not None:
    group = 2 * jax.nn.softmax(balance.astype(wide), axis=-1)
    first, last = group[..., :1] * first, group[..., 1:] * last
  return Gates(jnp.concatenate([first, last], axis=-1), active, share)


def balance_loss(
  found: Gates, valid: Bool[Array, "B T"] | None = None
) -> Float[Array, ""]:
  """Computes R^2 mean_r(P_r f_r); it is top_k where all loads are equal.

  P_r is the mean over the tokens of p_r, which has the gradient, and f_r the share of
  tokens that take head r.

  Args:
    found: the gates.
    valid: True at the real tokens; padding counts nowhere.
  """
  R = found.share.shape[-1]
  if not R:
    return jnp.zeros((), found.share.dtype)
  real = jnp.ones(found.share.shape[:2], bool) if valid is None else valid
  count = jnp.maximum(real.sum(), 1)
  share, load = (
    jnp.where(real[..., None], x, 0).sum(axis=(0, 1)) / count
    for x in (found.share, found.active.astype(found.share.dtype))
  )
  return R * (share * load).sum()


def query_norms(q: Float[Array, "B T R H"]) -> Float[Array, "B T R"]:
  """Computes logits from queries: their norms over the heads' standard deviation.

  The deviation is that of a sample (R - 1 in the denominator). Logits are 0 where all
  norms are equal, where the authors' code divides by 0.

  Raises:
    ValueError: for less than two heads, which have no deviation.
  """
  if q.shape[2] < 2:
    raise ValueError(f"{q.shape[2]} routed heads: norms of at least 2 can be compared")
  norm = _root(jnp.square(q.astype(accumulator_dtype(q))).sum(axis=-1))
  spread = jnp.square(norm - norm.mean(axis=-1, keepdims=True)).sum(axis=-1)
  deviation = _root(spread / (q.shape[2] - 1))[..., None]
  some = deviation > 0
  return jnp.where(some, norm / jnp.where(some, deviation, 1), 0)


def _root(x):
  """Returns the square root of x, whose gradient is 0 at 0."""
  return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def _check(routed, shared, balance, heads, top_k, quantised):
  R = routed.shape[2]
  A = heads - R
  if A < 0:
    raise ValueError(f"routed {routed.shape} has more than heads = {heads} heads")
  if not min(1, R) <= top_k <= R:
    raise ValueError(f"top_k = {top_k}; of {R} routed heads a token takes 1 to {R}")
  if shared is not None and shared.shape != (*routed.shape[:2], A):
    raise ValueError(f"shared has the shape {shared.shape}; it has {A} shared heads")
  if balance is not None and (not R or not A or balance.shape[2:] != (2,)):
    raise ValueError(
      f"balance {balance.shape} weighs 2 groups; {A} heads are shared, {R} routed"
    )
  if quantised and (shared is not None or balance is not None):
    raise ValueError("quantised gates are 0 or 1: shared and balance must be None")

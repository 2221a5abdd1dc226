"""The operation: softmax attention to the keys with the greatest predicted weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.scores import Scores
from attnjax.variants.sparse.sparsifiner import connectivity

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  approximate: Float[Array, "B N R T"],
  *,
  keep_ratio: float = 0.25,
  valid: Bool[Array, "B T"] | None = None,
  whole: bool = False,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes attention to the ceil(keep_ratio T) most promising keys, (B, T, N, V).

  It takes O(R T N) memory, as the predicted weights do; see `attend_predicted`.

  Args:
    q: queries.
    k: keys.
    v: values.
    approximate: predicted weights of the last R queries; the first T - R (the class
      token) see all. It has no gradient.
    keep_ratio: the share of keys that a query sees, in (0, 1].
    valid: True at the real tokens; others, including pruned tokens, are not seen,
      and give 0.
    whole: whether the first T - R queries see also what is not valid. In the authors'
      code the class token sees pruned tokens, whose keys and values are then 0.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or a value or name is not allowed.
  """
  B, T, N, _ = q.shape
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  check_ratio(keep_ratio)
  rows, columns = approximate.shape[2:]
  if approximate.shape[:2] != (B, N) or columns != T or rows > T:
    raise ValueError(
      f"approximate has the shape {approximate.shape}; with q {q.shape} it must be"
      f" (B, N, R, T) = {(B, N, 'R', T)}, R <= T"
    )
  if impl == "reference":
    return reference(q, k, v, approximate, keep_ratio, valid, whole, scale)
  first = T - rows
  seen = connectivity.chosen(approximate, first, keep_ratio, valid, whole=whole)
  mask: Any = masks.Dense(seen)
  if valid is not None:
    mask = mask & masks.Dense(valid[:, None, :, None])
  return attention.attend(q, k, v, Scores(mask), scale=scale, impl=impl)[0]


def check_ratio(keep_ratio: float) -> None:
  """Raises ValueError unless the share of keys is in (0, 1]."""
  if not 0 < keep_ratio <= 1:
    raise ValueError(f"keep_ratio = {keep_ratio}; it must be above 0 and at most 1")


def reference(
  q, k, v, approximate, keep_ratio=0.25, valid=None, whole=False, scale=None
):
  """Computes the definition: the (T, T) matrix of scores, masked to the chosen keys."""
  (B, T, N, _), rows = q.shape, approximate.shape[2]
  real = jnp.ones((B, T), bool) if valid is None else valid
  number = next(n for n in range(1, T + 1) if n >= keep_ratio * T - 1e-9)
  key = real[:, None, None]
  chosen = definition.best(approximate, key, number)
  seen = jnp.broadcast_to(key | whole, (B, N, T, T)).at[:, :, T - rows :].set(chosen)
  if not whole:
    q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
  seen = seen & real[:, None, :, None]
  return definition.attention(q, k, v, seen, scale=scale)[0]


def most_attended(
  weights: Float[Array, "B T"], share: float, valid: Bool[Array, "B T"] | None = None
) -> Bool[Array, "B T"]:
  """Returns which tokens are left after pruning, as a `valid`; section 3.4.

  Args:
    weights: of the class token (token 0, which stays), averaged over the heads.
    share: the share of the sequence's other tokens that stays.
    valid: True at the tokens left by earlier prunings.
  """
  T = weights.shape[1]
  number = connectivity.count(share, T - 1)
  real = jnp.ones_like(weights, bool) if valid is None else valid
  order = jnp.argsort(-jnp.where(real[:, 1:], weights[:, 1:], -jnp.inf), stable=True)
  best = (jnp.argsort(order) < number) & real[:, 1:]
  return jnp.concatenate([real[:, :1], best], axis=1)


def _shapes(B, T, R, N, H, V):
  q = (B, T, N, H)
  return {"q": q, "k": q, "v": (B, T, N, V), "approximate": (B, N, R, T)}


def _some(key: jax.Array) -> Any:
  del key
  return jnp.arange(21) % jnp.array([[30], [5]]) > 0


CASES = (
  Case("whole", _shapes(2, 17, 17, 2, 8, 8)),
  Case("class_token", _shapes(1, 65, 64, 2, 8, 6), {"keep_ratio": 0.1}),
  Case("one_token", _shapes(1, 1, 0, 1, 4, 4)),
  Case("valid", _shapes(2, 21, 20, 1, 4, 4), {"keep_ratio": 0.3, "valid": _some}),
)

"""Sparsifiner by chunks of queries: no array has all pairs of tokens.

The predicted weights, the kept keys and the loss of `ROWS` queries at a time are
computed from their factors, and once more in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks, select
from attnjax.core.scores import Scores
from attnjax.variants.sparse.sparsifiner import connectivity
from attnjax.variants.sparse.sparsifiner.attention import check_ratio, reference

ROWS = 128  # queries of a chunk


def attend_predicted(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  guess_q: Float[Array, "B R N h"],
  guess_k: Float[Array, "B m N h"],
  basis: Float[Array, "m T"],
  *,
  top: int = 8,
  keep_ratio: float = 0.25,
  valid: Bool[Array, "B T"] | None = None,
  whole: bool = False,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes `attend` with the weights top(softmax_m(guess_q . guess_k N^-0.5)) basis.

  It takes O(T (ROWS + H)) memory beside the basis; `attend` takes all weights.

  Args:
    q: queries.
    k: keys.
    v: values.
    guess_q: reduced queries of the last R tokens; the first T - R (the class token)
      see all. They have no gradient, nor do `guess_k` and `basis`.
    guess_k: keys of the reduced tokens.
    basis: weights of the tokens for each reduced token.
    top: coefficients of a query that are kept.
    keep_ratio: as in `attend`.
    valid: as in `attend`.
    whole: as in `attend`.
    scale: H^-0.5 if None.
    impl: "reference", "xla", "pallas", "triton" or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or a value or name is not allowed.
  """
  _check(q, guess_q, guess_k, basis, keep_ratio, impl)
  given = q, k, v, guess_q, guess_k, basis, top, keep_ratio, valid, whole, scale
  if impl == "reference":
    return reference_attend_predicted(*given)
  return _chunked(*given, impl)


def _check(q, guess_q, guess_k, basis, keep_ratio, impl):
  """Raises ValueError for what `attend_predicted` does not take."""
  check_known("impl", impl, ("auto", *attention.IMPLEMENTATIONS))
  check_ratio(keep_ratio)
  (B, T, _, _), R, m = q.shape, guess_q.shape[1], guess_k.shape[1]
  if R > T or guess_k.shape != (B, m, *guess_q.shape[2:]) or basis.shape != (m, T):
    raise ValueError(
      f"guess_q {guess_q.shape}, guess_k {guess_k.shape} and basis {basis.shape} must"
      f" be (B, R, N, h), (B, m, N, h) and (m, T) with R <= T; q is {q.shape}"
    )


def _chunked(
  q, k, v, guess_q, guess_k, basis, top, keep_ratio, valid, whole, scale, impl
):
  """Computes `attend_predicted` by chunks of ROWS queries."""
  guess_q, guess_k, basis = map(jax.lax.stop_gradient, (guess_q, guess_k, basis))
  (B, T, N, _), R = q.shape, guess_q.shape[1]
  real = jnp.ones((B, T), bool) if valid is None else valid
  count, first = connectivity.count(keep_ratio, T), T - R

  def seen(q, mask):
    return attention.attend(q, k, v, Scores(mask), scale=scale, impl=impl)[0]

  def rows(part):
    q, guess, here = part
    weight = connectivity.coefficients(guess, guess_k)
    weight = connectivity.sparse_coefficients(weight, top)
    keys = real[:, None, None]
    kept = select.kept(weight @ basis.astype(weight.dtype), keys, count)
    return seen(q, masks.Dense(kept) & masks.Dense(here[:, None, :, None]))

  outs = []
  if first:
    mask: Any = masks.Dense(real[:, None, :first, None])
    keys = real[:, None, None] | whole
    outs.append(seen(q[:, :first], mask & masks.Dense(keys)))
  if R:
    out = by_rows(rows, q[:, first:], guess_q, real[:, first:])
    outs.append(jnp.moveaxis(out, 0, 1).reshape(B, -1, N, v.shape[3])[:, :R])
  return jnp.concatenate(outs, axis=1)


def reference_attend_predicted(
  q,
  k,
  v,
  guess_q,
  guess_k,
  basis,
  top=8,
  keep_ratio=0.25,
  valid=None,
  whole=False,
  scale=None,
):
  """Computes the definition: the product of all coefficients and the basis."""
  guess_q, guess_k, basis = (definition.wide(x) for x in (guess_q, guess_k, basis))
  score = jnp.einsum("brnh,bmnh->bnrm", guess_q, guess_k) * q.shape[2] ** -0.5
  power = jnp.exp(score - score.max(axis=-1, keepdims=True, initial=-jnp.inf))
  weight = power / power.sum(axis=-1, keepdims=True)
  best = definition.best(weight, jnp.ones_like(weight, bool), top)
  approximate = jnp.einsum("bnrm,mt->bnrt", jnp.where(best, weight, 0), basis)
  approximate = jax.lax.stop_gradient(approximate)
  return reference(q, k, v, approximate, keep_ratio, valid, whole, scale)


def reconstruction(
  q: Float[Array, "B R N H"],
  k: Float[Array, "B T N H"],
  guess_q: Float[Array, "B R N h"],
  guess_k: Float[Array, "B m N h"],
  basis: Float[Array, "m T"],
  valid: Bool[Array, "B R"] | None = None,
) -> Float[Array, ""]:
  """Computes `connectivity.reconstruction` of the weights of q and k by all factors.

  Args:
    q: queries of the predicted rows.
    k: keys.
    guess_q: reduced queries.
    guess_k: keys of the reduced tokens.
    basis: weights of the tokens for each reduced token, with their signs.
    valid: True at the rows that are learned.
  """

  def loss(part):
    q, guess, here = part
    weight = connectivity.coefficients(guess, guess_k)
    guess, here = weight @ basis.astype(weight.dtype), here[:, None, :, None]
    pair = guess, connectivity.dense_weights(q, k)
    return connectivity.reconstruction(*(jnp.where(here, y, 0) for y in pair))

  valid = jnp.ones(q.shape[:2], bool) if valid is None else valid
  return by_rows(loss, q, guess_q, valid).sum()


def by_rows(function: Callable, *arrays: Shaped[Array, "B R *_"]) -> Array:
  """Returns the stacked results for chunks of at most `ROWS` of axis 1.

  The last chunk is padded with zeros. Chunks are recomputed in the backward pass.
  """
  B, R = arrays[0].shape[:2]
  if R <= ROWS:
    return function(arrays)[None]

  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, -R % ROWS)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(B, -1, ROWS, *x.shape[2:]).swapaxes(0, 1)

  return jax.lax.map(jax.checkpoint(function), tuple(map(cut, arrays)))


def _shapes(B, T, R, N, H, V, m, h):
  q = (B, T, N, H)
  guess = {"guess_q": (B, R, N, h), "guess_k": (B, m, N, h), "basis": (m, T)}
  return {"q": q, "k": q, "v": (B, T, N, V)} | guess


def _some(key: jax.Array) -> Any:
  del key
  return jnp.arange(150) % jnp.array([[7], [200]]) > 0


_FUNCTION = "attend_predicted"
CASES = (
  Case(
    "predicted",
    _shapes(2, 150, 149, 1, 4, 4, 5, 3),
    {"keep_ratio": 0.1, "valid": _some, "top": 3},
    function=_FUNCTION,
  ),
  Case(
    "predicted_token",
    _shapes(1, 7, 7, 2, 4, 6, 3, 2),
    {"top": 2, "scale": 0.3},
    function=_FUNCTION,
  ),
)

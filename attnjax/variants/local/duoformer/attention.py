"""Many short independent attentions, one for each list of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.scores import Scores

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B P n N H"],
  k: Float[Array, "B P n K H"],
  v: Float[Array, "B P n K V"],
  *,
  valid: Bool[Array, "P n"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B P n N V"]:
  """Computes attention within each list of tokens.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    valid: True at the real tokens; the others are not seen, and give 0.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return reference(q, k, v, valid=valid, scale=scale)
  one, two, three = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
  rows, n, heads, _ = one.shape
  ids = None
  if valid is not None:
    ids = jnp.tile(jnp.where(valid, 0, -1), (q.shape[0], 1))
  mask = masks.conjunction((rows, heads, n, n), segment_ids=ids)
  out, _ = attention.attend(one, two, three, Scores(mask), scale=scale, impl=impl)
  return out.reshape(*q.shape[:-1], v.shape[-1])


def reference(q, k, v, *, valid=None, scale=None):
  """Computes `attend` by its definition, list by list."""
  real = jnp.ones(q.shape[1:3], bool) if valid is None else valid
  lists = []
  for i in range(q.shape[1]):
    seen = real[i][:, None] & real[i]
    out, _ = definition.attention(q[:, i], k[:, i], v[:, i], seen, scale=scale)
    lists.append(out)
  return jnp.stack(lists, axis=1)


def _shapes(B, P, n, N, K, H, V):
  return {"q": (B, P, n, N, H), "k": (B, P, n, K, H), "v": (B, P, n, K, V)}


def _padded(key):
  del key
  return jnp.arange(7) < jnp.array([[7], [3], [0]])  # the last list is empty


CASES = (
  Case("lists", _shapes(2, 3, 6, 2, 2, 8, 8)),
  Case("padded", _shapes(2, 3, 7, 2, 1, 4, 6), {"valid": _padded, "scale": 0.3}),
  Case("one_token", _shapes(1, 1, 1, 1, 1, 4, 4)),
)

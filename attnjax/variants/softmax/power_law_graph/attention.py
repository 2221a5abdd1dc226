"""The functions: attention through an operator, and the operator from a density."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.softmax import dot_product

IMPLEMENTATIONS = dot_product.IMPLEMENTATIONS
# The least element of the metric tensor: no logarithm is infinite.
EPSILON = 1e-9


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  curvature: Float[Array, "#B N H H"],
  *,
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  mask: Bool[Array, "#B #N #T #S"] | None = None,
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes softmax attention with the scores q G k^T, (B, T, N, V).

  The product q G is rounded to the type of q. With the identity as G it is scaled
  dot-product attention. arXiv:2502.13502, section 2.

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    curvature: the energy-curvature tensor G of each head; of all rows, or of each.
    causal: token t sees the keys s <= t + offset.
    offset: S - T if None.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    mask: True = may attend, in conjunction with the rest.
    scale: H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, (B, T, N).
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  (B, _, N, H), shape = q.shape, curvature.shape
  if shape not in ((B, N, H, H), (1, N, H, H)):
    raise ValueError(f"curvature {shape} must be {(B, N, H, H)} or {(1, N, H, H)}")
  given: dict[str, Any] = {"causal": causal, "offset": offset, "mask": mask}
  given |= {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids}
  given |= {"scale": scale, "return_lse": return_lse}
  if impl == "reference":
    return reference(q, k, v, curvature, **given)
  if segment_ids is not None:  # padding would reach the operator's gradient
    real = jnp.atleast_2d(segment_ids) >= 0
    q = jnp.where(real[..., None, None], q, 0)
  return dot_product.attend(curved(q, curvature), k, v, impl=impl, **given)


def curved(
  q: Float[Array, "B T N H"], curvature: Float[Array, "#B N H H"]
) -> Float[Array, "B T N H"]:
  """Returns q G in the type of q; products are summed in float32."""
  wide = accumulator_dtype(q)
  curvature = jnp.broadcast_to(curvature, (q.shape[0], *curvature.shape[1:]))
  bent = jnp.einsum("btnh,bnhg->btng", q.astype(wide), curvature.astype(wide))
  return bent.astype(q.dtype)


def reference(q, k, v, curvature, *, scale=None, return_lse=False, **mask):
  """Computes the definition: one (T, S) matrix of scores for each head."""
  wide = definition.wide(q)[..., None] * definition.wide(curvature)[:, None]
  bent = wide.sum(axis=-2).astype(q.dtype)
  seen = definition.visible(q.shape[1], k.shape[1], **mask)
  out, lse = definition.attention(bent, k, v, seen, scale=scale)
  return (out, lse) if return_lse else out


def power_law(
  learned: Float[Array, "*B N H H"],
  weight: Float[Array, "N H H"],
  shift: Float[Array, "N H H"],
  power: Float[Array, "N H H"],
  coupling: Float[Array, "N H H"],
  coupling_shift: Float[Array, "N H H"],
  *,
  impl: str = "auto",
) -> tuple[Array, Array, Array]:
  """Computes the tensors (A_LM, A_P, G_LM) of each head, (*B, N, H, H) in float32.

  A_LM = u^2 sigmoid(u) + EPSILON with u = W A + b, A_P = A_LM^p elementwise, and
  G_LM = a A_P + b_a; W and a multiply from the left. arXiv:2410.16703, section 2.

  Args:
    learned: A, the result of the metric learner.
    weight: W.
    shift: b.
    power: p.
    coupling: a.
    coupling_shift: b_a.
    impl: "reference", "xla", or "auto", which is "xla".

  Raises:
    NotImplementedError: for "pallas" and "triton".
    ValueError: for another unknown `impl`.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  given = weight, shift, power, coupling, coupling_shift
  if impl == "reference":
    return reference_power_law(learned, *given)
  if impl in ("pallas", "triton"):
    raise NotImplementedError(
      f"{impl} has no kernel of the power law: XLA fuses its elementwise parts"
    )
  wide = accumulator_dtype(learned)
  weight, shift, power, coupling, coupling_shift = (x.astype(wide) for x in given)
  u = _left(weight, learned.astype(wide)) + _like(shift, learned)
  metric = u * u * jax.nn.sigmoid(u) + EPSILON
  potential = jnp.exp(_like(power, learned) * jnp.log(metric))
  curvature = _left(coupling, potential) + _like(coupling_shift, learned)
  return metric, potential, curvature


def reference_power_law(learned, weight, shift, power, coupling, coupling_shift):
  """Computes the definition, with sums over the rows of each matrix written out."""
  A, W, b, p, a, b_a = (
    definition.wide(x)
    for x in (learned, weight, shift, power, coupling, coupling_shift)
  )
  u = (W[..., None] * A[..., None, :, :]).sum(axis=-2) + b
  metric = u * u / (1 + jnp.exp(-u)) + 1e-9
  potential = metric**p
  curvature = (a[..., None] * potential[..., None, :, :]).sum(axis=-2) + b_a
  return metric, potential, curvature


def _left(matrix, x):
  """Returns matrix x for each head; matrix (N, H, H), x (*B, N, H, H)."""
  return jnp.einsum("nij,...njk->...nik", matrix, x)


def _like(x, other):
  """Returns x with axes of size 1 before it, as many as `other` has."""
  return x.reshape((1,) * (other.ndim - x.ndim) + x.shape)


def _shapes(B, T, S, N, K, H, V, rows=None):
  shapes = {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}
  return shapes | {"curvature": (rows or B, N, H, H)}


def _packed(key):
  del key
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 5, axis=1)


def _random_mask(key):
  mask = jax.random.bernoulli(key, 0.5, (2, 1, 7, 9))
  return mask.at[0, :, :3].set(False)  # rows that see nothing


def _small(key):
  """Returns parameters with u around 2: near 0 the power's derivative is large."""
  names = "weight", "shift", "power", "coupling", "coupling_shift"
  keys = jax.random.split(key, len(names))
  found = {n: 0.3 * jax.random.normal(k, (2, 4, 4)) for n, k in zip(names, keys)}
  return found | {"shift": 2 + found["shift"]}


CASES = (
  Case("causal", _shapes(2, 65, 65, 2, 2, 8, 6), {"causal": True}),
  Case("one_token", _shapes(1, 1, 1, 1, 1, 4, 4), {"causal": True}),
  Case("segments", _shapes(2, 15, 15, 2, 1, 4, 4), {"segment_ids": _packed}),
  Case(
    "empty_rows",
    _shapes(2, 7, 9, 4, 2, 4, 4, rows=1),
    {"causal": True, "mask": _random_mask, "scale": 0.3, "return_lse": True},
  ),
  Case("tensors", {"learned": (3, 2, 4, 4)}, make=_small, function="power_law"),
)
REFUSED = {impl: ("tensors",) for impl in ("pallas", "triton")}

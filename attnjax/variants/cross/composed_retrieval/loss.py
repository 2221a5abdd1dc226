"""The symmetric InfoNCE loss of queries and targets, by all rows or a tile of them.

It is written here in plain JAX; `attnjax.contrastive_loss` computes the same in fused
kernels and on many devices.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.composed_retrieval import definition
from attnjax.variants.cross.composed_retrieval.geometry import IMPLEMENTATIONS

KINDS = ("image", "text", "composed")  # of queries


def info_nce(
  q: Float[Array, "B E"],
  t: Float[Array, "B E"],
  log_scale: Float[Array, ""],
  mask: Bool[Array, "B B"] | None = None,
  *,
  tile: int = 0,
  impl: str = "auto",
) -> Float[Array, ""]:
  """Computes the mean of two cross entropies, of queries' targets and the inverse.

  Args:
    q: queries, of length 1; query i belongs to target i.
    t: targets, of length 1.
    log_scale: the log of the factor of cosines; `attnjax.nn.temperature` bounds it.
    mask: False takes a pair out of both denominators, such as the `false_negatives`;
      the pairs (i, i) stay. All are in if None.
    tile: rows whose cosines are in memory at a time, and recomputed in the backward
      pass; 0: all.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if the tile is negative or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if tile < 0:
    raise ValueError(f"tile = {tile}; it must be at least 0")
  if impl == "reference":
    return definition.reference_info_nce(q, t, log_scale, mask)
  wide = jnp.promote_types(accumulator_dtype(q), accumulator_dtype(t))
  q, t = jnp.exp(log_scale.astype(wide)) * q.astype(wide), t.astype(wide)
  if mask is not None:
    mask = mask | jnp.eye(q.shape[0], dtype=bool)
  rows = _denominators(q, t, mask, tile)
  columns = _denominators(t, q, None if mask is None else mask.T, tile)
  return jnp.mean((rows + columns) / 2 - jnp.sum(q * t, axis=-1))


def pretraining_loss(
  queries: Mapping[str, Float[Array, "B E"]],
  t: Float[Array, "B E"],
  log_scale: Float[Array, ""],
  mask: Bool[Array, "B B"] | None = None,
  *,
  tile: int = 0,
) -> Float[Array, ""]:
  """Computes the mean of the losses of several kinds of queries for one set of targets.

  Args:
    queries: by their kind; the paper has the three KINDS, each with the weight 1/3.
    t: targets.
    log_scale: as in `info_nce`, as are all others.
    mask: False takes a pair out.
    tile: rows in memory at a time.

  Raises:
    ValueError: if a kind is unknown or there is none.
  """
  if not queries:
    raise ValueError("queries: at least one kind is needed")
  for kind in queries:
    check_known("kind of queries", kind, KINDS)
  losses = [info_nce(q, t, log_scale, mask, tile=tile) for q in queries.values()]
  return jnp.stack(losses).mean()


def _denominators(q, t, mask, tile):
  """Returns the log of each row's sum of exponentials, (B,)."""
  rows = (q,) if mask is None else (q, mask)

  @jax.checkpoint
  def one(row):
    logits = jnp.einsum("e,je->j", row[0], t)
    if len(row) > 1:
      logits = jnp.where(row[1], logits, -jnp.inf)
    return jax.nn.logsumexp(logits)

  if not tile:
    return jax.vmap(one)(rows)
  return jax.lax.map(one, rows, batch_size=tile)

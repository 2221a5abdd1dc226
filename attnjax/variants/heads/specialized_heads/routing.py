"""The routing of heads: what a router reads, its balance loss, and counts of picks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.variants.heads.specialized_heads.attention import taken


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Usage:
  """Counts of a router's picks; usages of several batches add up.

  Under `jax.jit` a batch that is divided among devices is counted whole; inside
  `jax.shard_map` the counts are summed with `jax.lax.psum`.

  Attributes:
    picks: (..., N), how often each head was taken.
    gates: (..., N), the sums of r_e over these.
  """

  picks: Any
  gates: Any

  def __add__(self, other: "Usage") -> "Usage":
    """Returns the usage of both."""
    return jax.tree.map(jnp.add, self, other)

  @property
  def rate(self) -> Array:
    """Returns the share of picks of each head, (..., N)."""
    return self.picks / jnp.maximum(self.picks.sum(axis=-1, keepdims=True), 1e-30)

  @property
  def gate(self) -> Array:
    """Returns the mean gate of each head when it was taken; 1 if it never was."""
    some = self.picks > 0
    return jnp.where(some, self.gates / jnp.where(some, self.picks, 1), 1.0)


def documents(
  x: Float[Array, "B T D"],
  ids: Int[Array, "B T"] | None,
  packed: bool,
) -> tuple[Float[Array, "B t D"], Float[Array, "B t"]]:
  """Returns means of documents, t = 1 or, in packed rows, T, and how often each counts.

  Args:
    x: tokens, 0 at padding.
    ids: the document of each token, -1 at padding; None is one document.
    packed: whether there may be several documents in a row.
  """
  if ids is None:
    return x.mean(axis=1, keepdims=True), jnp.ones((x.shape[0], 1), x.dtype)
  real = ids >= 0
  if not packed:
    count = real.sum(axis=1, keepdims=True)
    mean = x.sum(axis=1) / jnp.maximum(count, 1).astype(x.dtype)
    return mean[:, None], (count > 0).astype(x.dtype)
  same = (ids[:, :, None] == ids[:, None]) & real[:, :, None]
  count = same.sum(axis=2)
  share = jnp.where(real, 1 / jnp.maximum(count, 1), 0).astype(x.dtype)
  mean = jnp.einsum("bts,bsd->btd", same.astype(x.dtype), x)
  return mean * share[..., None], share


def usage(logits: Float[Array, "B t N"], weight: Float[Array, "B t"]) -> Usage:
  """Returns counts of the greatest logits; `weight` is how often a row counts."""
  gate, head = taken(logits)
  chosen = jax.nn.one_hot(head, logits.shape[-1], dtype=gate.dtype) * weight[..., None]
  chosen = jax.lax.stop_gradient(chosen)
  gates = jax.lax.stop_gradient(gate)[..., None] * chosen
  return Usage(chosen.sum(axis=(0, 1)), gates.sum(axis=(0, 1)))


def balance_loss(
  logits: Float[Array, "B t N"], weight: Float[Array, "B t"]
) -> Float[Array, ""]:
  """Computes N sum_i f_i P_i, which is 1 where all heads are taken alike.

  William Fedus, Barret Zoph, Noam Shazeer. Switch Transformers. arXiv:2101.03961,
  equation 4. f are the shares of picks, P the means of the softmax, with the gradient.
  """
  share = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, "f4")), axis=-1)
  total = jnp.maximum(weight.sum(), 1e-30)
  mean = (share * weight[..., None]).sum(axis=(0, 1)) / total
  return logits.shape[-1] * (usage(logits, weight).rate * mean).sum()

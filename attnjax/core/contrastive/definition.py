"""The definition of InfoNCE: one matrix of scores, and its log-softmax both ways."""

import jax
import jax.numpy as jnp


def reference(q, items, scale, labels, groups, mask, symmetric: bool):
  """Computes the mean loss; it calls nothing of the other implementations.

  Args:
    q: (Nq, D).
    items: (Ni, D).
    scale: of q . items, ().
    labels: (Nq,) int32, each query's item, negative if it has none.
    groups: (of queries (Nq,), of items (Ni,)) int32, or None.
    mask: (Nq, Ni) booleans of counted pairs, or None.
    symmetric: whether the columns' cross entropies are added.
  """
  wide = jnp.promote_types(jnp.result_type(q, items), jnp.float32)
  score = scale * jnp.einsum("qd,id->qi", q, items, preferred_element_type=wide)
  positive = labels[:, None] == jnp.arange(items.shape[0])
  out = jnp.zeros(score.shape, bool)
  if mask is not None:
    out |= ~mask
  if groups is not None:
    out |= (groups[0][:, None] == groups[1]) & (groups[0] >= 0)[:, None]
  score = jnp.where(out & ~positive, -jnp.inf, score)
  terms = -_log_softmax(score, 1)
  if symmetric:
    terms = (terms - _log_softmax(score, 0)) / 2
  count = jnp.maximum(positive.sum(), 1)
  return jnp.where(positive, terms, 0).sum() / count


def _log_softmax(score, axis: int):
  """Returns the log-softmax, with no NaN in what is derived of empty rows."""
  some = (score > -jnp.inf).any(axis=axis, keepdims=True)
  return jax.nn.log_softmax(jnp.where(some, score, 0), axis=axis)

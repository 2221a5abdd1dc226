"""The losses: focal, similarity distribution matching, and both of three streams."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.triple_modal import definition
from attnjax.variants.cross.triple_modal.coattention import IMPLEMENTATIONS
from attnjax.variants.cross.triple_modal.refusals import refuse_kernels

EPSILON = 1e-8  # beside the labels' distribution, before its logarithm


def focal_loss(
  scores: Float[Array, "B C"],
  labels: Int[Array, "B"],
  *,
  alpha: float = 0.25,
  gamma: float = 2.0,
  impl: str = "auto",
) -> Float[Array, ""]:
  """Computes the mean of alpha (1 - p)^gamma (-log p), p of the right class.

  Args:
    scores: logits.
    labels: right classes; examples with -1 are not counted.
    alpha: the factor of all.
    gamma: how fast examples that are right already lose their weight.
    impl: "reference", "xla", or "auto", which takes "xla".

  Raises:
    ValueError: if `impl` is unknown.
    NotImplementedError: if a kernel is asked for.
  """
  _checked(impl)
  if impl == "reference":
    return definition.reference_focal_loss(scores, labels, alpha=alpha, gamma=gamma)
  real = labels >= 0
  log = jax.nn.log_softmax(scores.astype(accumulator_dtype(scores)))
  log = jnp.take_along_axis(log, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
  loss = -alpha * (-jnp.expm1(log)) ** gamma * log
  return jnp.where(real, loss, 0).sum() / jnp.maximum(real.sum(), 1)


def sdm_loss(
  a: Float[Array, "B D"],
  b: Float[Array, "B D"],
  labels: Int[Array, "B"],
  *,
  length: float = 2.0,
  impl: str = "auto",
) -> Float[Array, ""]:
  """Computes the divergence of two streams' similarities from those of the labels.

  Args:
    a: features of one stream, an example a row.
    b: features of the other stream.
    labels: classes; examples with -1 are left out of rows and columns.
    length: the factor of the cosines.
    impl: "reference", "xla", or "auto", which takes "xla".

  Raises:
    ValueError: if `impl` is unknown.
    NotImplementedError: if a kernel is asked for.
  """
  _checked(impl)
  if impl == "reference":
    return definition.reference_sdm_loss(a, b, labels, length=length)
  real = labels >= 0
  pairs = real[:, None] & real
  same = (labels[:, None] == labels) & pairs
  target = jnp.log(same / jnp.maximum(same.sum(axis=1, keepdims=True), 1) + EPSILON)
  cosine = length * _unit(a, real) @ _unit(b, real).T
  total = 0.0
  for logits in (cosine, cosine.T):
    log = jax.nn.log_softmax(jnp.where(pairs, logits, -1e30), axis=1)
    total += jnp.where(pairs, jnp.exp(log) * (log - target), 0).sum()
  return total / jnp.maximum(real.sum(), 1)


def itcfn_loss(
  a: Float[Array, "B D"],
  b: Float[Array, "B D"],
  c: Float[Array, "B D"],
  scores: Float[Array, "B C"],
  labels: Int[Array, "B"],
  *,
  present: Bool[Array, "B 3"] | None = None,
  pair_weight: float = 0.2,
  matching_weight: float = 0.01,
  impl: str = "auto",
) -> Float[Array, ""]:
  """Computes focal_loss + w2 ((1 - w1) S(a, b) + w1 (S(b, c) + S(a, c)) / 2).

  Args:
    a: features of the first stream.
    b: features of the second stream.
    c: features of the third stream.
    scores: logits.
    labels: right classes; examples with -1 are not counted.
    present: False where an example lacks a stream, which then is in no divergence.
    pair_weight: w1, of the pairs with the third stream.
    matching_weight: w2, of the divergences.
    impl: "reference", "xla", or "auto", which takes "xla".

  Raises:
    ValueError: if `impl` is unknown.
    NotImplementedError: if a kernel is asked for.
  """
  _checked(impl)
  rates = {"pair_weight": pair_weight, "matching_weight": matching_weight}
  if impl == "reference":
    return definition.reference_itcfn_loss(
      a, b, c, scores, labels, present=present, **rates
    )

  def matched(one, other, i, j):
    if present is None:
      return sdm_loss(one, other, labels)
    both = jnp.where(present[:, i] & present[:, j], labels, -1)
    return sdm_loss(one, other, both)

  ab, bc, ac = matched(a, b, 0, 1), matched(b, c, 1, 2), matched(a, c, 0, 2)
  mixed = (1 - pair_weight) * ab + pair_weight * (bc + ac) / 2
  return focal_loss(scores, labels) + matching_weight * mixed


def _unit(x, real):
  """Divides rows by their lengths; a zero stays zero."""
  x = jnp.where(real[:, None], x.astype(accumulator_dtype(x)), 0)
  square = jnp.sum(x * x, axis=1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def _checked(impl):
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  refuse_kernels(impl, "loss")

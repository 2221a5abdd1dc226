"""InfoNCE, the contrastive loss of pairs, without its similarity matrix.

  loss = attnjax.contrastive_loss(images, texts, log_scale=log_scale)

Aaron van den Oord, Yazhe Li, Oriol Vinyals. Representation Learning with Contrastive
Predictive Coding. arXiv:1807.03748; both directions and a learned temperature as in
CLIP, arXiv:2103.00020. `attnjax.core.contrastive` has the equations.

Cost: 2 products q . items forward, 4 products backward (1 and 2 in one direction);
memory O((Nq + Ni) D) beside a mask, which is only read.

On a mesh each device computes its own rows of q and of items, as the arguments'
shardings divide them, and gathers the other side. Inside `jax.shard_map`, with its
`check_vma`, `axis` names the mesh axes that divide the rows; the other side is gathered
there, or goes round in a ring where it is large.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from attnjax import backends
from attnjax.contract import check_known
from attnjax.core import contrastive, modes
from attnjax.core.contrastive import Axes
from attnjax.core.dtypes import accumulator_dtype
from pallas_kernels import contrastive as kernels


def contrastive_loss(
  q: Float[Array | np.ndarray, "..."],
  items: Float[Array | np.ndarray, "..."],
  *,
  log_scale: ArrayLike,
  labels: Int[Array | np.ndarray, "..."] | None = None,
  mask: Bool[Array | np.ndarray, "..."] | None = None,
  groups: tuple[Int[Array | np.ndarray, "..."], Int[Array | np.ndarray, "..."]]
  | None = None,
  symmetric: bool = True,
  axis: str | Sequence[str] | None = None,
  impl: str = "auto",
) -> Float[Array, "..."]:
  """Computes the mean cross entropy of each query's item among all, and vice versa.

  With one direction a term is -log softmax of the query's row at its item; with both it
  is the mean of that and of the item's column at the query. Rows are not normalised.

  Args:
    q: (Nq, D), queries.
    items: (Ni, D), candidates.
    log_scale: the log of what q . items is multiplied by, the inverse temperature.
    labels: (Nq,), the item of each query, its own number if None. A query with a
      negative one has no term, but stays among the items' queries.
    mask: (Nq, Ni), False where a pair is left out of the sums; the positive ones, of
      a query and its item, never are.
    groups: ids of the queries (Nq,) and of the items (Ni,): pairs with equal ids that
      are not negative are left out, as if by `mask`.
    symmetric: whether both directions are taken, else only that of the queries.
    axis: inside `jax.shard_map`, the mesh axes over which the rows of q and of items
      are divided; the loss is then that of all devices' rows, labels are numbers among
      all items, and a mask is (Nq, all items).
    impl: one of `attnjax.attention.IMPLEMENTATIONS`, or "auto".

  Raises:
    ValueError: if shapes do not fit or a name is not allowed.
    NotImplementedError: if the named implementation cannot do the problem.
  """
  check_known("impl", impl, ("auto", *backends.IMPLEMENTATIONS))
  q, items, axes = jnp.asarray(q), jnp.asarray(items), Axes.of(axis)
  _check(q, items, labels, mask, groups, symmetric, axes)
  given = _integers(labels, groups, mask)
  dtype = jnp.result_type(q, items)
  q, items = q.astype(dtype), items.astype(dtype)
  scale = jnp.exp(jnp.asarray(log_scale, accumulator_dtype(q)))
  if 0 in (*q.shape, *items.shape):
    return 0 * scale
  run = functools.partial(_computed, axes, symmetric, impl)
  with jax.numpy_rank_promotion("allow"):
    return modes.whole(run)(q, items, scale, *given)


def _integers(labels, groups, mask):
  """Returns the arrays without derivatives, in their order as arguments of passes."""
  labels = None if labels is None else jnp.asarray(labels, jnp.int32)
  if groups is not None:
    queries, others = groups
    groups = jnp.asarray(queries, jnp.int32), jnp.asarray(others, jnp.int32)
  return labels, groups, None if mask is None else jnp.asarray(mask)


def _computed(axes: Axes, symmetric: bool, impl: str, q, items, *given):
  """Computes the loss by an implementation."""
  plain = {"reference": None, "xla": contrastive.passes(symmetric=symmetric)}
  passes = backends.choose(
    impl, plain, lambda impl: kernels.prepared(q, items, impl=impl)
  )
  if passes is None:
    return _definition(axes, symmetric, q, items, *given)
  how = {"symmetric": symmetric, "passes": passes, "axes": axes}
  return contrastive.mean_loss(q, items, *given, **how)


def _definition(axes: Axes, symmetric: bool, q, items, scale, labels, groups, mask):
  """Computes the definition of all devices' rows."""
  if labels is None:
    labels = axes.first(q.shape[0]) + jnp.arange(q.shape[0])
  given = axes.gathered((q, items)), axes.gathered((labels, groups, mask))
  (q, items), (labels, groups, mask) = given
  found = contrastive.reference(q, items, scale, labels, groups, mask, symmetric)
  return axes.sum(found) / axes.size


def _check(q, items, labels, mask, groups, symmetric: bool, axes: Axes) -> None:
  """Raises ValueError, naming value and rule, for arguments that do not fit."""
  if q.ndim != 2 or items.ndim != 2 or q.shape[1] != items.shape[1]:
    raise ValueError(f"q {q.shape} and items {items.shape}; they are (Nq, D), (Ni, D)")
  if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (q, items)):
    raise ValueError(f"q is {q.dtype} and items {items.dtype}; they must be floats")
  Nq, Ni = q.shape[0], items.shape[0]
  if labels is None and (Nq > Ni or (symmetric or axes.names) and Nq != Ni):
    raise ValueError(
      f"{Nq} queries and {Ni} items: without labels query i has item i, and both"
      " directions, or rows on several devices, need as many of each"
    )
  wanted = {
    "labels": (labels, (Nq,)),
    "mask": (mask, (Nq, axes.size * Ni)),
    "groups of queries": (groups and groups[0], (Nq,)),
    "groups of items": (groups and groups[1], (Ni,)),
  }
  for name, (array, shape) in wanted.items():
    if array is not None and jnp.shape(array) != shape:
      raise ValueError(f"{name}: {jnp.shape(array)}; the shape must be {shape}")

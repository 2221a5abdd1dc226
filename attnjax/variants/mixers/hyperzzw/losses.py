"""The slow neural loss in its two forms, norms of weights, and the objective."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.contract import check_known
from attnjax.variants.mixers.hyperzzw.branches import RGU, MultiBranch
from attnjax.variants.mixers.hyperzzw.slow import LocalSlowNet, SlowNet

REDUCTIONS = ("channel_sum", "tile")


def slow_neural_loss(
  kernels: Sequence[Float[Array, "H W _"]], reduce: str = "channel_sum"
) -> Float[Array, ""]:
  """Computes the distance of the blocks' slow kernels, summed over pairs of blocks.

  Args:
    kernels: (H, W, C_i) of each block, of one H and W.
    reduce: "channel_sum": mean((sum_c W_j - sum_c W_i)^2); "tile": mean((W_j tiled -
      W_i)^2), the earlier kernel's channels repeated to the number of the later's.

  Raises:
    ValueError: if `reduce` is unknown or channels do not divide.
  """
  check_known("reduce", reduce, REDUCTIONS)
  if reduce == "channel_sum":
    kernels = [kernel.sum(axis=-1, keepdims=True) for kernel in kernels]
  total = jnp.zeros(())
  for early, late in itertools.combinations(kernels, 2):
    if late.shape[-1] % early.shape[-1]:
      raise ValueError(f"kernels {early.shape} cannot be tiled to {late.shape}")
    tiled = jnp.tile(early, late.shape[-1] // early.shape[-1])
    total += jnp.square(tiled - late).mean()
  return total


def terminator_loss(
  logits: Float[Array, "B classes"],
  labels: Int[Array, "B"],
  kernels: Sequence[Float[Array, "H W _"]],
  *,
  smoothing: float = 0.09,
  weight: float = 1.0,
  reduce: str = "channel_sum",
) -> Float[Array, ""]:
  """Computes smoothed cross-entropy plus `weight` times the slow neural loss.

  In training the official objective adds `weight_norms` of the model.
  """
  targets = optax.smooth_labels(jnp.eye(logits.shape[-1])[labels], smoothing)
  loss = optax.softmax_cross_entropy(logits, targets).mean()
  return loss + weight * slow_neural_loss(kernels, reduce)


def weight_norms(
  model: nnx.Module, *, weight: float = 5e-5, slow: float = 1e-6
) -> Float[Array, ""]:
  """Computes weight (sum of |W| of the fast nets + slow times that of the slow nets).

  |W| is the root of a weight matrix's sum of squares. The fast matrices mix channels:
  those of each local convolution, of the mixed branch, and of all branches at the end.
  The slow ones are all that generate a kernel over pixels, and, as the official code
  names them, the gated units'. Matrices of the slow nets over channels, position
  biases, other biases and the head are left out. The official sum also has the biases
  that no parameter is here for, since a standardisation cancels them.

  Args:
    model: a `Terminator`, or another module with `MultiBranch` inside.
    weight: the factor of the sum.
    slow: the factor of the slow nets' norms inside the sum.
  """
  fast_total = slow_total = jnp.zeros(())
  for _, part in nnx.iter_graph(model):
    if isinstance(part, MultiBranch):
      fast = [part.narrow, part.mix, *(conv.mix for conv in part.convs)]
      fast_total += sum(_norm(linear) for linear in fast)
      slow_total += sum(_norm(linear) for linear in _slow(part))
  return weight * (fast_total + slow * slow_total)


def _slow(branches: MultiBranch) -> Iterator[nnx.Linear]:
  """Yields the linear maps of all nets whose norms count as slow ones."""
  nets: list[Any] = [branches.slow, branches.interact.slow, *branches.locals]
  for net in [*nets, branches.gated, branches.gated_weights]:
    if isinstance(net, RGU):
      yield from (net.key, net.value, net.query, net.out)
    if isinstance(net, LocalSlowNet):
      yield from (net.reduce, net.feature, *net.gates)
      net = net.net
    if isinstance(net, SlowNet):
      yield from (*net.filters, *net.hidden, net.out)


def _norm(linear: nnx.Linear) -> Float[Array, ""]:
  """Computes |W| of a linear map, with the gradient 0 at W = 0."""
  square = jnp.sum(jnp.square(linear.kernel[...]))
  return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)

"""Blocks of vision models: norm, mixer, norm, MLP, and paths that are dropped."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import weights
from attnjax.nn import drop_path, running
from attnjax.nn.depthwise import Depthwise

_INIT = nnx.initializers.truncated_normal(0.02)


def layer_norm(dim: int, epsilon: float = 1e-5, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """Returns a norm over the channels; the variance is not a difference of squares."""
  return nnx.LayerNorm(dim, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class Feed(nnx.Module):
  """down(gelu(up x)) with the exact GELU; between them, optionally, a convolution.

  Args:
    dim: D.
    hidden: width between the projections.
    kernel: side of a depthwise convolution before the GELU, which needs images; none
      if 0.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, hidden: int, *, kernel: int = 0, rngs: nnx.Rngs):
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.convolution = Depthwise(hidden, kernel, rngs=rngs) if kernel else None
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the MLP's output; the residual is the caller's."""
    x = self.up(x)
    x = x if self.convolution is None else self.convolution(x)
    return self.down(jax.nn.gelu(x, approximate=False))


class Block(nnx.Module):
  """x + mixer(norm x), then x + feed(norm x).

  Args:
    dim: D.
    mixer: what makes it, given `rngs`; None for a block without one.
    hidden: of the MLP.
    kernel: of `Feed`.
    epsilon: of the norms.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    mixer: Callable[..., Any] | None,
    *,
    hidden: int,
    kernel: int = 0,
    epsilon: float = 1e-5,
    drop: float = 0.0,
    rngs: nnx.Rngs,
  ):
    if not 0 <= drop < 1:
      raise ValueError(f"drop = {drop}: it must be from 0 to below 1")
    self.norm = None if mixer is None else layer_norm(dim, epsilon, rngs=rngs)
    self.mixer = None if mixer is None else mixer(rngs=rngs)
    self.feed_norm = layer_norm(dim, epsilon, rngs=rngs)
    self.feed = Feed(dim, hidden, kernel=kernel, rngs=rngs)
    self.drop = drop

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
    **context,
  ) -> Any:
    """Returns the block's output (B, *S, D), and new statistics if some are given.

    `key` turns dropping on, `context` goes to the mixer.
    """
    carry = running.Carry(self, stats, train)
    first, second = (None, None) if key is None else jax.random.split(key)
    if self.mixer is not None and self.norm is not None:
      y = carry(self.mixer, self.norm(x), **context)
      x = x + drop_path.drop(y, self.drop, first)
    return carry.result(
      x + drop_path.drop(self.feed(self.feed_norm(x)), self.drop, second)
    )

  def weights(
    self, x: Float[Array, "B *S D"], *, index: int = 0, stats: Any = (), **context
  ) -> list[Array]:
    """Returns the weights (B, N, T, S) of the mixer's attention, if there is one."""
    del stats  # nothing is normalised by the batch before the mixer
    if self.mixer is None or self.norm is None:
      return []
    return [weights(self.mixer, self.norm(x), index=index, **context)]


def rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
  """Returns dropping rates of each stage's blocks, from 0 to `last` in equal steps.

  Gao Huang et al. Deep Networks with Stochastic Depth. arXiv:1603.09382, section 3.
  """
  total, found, number = sum(depths), [], 0
  for depth in depths:
    found.append([last * (number + i) / max(total - 1, 1) for i in range(depth)])
    number += depth
  return found


def keys(key: Array | None, number: int) -> list[Any]:
  """Returns a key for each of so many blocks; all None without one."""
  return [None] * number if key is None else list(jax.random.split(key, number))

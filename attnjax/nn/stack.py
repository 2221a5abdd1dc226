"""Pre-norm residual blocks of one width, scanned over the depth."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract import check_known, weights
from attnjax.nn import running, unseen
from attnjax.nn.blocks import Block

# What jax.checkpoint keeps of a block; "none" keeps all, without jax.checkpoint.
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Stack(nnx.Module):
  """`depth` blocks whose mechanisms follow a pattern that repeats.

  Block l has the mechanism builds[l % len(builds)]. The parameters of the blocks at the
  same place of the pattern are stacked on a leading axis, and `jax.lax.scan` runs over
  the repeats: compile time does not grow with the depth. Statistics, where a mechanism
  has batch norm, are stacked alike.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    dim: int,
    depth: int,
    norm: str = "rms",
    feed_forward: str = "swiglu",
    hidden: int,
    conv: int = 0,
    dropout: float = 0.0,
    remat: str = "none",
    rngs: nnx.Rngs,
  ):
    if depth % len(builds):
      raise ValueError(
        f"depth = {depth} does not divide by the pattern of {len(builds)} mechanisms"
      )
    check_known("remat", remat, REMAT)

    def block(build):
      def make(key):
        return Block(
          dim,
          build,
          layers=depth,
          norm=norm,
          feed_forward=feed_forward,
          hidden=hidden,
          conv=conv,
          dropout=dropout,
          rngs=nnx.Rngs(key),
        )

      return jax.vmap(make)(jax.random.split(rngs.params(), depth // len(builds)))

    self.blocks = nnx.List([block(build) for build in builds])
    self.depth, self.remat = depth, remat

  def __call__(
    self,
    x: Float[Array, "B *T D"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
    **context,
  ) -> Any:
    """The output of the last block (B, *T, D), and new statistics if some are given.

    `context` goes to every mixer, positions to those that read places. Padding is zero
    at the input, see `nn.unseen`.

    Raises:
      NotImplementedError: for positions that no mixer reads.
    """
    carry = running.Carry(self, stats, train)
    x, contexts = _blank(x, context), _contexts(self.blocks, context)

    def repeat(x, part):
      blocks, held, start = part
      new = []
      for place, (block, own, context) in enumerate(zip(blocks, held, contexts)):
        index = start + place
        draw = None if key is None else jax.random.fold_in(key, index)
        given = {"index": index, "key": draw, "stats": own, "train": train}
        x, own = running.apply(block, x, **given, **context)
        new.append(own)
      return x, tuple(new)

    if REMAT[self.remat] is not None:
      repeat = jax.checkpoint(repeat, policy=REMAT[self.remat])
    held = tuple(carry.of(block) for block in self.blocks)
    parts = tuple(self.blocks), held, self._starts()
    x, new = jax.lax.scan(repeat, x, parts)
    for block, own in zip(self.blocks, new):
      carry.keep(block, own)
    return carry.result(x)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """One cache a place of the pattern, stacked over the repeats."""

    def one(block):
      return block.init_cache(batch, length, dtype)

    return tuple(jax.vmap(one)(block) for block in self.blocks)

  def step(self, x: Float[Array, "B T D"], cache: Any, **context):
    """The next T tokens; (y, cache).

    Raises:
      NotImplementedError: if there is batch norm inside: no layer decodes with it.
    """
    if self.init_stats():
      raise NotImplementedError("a layer with batch norm has no step form")
    x = _blank(x, context)

    def repeat(x, part):
      blocks, caches, start = part
      new = []
      for place, (block, old) in enumerate(zip(blocks, caches)):
        x, one = block.step(x, old, index=start + place, **context)
        new.append(one)
      return x, tuple(new)

    return jax.lax.scan(repeat, x, (tuple(self.blocks), cache, self._starts()))

  def weights(
    self, x: Float[Array, "B *T D"], *, stats: Any = None, **context
  ) -> list[Array]:
    """The attention weights of every block, (B, N, T, S) each."""
    carry = running.Carry(self, stats, False)
    found, x, contexts = [], _blank(x, context), _contexts(self.blocks, context)
    for index in range(self.depth):
      repeat, place = divmod(index, len(self.blocks))
      held = self.blocks[place], carry.of(self.blocks[place])
      block, own = jax.tree.map(lambda leaf, r=repeat: leaf[r], held)
      context = contexts[place]
      seen = block.mixed(x, context)
      found.append(weights(block.mixer, seen, index=index, **context))
      given = {"index": index, "stats": own, "train": False}
      x, _ = running.apply(block, x, **given, **context)
    return found

  def _starts(self) -> Int[Array, "R"]:
    return jnp.arange(0, self.depth, len(self.blocks))


def _contexts(blocks, context) -> list[dict]:
  """The context of the blocks at each place of the pattern."""
  refused = [getattr(block.mixer, "refuses", {}) for block in blocks]
  if context.get("positions") is None:
    return [context] * len(refused)
  if all("positions" in one for one in refused):
    raise NotImplementedError(f"positions: {refused[0]['positions']}")
  without = {name: value for name, value in context.items() if name != "positions"}
  return [without if "positions" in one else context for one in refused]


def _blank(x, context):
  seen = context.get("segment_ids"), context.get("padding")
  return unseen.blank(x, *seen)[0]


def hidden_size(dim: int, ratio: float, multiple: int = 8) -> int:
  """`ratio` x dim, rounded up to a multiple; 0 for ratio 0 (no MLP)."""
  return math.ceil(ratio * dim / multiple) * multiple

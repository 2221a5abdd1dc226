"""Pre-norm residual blocks of one width, scanned over the depth."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract import check_known
from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.core import policies
from attnjax.nn import inside, running, stack_context, stepping, streams
from attnjax.nn.blocks import Block
from attnjax.nn.reduced import Tokens
from attnjax.nn.remat import REMAT
from attnjax.nn.repeats import repeat
from attnjax.nn.segment_memory import SegmentMemory


class Stack(nnx.Module):
  """`depth` blocks whose mechanisms follow a pattern that repeats.

  Block l has the mechanism builds[l % len(builds)]. The parameters of the blocks at the
  same place of the pattern are stacked on a leading axis, and `jax.lax.scan` runs over
  the repeats: compile time does not grow with the depth. Statistics, where a mechanism
  has batch norm, are stacked alike.

  `between` = {l: build} puts build(dim, rngs=rngs) before block l, a reducer of tokens,
  see `attnjax.contract.forms.tokens`: x (B, T, D) -> (y (B, R, D), kept (B, R) int32),
  R static, the token that each stands for. Padding, segments and positions go with the
  tokens; the scan is cut there.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    dim: int,
    depth: int,
    norm: str = "rms",
    feed_forward: str | Callable = "swiglu",
    hidden: int,
    conv: int = 0,
    dropout: float = 0.0,
    learned_residuals: bool = False,
    remat: str = "none",
    between: Mapping[int, Callable] | None = None,
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
          learned_residuals=learned_residuals,
          rngs=nnx.Rngs(key),
        )

      return jax.vmap(make)(jax.random.split(rngs.params(), depth // len(builds)))

    self.blocks = nnx.List([block(build) for build in builds])
    self.dim, self.depth, self.remat = dim, depth, remat
    between = between or {}
    self.cuts = tuple(sorted(between))
    for cut in self.cuts:
      if not 0 < cut < depth or cut % len(builds):
        raise ValueError(
          f"between = {cut}: reducers stand between repeats of the {len(builds)}"
          f" mechanisms of {depth} blocks"
        )
    self.reducers = nnx.List([between[cut](dim, rngs=rngs) for cut in self.cuts])

  def __call__(
    self,
    x: Float[Array, "B *T D"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
    memory: Any = None,
    stream: Float[Array, "1 L D"] | None = None,
    whole: bool = False,
    **context,
  ) -> Any:
    """Returns the last block's output (B, *T, D), and new statistics if some are given.

    With `whole` the output is `nn.reduced.Tokens`, those that reducers left and all.
    `context` goes to every mixer, positions only to the mixers that read them. Padding
    is zero at the input, see `nn.unseen`. With a `memory`, of `init_memory` or of the
    segment before, the output is a pair, (output, memory after x). `stream` begins the
    fixed sequence of `nn.streams`, where mixers read one.

    Raises:
      NotImplementedError: for positions that no mixer reads, or with a memory.
    """
    carry = running.Carry(self, stats, train)
    x = stack_context.blank(x, context)
    stack_context.check_memory(memory, context, self.cuts)
    streams.check(self, memory)
    kept = (None,) * len(self.blocks) if memory is None else memory
    parts = tuple(self.blocks), self._held(carry), self.starts(), kept
    parts += (streams.hidden(self, stream),)
    gathered, embeddings, left = [], x, Tokens.begun(x) if whole else None
    for first, last in zip([0, *self.cuts], [*self.cuts, self.depth]):
      x, context, left = self.reduced(first, x, context, left)
      run = repeat(self, context, key, train, embeddings)
      repeats = first // len(self.blocks), last // len(self.blocks)
      x, (new, kept) = jax.lax.scan(run, x, inside.cut(parts, *repeats))
      gathered.append(new)
    for block, *new in zip(self.blocks, *gathered):
      carry.keep(block, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *new))
    y = x if left is None else left.now(x)
    return carry.result(y if memory is None else (y, kept))

  def init_memory(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Returns empty memories of `length` inputs, stacked as the blocks are."""
    one = SegmentMemory.empty(batch, length, self.dim, dtype)
    repeats = self.depth // len(self.blocks)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * repeats), one)
    return (stacked,) * len(self.blocks)

  def init_cache(
    self, batch: int, length: int, dtype=jnp.float32, *, stream: Any = None
  ) -> Any:
    """Returns a cache for each place of the pattern, stacked over the repeats."""

    def one(block, own):
      return block.init_cache(batch, length, dtype, own)

    return tuple(map(jax.vmap(one), self.blocks, streams.hidden(self, stream)))

  def step(
    self, x: Float[Array, "B T D"], cache: Any, *, shared: Any = None, **context
  ) -> Any:
    """Returns the results of the next T tokens, and the cache after them.

    Args:
      x: (B, T, D).
      cache: of `init_cache`, or of the step before; donated to `jax.jit`, it is updated
        in place.
      shared: arrays that go from block to block, see `Block.step`, and then are the
        third result; None: those with which a policy of the caches starts.
      **context: goes to every mixer.

    Raises:
      NotImplementedError: for batch norm inside, and for reducers between the blocks.
    """
    if self.init_stats():
      raise NotImplementedError("a layer with batch norm has no step form")
    if self.cuts:
      raise NotImplementedError(f"reducers at {self.cuts}: no step drops tokens")
    x = stack_context.blank(x, context)
    carried = policies.start(cache, x.shape[1]) if shared is None else shared
    x, cache, after = stepping.through(self, x, cache, carried, context)
    return (x, cache) if shared is None else (x, cache, after)

  def weights(
    self, x: Float[Array, "B *T D"], *, stats: Any = None, **context
  ) -> list[Array]:
    """Returns the attention weights of every block, (B, N, T, S) each."""
    return inside.weights(self, x, stats, context)

  def trace(
    self,
    x: Float[Array, "B *T D"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
    first: int = 0,
    **context,
  ) -> Trace:
    """Returns the intermediate values of all blocks, the output of the last included.

    Args:
      x: (B, *T, D).
      edit: (number of the layer, its heads) to the heads that it mixes, or Edits.
      stats: as in a call.
      first: the number of the first block for `edit`, where stacks follow each other.
      **context: goes to every mixer.
    """
    return inside.trace(self, x, edit, stats, first, context)

  def each(self, stats: Any = None) -> Iterator[tuple[int, int, Any, Any]]:
    """Yields (number, place in the pattern, block, its statistics), one by one."""
    held = self._held(running.Carry(self, stats, False))
    for index in range(self.depth):
      repeat, place = divmod(index, len(self.blocks))
      yield index, place, *inside.cut((self.blocks[place], held[place]), repeat)

  def reduced(self, index: int, x: Array, context: dict, left: Any = None) -> tuple:
    """Returns the tokens that block `index` sees of x, their context, and all tokens.

    `left` are those before, or None if nobody asks for all of them.
    """
    if index not in self.cuts:
      return x, context, left
    reducer = self.reducers[self.cuts.index(index)]
    y, kept = reducer(x, **stack_context.seen(context))
    left = left if left is None else left.now(x).after(y, kept)
    return y, stack_context.of_kept(self.blocks, context, x, kept), left

  def _held(self, carry) -> tuple:
    return tuple(carry.of(block) for block in self.blocks)

  def starts(self) -> Int[Array, "R"]:
    """Returns the number of the first block of each repeat of the pattern."""
    return jnp.arange(0, self.depth, len(self.blocks))


def hidden_size(dim: int, ratio: float, multiple: int = 8) -> int:
  """Returns ratio x dim, rounded up to a multiple; 0 for ratio 0 (no MLP)."""
  return math.ceil(ratio * dim / multiple) * multiple

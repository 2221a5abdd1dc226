"""The patterns of prompts as cache policies; later queries see all keys."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import budgets, masks
from attnjax.core.dense_after_prompt import DenseAfterPrompt
from attnjax.variants.decode.sparse_frontier import patterns


class Pattern(DenseAfterPrompt):
  """A cache policy whose prompt sees the mask of a pattern."""

  def prefill(
    self,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    count: Int[Array, "B"],
    index: Any,
  ) -> masks.Mask:
    """Returns what the queries of a prompt see."""
    del index
    return self.mask(q, k, count)

  def mask(self, q: Array, k: Array, lengths: Array) -> masks.Mask:
    """Returns what the queries of a prompt see; see `prefill`."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class BlockSparse(Pattern):
  """Block-sparse attention of the prompt; see `patterns.block_sparse`.

  Attributes:
    block: tokens of a block.
    blocks: key blocks of a query block.
  """

  block: int = 16
  blocks: int = 64

  def __post_init__(self):
    patterns.check_blocks(self.block, self.blocks)

  def of_fraction(self, fraction: float, length: int) -> "BlockSparse":
    """Returns the policy whose queries see a share of the pairs of a prompt, at most.

    Blocks become smaller where three are more than that; three tokens are the least.
    """
    budgets.keys(fraction, length)
    block = self.block
    while block > 1 and _density(length, block, 3) > fraction:
      block //= 2
    blocks = max(-(-length // block), 3)
    while blocks > 3 and _density(length, block, blocks) > fraction:
      blocks -= 1
    return dataclasses.replace(self, block=block, blocks=blocks)

  def prompt_reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns pairs of a prompt: attended to, and of blocks to choose among them."""
    count = -(-places // self.block)
    chosen = layers * count * (count + 1) / 2 if self.blocks < count else 0.0
    return float(layers * _pairs(places, self.block, self.blocks)), float(chosen)

  def mask(self, q, k, lengths) -> masks.Mask:
    """Returns what the queries (B, T, N, H) see of keys (B, T, K, H), to be causal."""
    del lengths  # what is padded is later than all that is real
    found = patterns.block_sparse(q, k, **dataclasses.asdict(self))
    if found.divides(patterns.LISTED, patterns.LISTED):
      return found
    T = q.shape[1]
    return patterns.listed(found.dense(T, T) & jnp.tri(T, dtype=bool))


@dataclasses.dataclass(frozen=True)
class VerticalSlash(Pattern):
  """Vertical-slash attention of the prompt; see `patterns.vertical_slash`.

  Attributes:
    window: last queries, whose attention chooses.
    verticals: number of keys.
    slashes: number of distances.
    first: keys that are always chosen.
    near: distances that are always chosen.
    rounded: queries that share slashes; 1 is exact, 64 the authors' kernel.
  """

  window: int = 256
  verticals: int = 512
  slashes: int = 512
  first: int = 4
  near: int = 64
  rounded: int = 1

  def __post_init__(self):
    patterns.check_window(self.window, self.first, self.near, self.rounded)
    patterns.check_numbers(self.verticals, self.slashes, self.first, self.near)

  def of_fraction(self, fraction: float, length: int) -> "VerticalSlash":
    """Returns the policy whose queries see a share of the pairs of a prompt, at most.

    Verticals and slashes are as many; the near ones keep their share of the slashes.
    """
    budgets.keys(fraction, length)
    # The sum of min(t + 1, n) over all t < T is at most f T^2 / 2 for this n.
    number = int(length * (1 - math.sqrt(1 - fraction)))
    slashes = length if fraction == 1 else max(number - number // 2, 1)
    verticals = length if fraction == 1 else number // 2
    near = max(self.near * slashes // self.slashes, 1)
    first = min(self.first, verticals // 4)
    sizes = {"verticals": verticals, "slashes": slashes}
    return dataclasses.replace(self, near=near, first=first, **sizes)

  def prompt_reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns pairs of a prompt: attended to, at most, and those of the window."""
    number = min(self.verticals + self.slashes, places)
    some = number * (number + 1) / 2 + (places - number) * number
    window = min(self.window, places)
    return float(layers * some), float(layers * window * (places - (window - 1) / 2))

  def mask(self, q, k, lengths) -> masks.Mask:
    """Returns what the queries (B, T, N, H) see of keys (B, T, K, H)."""
    return _crossed(patterns.vertical_slash, self, q, k, lengths)


@dataclasses.dataclass(frozen=True)
class FlexPrefill(Pattern):
  """FlexPrefill's attention of the prompt; see `patterns.flexprefill`.

  The prompt says how many keys carry `alpha`: the policy takes no budget as a share of
  them. Comparisons at equal costs sweep `alpha`.

  Attributes:
    window: last queries, whose attention chooses.
    alpha: share of their attention that the chosen ones carry.
    least: the least number of keys, and of distances.
    first: keys that are always chosen.
    near: distances that are always chosen.
    rounded: queries that share slashes; 1 is exact, 64 the authors' kernel.
  """

  window: int = 512
  alpha: float = 0.65
  least: int = 512
  first: int = 4
  near: int = 64
  rounded: int = 1

  def __post_init__(self):
    patterns.check_window(self.window, self.first, self.near, self.rounded)
    patterns.check_share(self.alpha, self.least, self.first, self.near)

  def mask(self, q, k, lengths) -> masks.Mask:
    """Returns what the queries (B, T, N, H) see of keys (B, T, K, H)."""
    return _crossed(patterns.flexprefill, self, q, k, lengths)


def _pairs(length: int, block: int, blocks: int) -> int:
  """Returns the causal pairs of block-sparse attention."""
  found = 0
  for number in range(-(-length // block)):
    rows = min(block, length - number * block)
    found += min(number, blocks - 1) * block * rows + rows * (rows + 1) // 2
  return found


def _density(length: int, block: int, blocks: int) -> float:
  return _pairs(length, block, blocks) / (length * (length + 1) / 2)


METHODS = {
  "block_sparse": BlockSparse,
  "vertical_slash": VerticalSlash,
  "flexprefill": FlexPrefill,
}


def _crossed(choose, policy, q, k, lengths) -> masks.Mask:
  """Returns the mask of verticals and slashes."""
  options = dataclasses.asdict(policy)
  rounded = options.pop("rounded")
  chosen = choose(q, k, lengths=lengths, **options)
  return patterns.listed(patterns.seen(*chosen, rounded=rounded))

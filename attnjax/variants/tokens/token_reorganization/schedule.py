"""Keep rates that fall during training, rounded so that few programs are compiled."""

import math
from collections.abc import Sequence

from attnjax.variants.tokens.token_reorganization.reorganize import count_kept


def keep_schedule(
  step: int, keep_ratio: float, *, start: int, end: int, levels: int = 0
) -> float:
  """Returns the keep rate of a step of training: 1, then a cosine to the last one.

  The authors' code: r + (1 - r) (1 + cos(pi (step - start) / (end - start))) / 2 from
  step `start` to step `end`, r the last rate, which evaluation takes at
  all times.

  Args:
    step: number of the update, or any other unit of `start` and `end`.
    keep_ratio: the last rate.
    start: the first step at which it falls; the paper's is after 10 epochs.
    end: the first step at which it is `keep_ratio`; the paper's is after 100 epochs.
    levels: number of values between 1 and the last rate, both included, to the nearest
      of which the rate is rounded, each a program under `jax.jit`; 0: not rounded.

  Raises:
    ValueError: if `keep_ratio` is not in (0, 1], `start` is after `end`, or `levels` is
      1.
  """
  if not 0 < keep_ratio <= 1:
    raise ValueError(f"keep_ratio = {keep_ratio}: it must be above 0, and at most 1")
  if start > end:
    raise ValueError(f"start = {start} is after end = {end}")
  if levels < 0 or levels == 1:
    raise ValueError(f"levels = {levels}: it must be 0, or 2 at least")
  if step >= end:
    return keep_ratio
  if step < start:
    return 1.0
  share = (1 + math.cos(math.pi * (step - start) / (end - start))) / 2
  if levels:
    share = round(share * (levels - 1)) / (levels - 1)
  return keep_ratio + (1 - keep_ratio) * share


def token_counts(
  tokens: int, keeps: Sequence[float], *, fuse: bool = True
) -> list[int]:
  """Returns the number of tokens behind the class token after each block.

  Args:
    tokens: patches before the first block.
    keeps: keep rate of each block, 1 where nothing is reorganised.
    fuse: whether there are fused tokens.
  """
  found = []
  for keep_ratio in keeps:
    count = count_kept(keep_ratio, tokens)
    tokens = count + fuse if count < tokens else tokens
    found.append(tokens)
  return found

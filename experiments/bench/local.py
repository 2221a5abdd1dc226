"""Windows and neighbourhoods on the CPU, by the clock, beside dense attention.

Attention to fewer keys can be faster than dense attention at most by the ratio of the
computed pairs of a query and a key: all pairs over those in the tiles that are visited.
Each row has this bound, and the fraction of it that is reached against jax.nn and
against PyTorch, which are dense: the speedup over the bound. Either must be at least
SHARE.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.local import halo, maxvit, neighborhood
from attnjax.variants.local.neighborhood import simulate, tiled
from experiments.bench import torch_peer
from experiments.bench.timing import both, forward, race

SHARE = 0.6
HEADS, SIZE = 4, 64
# Sides of a block and of its halo, as in HaloNet.
BLOCK, HALO = 8, 3
# Grid and options of `neighborhood.attend`.
NEIGHBOURHOODS = (
  ((4096,), {"window": 64}),
  ((4096,), {"window": 256, "stride": 64}),
  ((64, 64), {"window": 13}),
  ((64, 64), {"window": 16, "stride": 16}),
)
_DEFAULTS = (("window", 1), ("stride", 1), ("dilation", 1), ("causal", False))
_PASSES = {"forward": "forward", "both": "forward + backward"}


def windows() -> Iterator[dict]:
  """Measures HaloNet's blocks with their halos, MaxViT's windows and grids."""
  side = 2 * HALO + BLOCK
  options = {"block": BLOCK, "halo": HALO, "mask_padding": True}
  name = f"halo, 64 x 64, {BLOCK} in {side}"
  run = functools.partial(halo.attend, **options)
  yield from rows(name, (64, 64), run, 64**2 / side**2)
  for kind in maxvit.attention.KINDS:
    run = functools.partial(maxvit.attend, kind=kind, window=7)
    yield from rows(f"maxvit, 56 x 56, {kind} of 7", (56, 56), run, 56**2 / 7**2)


def neighbourhood() -> Iterator[dict]:
  """Measures neighbourhoods on one and on two axes."""
  for grid, options in NEIGHBOURHOODS:
    run = functools.partial(neighborhood.attend, **options)
    words = ", ".join(f"{name} {value}" for name, value in options.items())
    name = f"{' x '.join(map(str, grid))}, {words}"
    yield from rows(name, grid, run, bound(grid, **options))


def bound(grid: tuple[int, ...], **options) -> float:
  """Returns all pairs over those in the boxes of keys that `neighborhood` computes.

  The boxes are the simulator's dynamic tiles of a single key, for tiles of queries as
  large as those of `neighborhood.tiled`.
  """
  axes = neighborhood.attention.broadcast(
    len(grid), *(options.get(name, value) for name, value in _DEFAULTS)
  )
  tile = tuple(tiled.tile_length(n, axis, len(grid)) for n, axis in zip(grid, axes))
  ones = (1,) * len(grid)
  found = simulate.visits(grid, **options, query_tile=tile, key_tile=ones, dynamic=True)
  return found.speedup


def rows(
  name: str, grid: tuple[int, ...], run: Callable, bound: float, seconds: float = 15.0
) -> Iterator[dict]:
  """Yields a row for each pass.

  Args:
    name: the name of the form.
    grid: tokens on each axis.
    run: q, k, v (1, *grid, HEADS, SIZE) to the result.
    bound: the largest possible speedup.
    seconds: the budget of a row's times, once all is compiled.
  """
  tokens, rng = math.prod(grid), np.random.default_rng(0)
  shape = (4, 1, tokens, HEADS, SIZE)
  q, k, v, g = jnp.asarray(rng.standard_normal(shape, dtype="float32"))
  arrays = q, k, v
  on_grid = [x.reshape(1, *grid, HEADS, SIZE) for x in arrays]
  dense = jax.nn.dot_product_attention
  runs: dict[str, dict[str, Callable]] = {
    "attnjax": {
      "forward": forward(run, on_grid),
      "both": both(run, on_grid, g.reshape(on_grid[0].shape)),
    },
    "jax.nn": {"forward": forward(dense, arrays), "both": both(dense, arrays, g)},
    "torch": torch_peer.start(q, k, v, g, causal=False),
  }
  for kind, words in _PASSES.items():
    own = {peer: passes[kind] for peer, passes in runs.items() if passes}
    times = race(own, seconds=seconds, most=7)
    medians = {peer: time.median for peer, time in times.items()}
    peers = [peer for peer in medians if peer != "attnjax"]
    parts = {p: medians[p] / medians["attnjax"] / bound for p in peers}
    values = {f"{peer} [s]": value for peer, value in medians.items()}
    values |= {"at most": bound} | {f"part, {p}": part for p, part in parts.items()}
    verdicts = {p: part >= SHARE for p, part in parts.items()}
    said = ", ".join(f"{p} {'yes' if v else 'no'}" for p, v in verdicts.items())
    yield {
      "name": f"{name}, {words}",
      "values": values,
      "calls": times["attnjax"].calls,
      "bound": f"parts >= {SHARE:g} ({said})",
      "holds": all(verdicts.values()),
    }

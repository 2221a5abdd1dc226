"""Default tiles, by chip, dtype, sizes of heads and lengths."""

import dataclasses

import jax.numpy as jnp

from pallas_kernels.flash.triton_gpu.tiles import FEW, Tile, Tiles, estimate, limit


def _tiles(forward, queries, keys) -> Tiles:
  return Tiles(Tile(*forward), Tile(*queries), Tile(*keys), False)


def _cut(*tiles) -> Tiles:
  """Returns Tiles with one launch each for the gradients of keys and of values."""
  return dataclasses.replace(_tiles(*tiles), apart=True)


# By capability and bytes of an element: ((H, V) at most, tiles), chosen so that nothing
# spills with jaxlib's oldest assembler (`experiments.bench lowering`). At least three
# stages where they fit: with two, each step begins by waiting for the load that it has
# just issued.
_SINGLE = (
  (64, 64, _tiles((64, 32, 4, 3, 16), (32, 32, 4, 2, 16), (16, 32, 4, 2, 16))),
  (80, 80, _cut((16, 32, 4, 2, 16), (32, 16, 4, 2, 16), (16, 32, 4, 1, 16))),
  (96, 96, _cut((16, 32, 4, 2, 16), (16, 32, 4, 2, 16), (16, 16, 4, 1, 16))),
  (512, 512, _cut((16, 32, 4, 2, 16), (16, 32, 4, 2, 16), (16, 32, 4, 1, 16))),
)
_DEFAULTS = {
  80: {
    2: (
      (64, 64, _tiles((128, 128, 8, 3, 64), (128, 64, 8, 3, 32), (64, 128, 8, 3, 32))),
      (96, 96, _tiles((128, 64, 8, 3, 64), (128, 64, 8, 3, 32), (32, 128, 8, 3, 16))),
      (128, 128, _tiles((128, 64, 8, 3, 32), (64, 64, 4, 3, 16), (32, 64, 4, 2, 16))),
      (192, 128, _cut((128, 32, 8, 3, 32), (128, 16, 8, 3, 16), (16, 128, 8, 3, 16))),
      (512, 512, _cut((64, 32, 4, 3, 16), (32, 32, 4, 2, 16), (16, 64, 4, 3, 16))),
    ),
    4: _SINGLE,
  },
  # As fast as 80, with 99 KiB.
  86: {
    2: (
      (64, 64, _tiles((128, 64, 8, 3, 64), (128, 64, 8, 3, 32), (64, 128, 8, 3, 32))),
      (96, 96, _tiles((128, 64, 8, 3, 64), (128, 32, 8, 3, 32), (32, 128, 8, 3, 16))),
      (128, 128, _tiles((128, 32, 8, 3, 32), (64, 32, 4, 3, 16), (16, 64, 4, 3, 16))),
      (192, 128, _cut((128, 32, 8, 2, 32), (64, 16, 4, 3, 16), (16, 64, 4, 3, 16))),
      (512, 512, _cut((64, 16, 4, 3, 16), (32, 32, 4, 2, 16), (16, 64, 4, 2, 16))),
    ),
    4: _SINGLE,
  },
  90: {
    2: (
      # The fastest of 40 and of 23 in causal attention over 8,192 tokens on an H200,
      # one kernel's tile changed at a time (`results/bench_device_h200.json`).
      (64, 64, _tiles((64, 128, 4, 3, 64), (128, 64, 4, 3, 64), (64, 64, 4, 3, 64))),
      (
        128,
        128,
        _tiles((128, 128, 8, 3, 64), (128, 64, 8, 3, 64), (64, 128, 8, 3, 32)),
      ),
      (192, 128, _cut((128, 64, 8, 3, 32), (128, 64, 8, 3, 32), (64, 128, 8, 3, 32))),
      (512, 512, _cut((128, 64, 8, 2, 32), (128, 32, 8, 3, 16), (32, 128, 8, 3, 16))),
    ),
    4: (
      # The keys' kernel holds both parts of four tiles, which leaves one stage.
      (64, 64, _tiles((64, 32, 4, 3, 16), (64, 32, 4, 2, 16), (16, 32, 4, 3, 16))),
      (96, 96, _cut((64, 32, 4, 2, 16), (64, 16, 4, 2, 16), (16, 64, 4, 1, 16))),
      (512, 512, _cut((64, 32, 4, 2, 16), (16, 32, 4, 2, 16), (16, 32, 4, 1, 16))),
    ),
  },
}
_DEFAULTS[100] = {
  2: (
    (64, 64, _tiles((128, 128, 8, 3, 64), (128, 128, 8, 3, 64), (32, 128, 4, 3, 32))),
    (
      128,
      128,
      _tiles((128, 128, 8, 3, 64), (128, 64, 8, 3, 64), (64, 128, 8, 3, 64, 2)),
    ),
    (192, 128, _cut((128, 64, 8, 3, 32), (128, 64, 8, 2, 32), (32, 128, 8, 2, 32))),
    (512, 512, _cut((128, 64, 8, 2, 32), (128, 32, 8, 2, 16), (32, 64, 8, 2, 32, 2))),
  ),
  4: (
    (64, 64, _tiles((32, 32, 4, 3, 16), (32, 32, 4, 2, 16), (16, 32, 4, 3, 16))),
    *_SINGLE[1:],
  ),
}
# Without tensor memory and warp-group products, and with 86's memory: tiles of 86.
_DEFAULTS[120] = _DEFAULTS[86]
# Forward tiles for few queries, whose rows are fewer than a warp group's.
_FEW = {2: (16, 64, 4, 3, 64), 4: (16, 32, 4, 3, 32)}

# Forward tiles for tables whose rows do not begin at multiples of 16 elements and which
# are loaded element by element, where halved steps spill: (H, V at most, tile or None).
_UNALIGNED = {
  80: ((192, 128, None), (512, 512, Tile(32, 32, 4, 2, 16))),
  86: ((192, 128, None), (512, 512, Tile(32, 32, 4, 2, 16))),
  90: (
    (128, 128, None),
    (192, 128, Tile(128, 32, 8, 3, 32)),
    (512, 512, Tile(64, 16, 4, 2, 16)),
  ),
  100: ((96, 96, None), (128, 128, Tile(128, 16, 8, 3, 16)), (512, 512, None)),
}
_UNALIGNED[120] = _UNALIGNED[86]

# Tiles where the above spill: by (chip, most H, feature of the problem), the kernel and
# its tile. Features: "heavy" functions, "few" queries, "short" sequences of at most 64,
# a mask's "operands".
_OWN = {
  (100, 512, "heavy"): ("keys", Tile(32, 32, 4, 2, 16)),
  (100, 512, "few"): ("keys", Tile(32, 32, 4, 2, 16)),
  (120, 128, "operands"): ("queries", Tile(128, 16, 8, 3, 16)),
  (120, 128, "short"): ("forward", Tile(64, 32, 4, 3, 16)),
}


def defaults(
  shape: tuple[int, ...],
  dtype,
  device: int,
  heavy: bool = False,
  cells: int = 0,
  operands: bool = False,
) -> Tiles:
  """Returns the tiles with the fewest instructions a score found without spills.

  Args:
    shape: (T, S, H, V).
    dtype: of the inputs.
    device: compute capability; one that is not listed takes the next lower one's tiles.
    heavy: whether a function of scores or weights needs registers.
    cells: bytes of operands for each score, see `cells_of`.
    operands: whether the program reads operands, such as segment ids.
  """
  T, S, H, V = shape
  chip = max((c for c in _DEFAULTS if c <= device), default=min(_DEFAULTS))
  tiles = _listed(shape, jnp.dtype(dtype).itemsize, chip, heavy, cells, operands)
  problem = H, V, dtype, device, cells
  forward, queries, keys = (
    _fitted(_shortened(getattr(tiles, name), (T, S), held, each), name, problem)
    for name, held, each in (
      ("forward", "block_q", 16),
      ("queries", "block_q", 16),
      # More warps share a sum between loops where it would fill their registers.
      ("keys", "block_k", 8 if chip == 100 or (chip == 90 and H > 96) else 16),
    )
  )
  # The steps of each backward kernel divide the block that the other one holds.
  return Tiles(
    forward,
    _walking(queries, "block_k", keys.block_k),
    _walking(keys, "block_q", queries.block_q),
    tiles.apart,
  )


def _listed(shape, size: int, chip: int, heavy: bool, cells: int, operands: bool):
  """Looks up the tiles for a problem on a listed chip."""
  T, S, H, V = shape
  chosen = _DEFAULTS[chip][size]
  row, tiles = next((h, tiles) for h, v, tiles in chosen if H <= h and V <= v)
  if T <= FEW:
    tiles = dataclasses.replace(tiles, forward=Tile(*_FEW[size]))
  unaligned = cells > 0 and S % 16 > 0
  for _ in range(heavy + unaligned):
    tiles = _lighter(tiles)
  if unaligned and size == 2 and T > FEW:
    own = next(own for h, v, own in _UNALIGNED[chip] if H <= h and V <= v)
    tiles = dataclasses.replace(tiles, forward=own or tiles.forward)
  has = {"heavy": heavy, "few": T <= FEW, "operands": operands}
  has |= {"short": FEW < T <= 64}
  for feature in (name for name, there in has.items() if there and size == 2):
    if (chip, row, feature) in _OWN:
      kernel, own = _OWN[chip, row, feature]
      tiles = dataclasses.replace(tiles, **{kernel: own})
  return tiles


def _lighter(tiles: Tiles) -> Tiles:
  """Returns tiles with half the scores in each step."""
  forward, queries, keys = (
    _walking(tile, side, max(16, getattr(tile, side) // 2))
    for tile, side in (
      (tiles.forward, "block_k"),
      (tiles.queries, "block_k"),
      (tiles.keys, "block_q"),
    )
  )
  return Tiles(forward, queries, keys, tiles.apart)


def _fitted(tile: Tile, name: str, problem) -> Tile:
  """Shrinks the tile until it fits in the device's shared memory."""
  walked, held = ("block_q", "block_k") if name == "keys" else ("block_k", "block_q")
  while estimate(tile, name, *problem) > limit(problem[3]):
    if tile.stages > 2:
      tile = _staged(tile, tile.stages - 1)
    elif getattr(tile, walked) > 16:
      tile = _walking(tile, walked, getattr(tile, walked) // 2)
    elif tile.stages > 1:
      tile = _staged(tile, tile.stages - 1)
    elif getattr(tile, held) > 16:
      rows = getattr(tile, held) // 2
      warps = max(4, min(tile.warps, rows // 16))
      tile = dataclasses.replace(tile, **{held: rows}, warps=warps)
    else:
      break
  return tile


def _staged(tile: Tile, stages: int) -> Tile:
  """Returns the tile with this many stages, and no more where a mask applies."""
  masked = tile.masked_stages and min(tile.masked_stages, stages)
  return dataclasses.replace(tile, stages=stages, masked_stages=masked)


def _walking(tile: Tile, side: str, most: int) -> Tile:
  """Returns the tile with steps of at most `most` queries or keys."""
  size, masked = min(getattr(tile, side), most), min(tile.masked, most)
  return dataclasses.replace(tile, **{side: size}, masked=masked)


def _shortened(tile: Tile, lengths: tuple[int, int], held: str, each: int) -> Tile:
  """Shrinks the tile for short sequences, down to 64 held rows, which four warps share.

  Fewer rows would be computed by every warp, each of which would then hold all of them.
  With more warps, each has at least `each` rows.
  """
  walked = "block_k" if held == "block_q" else "block_q"
  most = dict(zip(("block_q", "block_k"), map(power, lengths)))
  rows = min(getattr(tile, held), max(64, most[held]))
  tile = _walking(tile, walked, max(16, most[walked]))
  if rows < getattr(tile, held):
    warps = max(4, min(tile.warps, rows // each))
    tile = dataclasses.replace(tile, **{held: rows}, warps=warps)
  return tile


def power(size: int) -> int:
  """Returns the least power of two that is at least `size`."""
  return 1 << (size - 1).bit_length()

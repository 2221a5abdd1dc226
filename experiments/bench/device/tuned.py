"""The tiles of the softmax kernels among which an H100 chooses.

A tile is (queries, keys, warps, stages, the walked part where a mask applies).
"""

# The sizes of heads and, by part, the tiles that are tried; others keep the first.
TRIED = {
  128: {
    "forward": (
      *((128, 128, 8, stages, masked) for stages in (3, 2) for masked in (64, 128)),
      *((128, 64, 8, stages, 64) for stages in (2, 3, 4)),
      *((128, 64, 4, stages, 64) for stages in (2, 3)),
      *((64, 128, 4, stages, 64) for stages in (2, 3)),
      *((64, 64, 4, stages, 64) for stages in (2, 3, 4)),
    ),
    "queries": (
      *((128, 64, 8, stages, 64) for stages in (3, 2)),
      (128, 128, 8, 2, 64),
      (128, 32, 8, 4, 32),
      *((64, 64, 4, stages, 64) for stages in (2, 3)),
      (64, 128, 4, 2, 64),
    ),
    "keys": (
      *((64, 128, 8, stages, masked) for stages in (3, 2) for masked in (32, 64)),
      *((32, 128, 8, stages, 32) for stages in (3, 4)),
      *((64, 64, 4, stages, 32) for stages in (2, 3)),
      (32, 64, 4, 3, 32),
    ),
  },
  64: {
    "forward": (
      *((128, 128, 8, stages, masked) for stages in (4, 3, 2) for masked in (64, 128)),
      *((128, 64, 4, stages, 64) for stages in (2, 3, 4)),
      *((64, 128, 4, stages, 64) for stages in (2, 3, 4)),
      *((128, 64, 8, stages, 64) for stages in (3, 4)),
      *((256, 64, 8, stages, 64) for stages in (2, 3)),
    ),
    "queries": (
      *((128, 128, 8, stages, 64) for stages in (4, 3, 2)),
      *((128, 64, 8, stages, 64) for stages in (2, 3)),
      *((128, 64, 4, stages, 64) for stages in (2, 3)),
      *((64, 128, 4, stages, 64) for stages in (2, 3)),
    ),
    "keys": (
      *((64, 128, 8, stages, masked) for stages in (4, 3, 2) for masked in (32, 64)),
      *((128, 128, 8, stages, 64) for stages in (2, 3)),
      *((64, 64, 4, stages, 64) for stages in (2, 3)),
      (32, 128, 4, 3, 32),
    ),
  },
}
# (keys, warps, stages) of a program of the decoding kernel.
DECODING = ((64, 4, 4), (64, 4, 3), (128, 4, 3), (128, 4, 2), (128, 8, 3), (32, 4, 4))


def cases(timing):
  """Yields a case for each tile; `timing` builds one that is timed only."""
  from pallas_kernels.flash.triton_gpu import tiles as sizes

  for H, parts in TRIED.items():
    usual = {part: tiles[0] for part, tiles in parts.items()}
    tried = [(part, tile) for part, tiles in parts.items() for tile in tiles]
    for part, tile in tried:
      need = sizes.estimate(sizes.Tile(*tile), part, H, H, "bfloat16", 90)
      if need > sizes.limit(90):
        continue
      q, k, warps, stages, masked = tile
      name = f"h{H}_{part}_{q}x{k}_warps{warps}_stages{stages}_masked{masked}"
      options = {"is_causal": True, "tiles": _fitting(usual | {part: tile})}
      shape = (2, 8192, 8192, 16, 16, H)
      yield timing("tune", "flash", name, shape, part != "forward", options)
  for k, warps, stages in DECODING:
    one = (16, k, warps, stages, k)
    options = {"tiles": [one, one, (16, k, 4, 2, 16)]}
    name = f"decode_h128_16x{k}_warps{warps}_stages{stages}"
    yield timing("tune", "flash", name, (1, 1, 131072, 32, 8, 128), False, options)


def _fitting(parts: dict) -> list:
  """Returns the tiles of all parts; a step is no larger than what the other holds."""
  forward, queries, keys = (list(parts[p]) for p in ("forward", "queries", "keys"))
  queries[1], queries[4] = min(queries[1], keys[1]), min(queries[4], keys[1])
  keys[0], keys[4] = min(keys[0], queries[0]), min(keys[4], queries[0])
  return [forward, queries, keys]

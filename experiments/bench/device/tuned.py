"""The tiles of the softmax kernels among which an H100 chooses.

A tile is (queries, keys, warps, stages, the walked part where a mask applies).
"""


def cases(timing):
  """Yields a case for each tile; `timing` builds one that is timed only."""
  from pallas_kernels.flash.triton_gpu import tiles as sizes

  usual = {"forward": (128, 128, 8, 2, 64), "queries": (128, 128, 8, 2, 64)}
  usual["keys"] = (64, 128, 8, 2, 32)
  tried = [("forward", (q, k, warps, stages, min(64, k)))
           for q, k, warps in ((128, 128, 8), (128, 64, 8), (64, 128, 4))
           for stages in (2, 3, 4)]  # fmt: skip
  tried += [("queries", (128, k, 8, stages, min(64, k)))
            for k, stages in ((128, 2), (128, 3), (64, 2), (64, 3))]  # fmt: skip
  tried += [("keys", (q, 128, 8, stages, 32))
            for q, stages in ((64, 3), (32, 3), (32, 4))]  # fmt: skip
  for H in (128, 64):
    for part, tile in tried:
      tiles = list((usual | {part: tile}).values())
      shape, options = (2, 8192, 8192, 16, 16, H), {"is_causal": True, "tiles": tiles}
      name = f"h{H}_{part}_{tile[0]}x{tile[1]}_warps{tile[2]}_stages{tile[3]}"
      need = sizes.estimate(sizes.Tile(*tile), part, H, H, "bfloat16", 90)
      if need <= sizes.limit(90):
        yield timing("tune", "flash", name, shape, part != "forward", options)
  for k, warps, stages in ((128, 1, 2), (128, 4, 3), (64, 4, 4)):
    one = (16, k, warps, stages, min(64, k))
    options = {"tiles": [one, one, (16, k, 1, 2, 16)]}
    name = f"decode_16x{k}_warps{warps}_stages{stages}"
    yield timing("tune", "flash", name, (1, 1, 131072, 32, 8, 128), False, options)

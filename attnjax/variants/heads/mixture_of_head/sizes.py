"""The numbers of heads of the published models, block by block."""

from typing import Any

from attnjax.contract import check_known

# Runs of (blocks, heads, shared heads, routed heads that a token takes).
SIZES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
  "dit_s_75": ((2, 6, 2, 1), (4, 6, 3, 1), (4, 6, 3, 2), (2, 6, 6, 0)),
  "dit_s_90": ((8, 6, 3, 2), (4, 6, 6, 0)),
  "dit_b_75": ((2, 12, 4, 2), (8, 12, 6, 3), (2, 12, 12, 0)),
  "dit_b_90": ((5, 12, 6, 4), (5, 12, 7, 4), (2, 12, 12, 0)),
  "dit_l_75": ((8, 8, 8, 0), (8, 16, 8, 4), (8, 24, 12, 4)),
  "dit_l_90": ((8, 8, 8, 0), (8, 16, 16, 0), (8, 24, 16, 3)),
  "dit_xl_75": ((9, 8, 8, 0), (10, 16, 10, 2), (9, 24, 14, 2)),
  "dit_xl_90": ((9, 8, 8, 0), (10, 16, 16, 0), (9, 24, 16, 3)),
  "transnext_s_75": ((5, 3, 3, 0), (5, 6, 6, 0), (22, 12, 3, 6), (5, 24, 4, 12)),
  "transnext_s_80": ((5, 3, 3, 0), (5, 6, 6, 0), (22, 12, 3, 6), (5, 24, 8, 12)),
  "transnext_b_50": ((5, 4, 2, 2), (5, 8, 2, 4), (23, 16, 2, 6), (5, 32, 4, 8)),
  "transnext_b_75": ((5, 4, 4, 0), (5, 8, 8, 0), (23, 16, 4, 8), (5, 32, 5, 16)),
}
# Sizes of a head that are not the width by the number of heads.
HEAD_DIM = {"dit_l": 64, "dit_xl": 72}


def blocks(name: str, balance: float = 0.01) -> list[dict[str, Any]]:
  """Returns the options of `Layer` for each block of a published model.

  The share of active heads is the number in the name, in per cent. The loss is averaged
  over the blocks with routed heads, as in the authors' code. TransNeXt has four stages
  of blocks, each of a width of its own.

  Args:
    name: one of SIZES.
    balance: weight of the averaged loss.
  """
  check_known("size", name, SIZES)
  runs = SIZES[name]
  total, routed = (sum(run[0] for run in runs if all_ or run[3]) for all_ in (1, 0))
  found = []
  for count, heads, shared, top_k in runs:
    own: dict[str, Any] = {"heads": heads, "shared": shared, "top_k": top_k}
    own |= {"head_dim": HEAD_DIM.get(name.rpartition("_")[0], 0)}
    own |= {"rope_theta": 0.0, "qkv_bias": True, "out_bias": True}
    own |= {"balance": balance * total / routed}
    found += [own] * count
  return found

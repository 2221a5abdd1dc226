"""PyTorch's BlockMask: dense masks and lists of partial and of full blocks.

The lists are compared as sets: what lies beyond their counts is not defined.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from attnjax.core import masks


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each mask of the file."""
  S, block_q, block_k = meta["S"], meta["block_q"], meta["block_kv"]
  names = sorted({key.split(".")[1] for key in arrays if key.startswith("out.")})
  for name in names:
    mask, prefix = _mask(name, meta), f"out.{name}."
    yield prefix + "dense", mask.dense(S, S)[0, 0], arrays[prefix + "dense"]
    plan = masks.schedule(mask, (1, 1, S, S), block_q, block_k)
    sides = {
      "kv": (plan.index, plan.full, plan.count, -(-S // block_k)),
      "q": (plan.index_t, plan.full_t, plan.count_t, -(-S // block_q)),
    }
    for side, (index, full, count, width) in sides.items():
      index, full, count = index[0, 0], full[0, 0], count[0, 0]
      for kind, first, stop in (
        (side, full, count),
        (f"full_{side}", 0 * full, full),
      ):
        number, listed = f"{kind}_num_blocks", f"{kind}_indices"
        yield prefix + number, stop - first, arrays[prefix + number]
        want = arrays[prefix + listed]
        yield (
          prefix + listed,
          _sets(index, first, stop, width),
          _sets(want, 0 * full, arrays[prefix + number], width),
        )


def _sets(index, first, stop, width):
  """Row by row the sorted entries [first, stop), then -1."""
  result = np.full((len(index), width), -1)
  for row, entries, low, high in zip(result, index, first, stop):
    row[: high - low] = np.sort(entries[low:high])
  return result


def _mask(name: str, meta: dict) -> masks.Mask:
  """The mask as `meta` describes it."""
  match name:
    case "causal":
      return masks.Causal()
    case "full":
      return masks.Full()
    case "sliding":
      return masks.Causal() & masks.Window(meta["sliding_window"], 0)
    case "prefix":
      return masks.prefix_lm(meta["prefix"])
    case "document":
      ends = np.asarray(meta["doc_offsets"][1:])
      ids = np.searchsorted(ends, np.arange(meta["S"]), side="right")[None]
      return masks.Causal() & masks.Segments(ids, ids)
    case "dilated":
      window, step = meta["dilated"]
      return masks.Window(window, window) & masks.Dilated(step)
    case "neighborhood":
      own = meta["neighborhood"]
      fields = ("grid", "window", "stride", "dilation", "causal")
      return masks.Neighborhood(*(tuple(own[field]) for field in fields))
  raise ValueError(f"mask {name!r} is not known here")

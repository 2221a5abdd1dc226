"""Scale-DiT against the released masks and orders of tokens."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.local import scale_dit

CURVES = {"window_perm": "raster", "hilbert_perm": "released"}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  layouts = [as_layout(case) for case in meta["mask_cases"]]
  gradients = {}
  for key, want in arrays.items():
    name = key.removeprefix("out.")
    stem, number = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    if not key.startswith("out."):
      continue
    if stem == "mask":
      layout = layouts[int(number)]
      mask = scale_dit.hierarchical_local_mask(layout)
      yield key, mask.dense(layout.tokens, layout.tokens)[0, 0], want
    elif stem in CURVES:
      rows, columns, *window = meta["perm_cases"][int(number)]
      grid = rows, columns
      yield key, scale_dit.window_order(grid, window, CURVES[stem]), want
    elif stem == "o":
      out, gradients = _attend(arrays, layouts[int(number)])
      yield key, out, want
  for key, want in arrays.items():
    if key.startswith("grad."):
      yield key, gradients[key.removeprefix("grad.")], want


def _attend(arrays, layout):
  inputs = {name: jnp.asarray(arrays[f"in.{name}"]) for name in ("q", "k", "v")}

  def total(inputs):
    out = scale_dit.attend(**inputs, layout=layout)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(inputs)
  return out, gradients


def as_layout(case) -> scale_dit.Layout:
  """Returns the layout of the authors' configuration."""
  if case["hi_res_attend_scale"] != "all":
    raise ValueError(f"hi_res_attend_scale = {case['hi_res_attend_scale']!r}")
  grid, window, low = (
    tuple(side // case["patch_size"] for side in case[name])
    for name in ("image_size", "window_size", "joint_denoise_size")
  )
  return scale_dit.Layout(
    grid,
    low,
    case["text_seq_len"],
    window,
    "sliding" if case["use_sliding_window"] else "window",
    case["text_attend_scale"],
    "window" if case["permute_window_first"] else "raster",
  )

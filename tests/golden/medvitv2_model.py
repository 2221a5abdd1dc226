"""MedViTV2, the whole network, against the authors', in both layouts."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import medvitv2
from tests.golden import medvitv2 as pooled
from tests.golden import medvitv2_lfp as local

# True: as released, with maps read in the wrong layout.
_LAYOUTS = {"out.": True, "out.fixed.": False}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  pairs = {
    name: _filled(arrays, meta, layout_bug)
    for name, layout_bug in _LAYOUTS.items()
    if f"{name}logits" in arrays
  }
  ends = np.cumsum(np.add(meta["depths"], 1)) - 1

  @jax.jit
  def run(images, pairs):
    found, images = {}, jnp.moveaxis(images, 1, -1)
    for name, (model, stats) in pairs.items():
      trace = model.trace(images, stats=stats)
      found[f"{name}logits"] = trace.output
      for stage, end in enumerate(ends):
        found[f"{name}stage{stage}"] = jnp.moveaxis(trace.hidden[end], -1, 1)
    return found

  found = run(jnp.asarray(arrays["in.x"]), pairs)
  for name, want in arrays.items():
    if name in found:
      y = found[name]  # the file has every so many of its channels
      yield name, y[:, :: -(-y.shape[1] // want.shape[1])], want


def _filled(arrays, meta, layout_bug) -> tuple[Any, dict]:
  """The network and its running statistics."""
  if meta["strides"] != [1, *[2] * (len(meta["depths"]) - 1)]:
    raise NotImplementedError(f"strides = {meta['strides']}: all stages but one halve")
  width = meta["stem_chs"][-1]
  model: Any = jax.eval_shape(
    lambda: medvitv2.Model(
      meta["channels"],
      meta["classes"],
      dims=tuple(meta["dims"]),
      depths=tuple(meta["depths"]),
      ratios=tuple(meta["sr_ratios"]),
      stem_widths=(*meta["stem_chs"], width),
      stem_strides=(2, *[1] * (len(meta["stem_chs"]) - 1), 2),
      window=(arrays["param.features.0.attn.rpb"].shape[-1] + 1) // 2,
      head_dim=meta["head_dim"],
      share=meta["mix_block_ratio"],
      layout_bug=layout_bug,
      rngs=nnx.Rngs(0),
    )
  )
  stem = {}
  for i, part in enumerate(model.stem.convolutions):
    kernel = arrays[f"param.stem.{i}.conv.weight"]
    pooled.put(part.convolve.kernel, kernel.transpose(2, 3, 1, 0))
    norm = pooled.fill_norm(part.norm, arrays, f"stem.{i}.norm")
    stem[f"convolutions/{i}"] = {"norm": norm}
  stages, names = {}, iter(meta["blocks"])
  for number, stage in enumerate(model.stages.stages):
    own = stages[f"stages/{number}"] = {}
    for i, block in enumerate(stage.sequence):
      if type(block).__name__ != next(names):
        raise ValueError(f"block {i} of stage {number} is of the other kind")
      own[f"sequence/{i}"] = _fill(block, arrays, sum(meta["depths"][:number]) + i)
  last = len(stages) - 1
  norm = pooled.fill_norm(model.stages.norms[last], arrays, "norm")
  stages[f"norms/{last}"] = norm
  pooled.fill_linear(model.head, arrays, "proj_head.0")
  return model, {"stem": stem, "stages": stages}


def _fill(block, arrays, number):
  start = f"param.features.{number}."
  own = {
    f"param.{k.removeprefix(start)}": v
    for k, v in arrays.items()
    if k.startswith(start)
  }
  kind = local if isinstance(block, medvitv2.LFP) else pooled
  return kind.fill(block, own)

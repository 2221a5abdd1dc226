"""SOFT's whole network, its last stage of softmax, against the authors'."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.nn.class_token import Mark
from attnjax.variants.linear import soft
from tests import networks
from tests.golden import soft as layers


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  yield from networks.compare(_filled(arrays, meta))


def _filled(arrays, meta) -> networks.Filled:
  stem = [k for k in arrays if k.startswith("param.patch_embed1.") and "weight" in k]
  stem = [arrays[key] for key in stem if arrays[key].ndim == 4]
  width, last = (_ratio(arrays, f"block{i}.0.") for i in (1, len(meta["depths"])))

  def build():
    return soft.Model(
      meta["channels"],
      meta["classes"],
      dims=tuple(meta["embed_dims"]),
      depths=tuple(meta["depths"]),
      heads=tuple(meta["num_heads"]),
      ratios=tuple(meta["sr_ratios"][:-1]),
      kernels=tuple(meta["conv_sizes"]),
      places=tuple(meta["position_grids"]),
      stem_widths=tuple(len(weight) for weight in stem[:-1]),
      mlp_ratio=width,
      last_mlp_ratio=last,
      qkv_bias=f"param.block{len(meta['depths'])}.0.attn.q.bias" in arrays,
      iterations=meta["newton_max_iter"],
      kind="released" if meta["normalise"] else "soft",
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  body = filled.model.stages
  for i, stage in enumerate(body.stages, start=1):
    _embed(filled, body.merges[i - 1] or filled.model.stem, f"patch_embed{i}.proj")
    first, *blocks = stage.sequence
    fill = _softmax if i == len(body.stages) else _block
    _positions(filled, first, f"pos_embed{i}")
    for j, block in enumerate(blocks):
      fill(filled, block, f"block{i}.{j}.")
  *early, late = meta["norm_eps"].values()  # of blocks in the order of the stages
  for stage in body.stages[:-1]:
    networks.check_epsilon(stage, *early)
  for part in (body.stages[-1], body.norms[-1]):
    networks.check_epsilon(part, late)
  filled.norm(body.norms[-1].part, "norm")
  filled.linear(filled.model.head, "head")
  return filled


def _ratio(arrays, block):
  """The hidden width of a block's MLP, in its width."""
  names = (f"param.{block}{name}.weight" for name in ("att.ff1", "mlp.fc1"))
  hidden, dim = next(arrays[name].shape for name in names if name in arrays)
  return hidden / dim


def _embed(filled, part, name):
  for i, (convolution, norm) in enumerate(zip(part.convolutions, part.norms)):
    filled.convolution(convolution, f"{name}.{3 * i}")
    filled.norm(norm, f"{name}.{3 * i + 1}")


def _positions(filled, part, name):
  table = filled.below(name)[""][0]
  if isinstance(part, Mark):
    networks.fill(part.position, table[0])
    networks.fill(part.token, filled.below("cls_token")[""].ravel())
    part, table = part.positions, table[1:]
  networks.fill(part.table, table.reshape(part.table.shape))


def _block(filled, block, name):
  layers.fill(block.mix, filled.below(f"{name}att.mha."))
  parts = block.up, block.down
  for i, (norm, part) in enumerate(zip(block.norms, parts), start=1):
    filled.norm(norm, f"{name}att.norm{i}")
    filled.linear(part, f"{name}att.ff{i}")


def _softmax(filled, rows, name):
  block = rows.part
  filled.norm(block.norm, f"{name}norm1")
  filled.norm(block.feed_norm, f"{name}norm2")
  filled.linear(block.feed.up, f"{name}mlp.fc1")
  filled.linear(block.feed.down, f"{name}mlp.fc2")
  weight = filled.below(f"{name}attn.")
  qkv = block.mixer.qkv
  for end in ("weight", "bias"):
    if f"q.{end}" in weight:
      whole = weight[f"q.{end}"], *np.split(weight[f"kv.{end}"], 2)
      for part, one in zip((qkv.query, qkv.key, qkv.value), whole):
        own = part.kernel if end == "weight" else part.bias
        networks.fill(own, one.T.reshape(own.shape))
  out = block.mixer.out
  networks.fill(out.kernel, weight["proj.weight"].T.reshape(out.kernel.shape))
  networks.fill(out.bias, weight["proj.bias"])

"""Scale-DiT's attentions with low-rank terms on low-resolution tokens alone."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import scale_dit
from tests.arrays import below
from tests.golden.scale_dit import as_layout


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  layout, scale = as_layout(meta["model_config"]), meta["anchor_scale"]
  np.testing.assert_array_equal(layout.positions(scale), arrays["in.ids"])
  np.testing.assert_array_equal(layout.places(), arrays["in.order"])
  cases = sorted({key.split(".")[1] for key in arrays if key.startswith("param.")})
  layers = {case: _layer(arrays, f"param.{case}.", meta) for case in cases}

  @jax.jit
  def run(layers, x):
    return {k: layer(x, layout, anchor_scale=scale) for k, layer in layers.items()}

  found = {}
  for case, out in run(layers, jnp.asarray(arrays["in.x"])).items():
    text, image, low = np.split(out, [layout.text, layout.text + layout.high], axis=1)
    found |= {f"out.{case}.text": text, f"out.{case}.low": low}
    apart = f"out.{case}.text" in arrays
    found[f"out.{case}.main"] = image if apart else np.concatenate([text, image], 1)
  mask = scale_dit.hierarchical_local_mask(layout)
  found["out.mask"] = mask.dense(layout.tokens, layout.tokens)[0, 0]
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _layer(arrays, prefix, meta):
  weight = below(arrays, prefix)
  given = {"heads": meta["heads"], "rank": meta["rank"], "alpha": meta["alpha"]}
  given["rope_theta"] = float(meta["theta"])
  given["own_text"] = "add_q_proj.weight" in weight
  given["qk_norm"] = "norm_q.weight" in weight
  layer = jax.eval_shape(
    lambda: scale_dit.JointAttention(meta["dim"], **given, rngs=nnx.Rngs(0))
  )
  order = _halves(meta["dim"] // meta["heads"])
  rows = np.arange(meta["dim"]).reshape(-1, order.size)[:, order].ravel()
  parts = layer.query, layer.key, layer.value, layer.out
  for i, (part, pieces) in enumerate(zip(parts, _loras(weight, meta["dim"]))):
    base, down, up = pieces
    turned = rows if i < 2 else np.arange(meta["dim"])
    part.linear.kernel.set_value(base[turned].T)
    part.down.set_value(down.T)
    part.up.set_value(up[turned].T)
  if layer.norms is not None:
    _fill_norms(layer.norms, weight, ("norm_q", "norm_k"), order)
  if layer.text is not None:
    _fill_text(layer.text, weight, rows, order)
  return layer


def _halves(size) -> np.ndarray:
  """A head's features in attnjax's order: pairs are halves, not neighbours."""
  share = np.arange(size).reshape(4, -1)
  return np.concatenate([share[:, ::2], share[:, 1::2]], axis=1).ravel()


def _loras(weight, dim) -> Iterator[list]:
  """The map, A and B of the queries, keys, values and outputs."""
  names = [f"{name}.weight" for name in ("base", "lora_A", "lora_B")]
  fused = "to_qkv_mlp_proj.base.weight" in weight
  if fused:
    base, down, up = (weight[f"to_qkv_mlp_proj.{name}"] for name in names)
    for rows in np.split(np.arange(3 * dim), 3):
      yield [base[rows], down, up[rows]]
  else:
    for part in "qkv":
      yield [weight[f"to_{part}.{name}"] for name in names]
  out = "to_out" if fused else "to_out.0"
  yield [weight[f"{out}.{name}"] for name in names]


def _fill_norms(norms, weight, names, order):
  for part, name in zip((norms.query, norms.key), names):
    part.scale.set_value(weight[f"{name}.weight"][order])


def _fill_text(text, weight, rows, order):
  for part, name in ((text.query, "add_q_proj"), (text.key, "add_k_proj")):
    part.kernel.set_value(weight[f"{name}.weight"][rows].T)
  for part, name in ((text.value, "add_v_proj"), (text.out, "to_add_out")):
    part.kernel.set_value(weight[f"{name}.weight"].T)
  if text.norms is not None:
    _fill_norms(text.norms, weight, ("norm_added_q", "norm_added_k"), order)

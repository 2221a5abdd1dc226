"""Mamba, Mamba-2, every normalisation and the benchmark's block and SSD."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.recurrent import dynamical_systems
from tests.arrays import below
from tests.golden.dynamical_systems import (
  build,
  fill,
  fill_attention,
  fill_convolution,
  fill_linear,
)


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  layers = {
    key.removeprefix("out."): _layer(key.removeprefix("out."), arrays, meta)
    for key in arrays
    if key.startswith("out.")
  }

  @jax.jit
  def run(layers, x):
    def total(x, layer):
      out = layer(x)
      return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

    both = jax.grad(total, has_aux=True)
    return {name: both(x, layer) for name, layer in layers.items()}

  for name, (gradient, out) in run(layers, jnp.asarray(arrays["in.x"])).items():
    for key, got in ((f"out.{name}", out), (f"grad.{name}_x", gradient)):
      if key in arrays:
        yield key, got, arrays[key]


def _layer(name, arrays, meta):
  prefix = f"param.{name}."
  weight = below(arrays, prefix)
  dim = arrays["in.x"].shape[2]
  if "dt_proj.weight" in weight:
    return _s6(dim, weight)
  if "dt_bias" in weight:
    return _ssd(dim, weight)
  return _attention(dim, name, weight, meta)


def _s6(dim, weight):
  size, state = weight["A_log"].shape
  layer = build(
    dynamical_systems.Layer,
    dim,
    kind="s6",
    state_size=state,
    expand=size / dim,
    conv=weight["conv1d.weight"].shape[-1],
  )
  mixer = layer.mixer
  fill_linear(mixer.input, weight, "in_proj")
  fill_convolution(mixer.conv, weight, "conv1d")
  fill_linear(mixer.select, weight, "x_proj")
  fill_linear(mixer.delta, weight, "dt_proj")
  fill(mixer.log_a, weight["A_log"])
  fill(mixer.skip, weight["D"])
  fill_linear(mixer.output, weight, "out_proj")
  return layer


def _ssd(dim, weight):
  bare, heads = "conv1d.weight" not in weight, weight["dt_bias"].size
  size, rows = weight["out_proj.weight"].shape[1], weight["in_proj.weight"]
  gates = 0 if bare else size
  layer = build(
    dynamical_systems.Layer,
    dim,
    kind="ssd",
    heads=heads,
    state_size=(len(rows) - gates - size - heads) // 2,
    expand=size / dim,
    conv=0 if bare else weight["conv1d.weight"].shape[-1],
    bare=bare,
  )
  mixer = layer.mixer
  gate, inner, delta = np.split(rows, [gates, len(rows) - heads])
  parts = {"gate.weight": gate, "inner.weight": inner, "delta.weight": delta}
  parts["delta.bias"] = weight["dt_bias"]
  if not bare:
    fill_linear(mixer.gate, parts, "gate")
    fill_convolution(mixer.conv, weight, "conv1d")
    fill(mixer.norm.scale, weight["norm.weight"])
  fill_linear(mixer.input, parts, "inner")
  fill_linear(mixer.delta, parts, "delta")
  fill(mixer.log_a, weight["A_log"])
  fill(mixer.skip, weight["D"])
  fill_linear(mixer.output, weight, "out_proj")
  return layer


def _attention(dim, name, weight, meta):
  """One of the attentions, by itself or in the block."""
  block = {k.removeprefix("attention."): v for k, v in weight.items()}
  if "Wn.weight" in block:
    kind = "normalised"
  else:
    kind = "linear" if "lin-attention" in meta["cls"][name] else "softmax"
  told = name if name.startswith("norm_") else meta["cls"].get(name, "")
  options = {
    "kind": kind,
    "heads": meta["hyper"]["heads"],
    "state_size": len(block["Wqk.weight"]) // 2,
    "eta": next((eta for eta in dynamical_systems.ETAS if eta in told), "exp"),
  }
  if "lambd" not in weight:
    layer = build(dynamical_systems.Layer, dim, **options)
    fill_attention(layer.mixer, block)
    return layer
  hidden = len(weight["mlp.encoder.weight"])
  layer = build(dynamical_systems.Block, dim, hidden=hidden, **options)
  fill_attention(layer.mixer.mixer, block)
  fill(layer.skip, weight["lambd"])
  fill(layer.norm.scale, weight["norm.weight"])
  fill(layer.norm.bias, weight["norm.bias"])
  fill_linear(layer.up, weight, "mlp.encoder")
  fill_linear(layer.down, weight, "mlp.decoder")
  return layer

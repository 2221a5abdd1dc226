"""Sentence attention against the authors' model behind its backbone."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.norms import Stats
from attnjax.variants.cross import sentence_attention
from tests.arrays import below

_LAYER = {
  "attention.0.weight": lambda layer: layer.inner.kernel,
  "attention.0.bias": lambda layer: layer.inner.bias,
  "attention.1.weight": lambda layer: layer.scale,
  "attention.1.bias": lambda layer: layer.bias,
  "attention.3.weight": lambda layer: layer.outer.kernel,
  "attention.3.bias": lambda layer: layer.outer.bias,
}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  count = len(hyper["channels"])
  net, stats = network(arrays, hyper)
  maps = [_last(arrays[f"in.feat{i}"]) for i in range(count)]
  text = jnp.asarray(arrays["in.text"])

  def total(text, maps):
    found, _ = net(maps, text, tuple(hyper["image"]), stats=stats)
    found = jnp.moveaxis(found, 3, 1)
    wave = jnp.cos(jnp.arange(found.size, dtype=jnp.float32)).reshape(found.shape)
    return (found * wave).sum(), (found, [layer.mix(text) for layer in net.layers])

  run = jax.jit(jax.grad(total, (0, 1), has_aux=True))
  (by_text, by_maps), (logits, gates) = run(text, maps)
  yield "out.logits", logits, arrays["out.logits"]
  for i, gate in enumerate(gates):
    yield f"out.weights{i}", gate, arrays[f"out.weights{i}"]
  yield "grad.text", by_text, arrays["grad.text"]
  for i, slope in enumerate(by_maps):
    yield f"grad.feat{i}", jnp.moveaxis(slope, 3, 1), arrays[f"grad.feat{i}"]


def network(arrays: Mapping[str, np.ndarray], hyper: dict) -> tuple[Any, Any]:
  """Returns the network of the file, and its running statistics."""
  channels, given = hyper["channels"], below(arrays, "param.")
  width = hyper["encode_dim"]
  expansion = given["sentence_attentions.0.attention.0.weight"].shape[0] // width
  shapes = jax.eval_shape(
    lambda: sentence_attention.GroundingNet(
      channels, width, hyper["n_classes"], expansion=expansion, rngs=nnx.Rngs(0)
    )
  )
  net: Any = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  stats = net.init_stats()
  for i, layer in enumerate(net.layers):
    for name, at in _LAYER.items():
      at(layer)[...] = _matrix(given[f"sentence_attentions.{i}.{name}"])
  for i, merge in enumerate(net.merges):
    own = below(given, f"merge_blocks.{i}.low_res_conv.")
    merge.lower.kernel[...] = _matrix(own["0.weight"][:, :, 0, 0])
    merge.norm.scale[...], merge.norm.bias[...] = own["1.weight"], own["1.bias"]
    moments = (jnp.asarray(own[f"1.running_{n}"]) for n in ("mean", "var"))
    stats[f"merges/{i}"] = {"norm": Stats(*moments)}
  net.head.kernel[...] = _matrix(given["classifier.weight"][:, :, 0, 0])
  net.head.bias[...] = given["classifier.bias"]
  return jax.tree.map(jnp.asarray, (net, stats))


def _matrix(weight):
  return np.asarray(weight.T)


def _last(x):
  return jnp.moveaxis(jnp.asarray(x), 1, 3)

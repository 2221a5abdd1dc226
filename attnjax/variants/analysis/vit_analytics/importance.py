"""Importance of heads: gates on their results, and the changes that pruning makes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax import contract, inspect
from attnjax.contract.trace import Edits

KINDS = ("loo", "keep_one")
PRUNE = ("zero", "mean")
METRICS = ("probability", "loss", "divergence", "cosine", "distance", "accuracy")


def gate_heads(gates: Any, prune: str = "zero") -> Edits:
  """Returns the intervention that multiplies the results of heads by gates (L, N).

  With `prune` = "mean" a closed head gives its mean over the batch instead of 0.
  """
  contract.check_known("prune", prune, PRUNE)

  def mixed(index, out, heads):
    del heads
    gate = jnp.asarray(gates)[index][:, None].astype(out.dtype)
    if prune == "zero":
      return out * gate
    return out * gate + out.mean(axis=0, keepdims=True) * (1 - gate)

  return Edits(mixed=mixed)


def gate_blocks(model: Any, gates: Any, prefix: int = 1) -> Edits:
  """Returns the intervention that multiplies blocks of the attention by gates.

  Args:
    model: a host, whose layers show their weights.
    gates: (L, N, 2, 2): of prefix tokens (0) and patches (1), queries first. Rows are
      not normalised again.
    prefix: tokens before the patches.
  """
  layers = list(inspect.layers_of(model))

  def mixed(index, out, heads):
    weights = contract.shares(layers[index], heads)  # (B, N, T, S)
    kind = (jnp.arange(weights.shape[-1]) >= prefix).astype(jnp.int32)
    own = jnp.asarray(gates)[index][:, kind[:, None], kind]
    *places, K, E = heads.v.shape
    v = heads.v.reshape(places[0], -1, K, E)
    v = jnp.repeat(v, weights.shape[1] // K, axis=2)
    found = jnp.einsum("bnts,bsne->btne", weights * own, v)
    return found.reshape(out.shape).astype(out.dtype)

  return Edits(mixed=mixed)


def divergence(
  p: Float[Array, "*B C"], other: Float[Array, "*B C"]
) -> Float[Array, "*B"]:
  """Computes the Jensen-Shannon divergence of probabilities, in nats, 0 to ln 2."""

  def entropy(x):
    return -(x * jnp.log(jnp.where(x > 0, x, 1))).sum(axis=-1)

  return entropy((p + other) / 2) - (entropy(p) + entropy(other)) / 2


def outputs(
  model: Any, images: Float[Array, "B H W C"], edit: Edits | None = None
) -> tuple[Float[Array, "B K"], Float[Array, "B D"]]:
  """Returns (logits, the features that are classified) of a vision host.

  Features are the mean over the last map, behind its norm.
  """
  trace = model.trace(images, edit=edit)
  last, norm = trace.hidden[-1], model.stages.norms[-1]
  last = last if norm is None else norm(last)
  return trace.output, last.reshape(len(last), -1, last.shape[-1]).mean(axis=1)


def changes(
  before: tuple[Array, Array], after: tuple[Array, Array], labels: Int[Array, "B"]
) -> dict[str, Float[Array, "B"]]:
  """Computes METRICS of each image, all 0 without a change.

  "probability" and "accuracy" are what the right class loses, "loss" is the rise of the
  cross-entropy, "divergence" that of `divergence`; "cosine" (1 less it) and "distance"
  are of the features.

  Args:
    before: (logits, features).
    after: those of the pruned model.
    labels: the right classes.
  """
  chance = [jax.nn.log_softmax(x[0]) for x in (before, after)]
  own = [jnp.take_along_axis(x, labels[:, None], 1)[:, 0] for x in chance]
  right = [(x[0].argmax(-1) == labels).astype(jnp.float32) for x in (before, after)]
  c, d = before[1], after[1]
  length = jnp.linalg.norm(c, axis=-1) * jnp.linalg.norm(d, axis=-1)
  return {
    "probability": jnp.exp(own[0]) - jnp.exp(own[1]),
    "loss": own[0] - own[1],
    "divergence": divergence(*map(jnp.exp, chance)),
    "cosine": 1 - (c * d).sum(axis=-1) / jnp.where(length == 0, 1, length),
    "distance": jnp.linalg.norm(c - d, axis=-1),
    "accuracy": right[0] - right[1],
  }


def pruned(kind: str, layers: int, heads: int) -> Float[np.ndarray, "A L N"]:
  """Returns the gates of every head: "loo" closes it, "keep_one" the layer's others."""
  contract.check_known("kind", kind, KINDS)
  gates = np.ones((layers, heads, layers, heads), np.float32)
  for layer in range(layers):
    for head in range(heads):
      if kind == "loo":
        gates[layer, head, layer, head] = 0
      else:
        gates[layer, head, layer] = np.arange(heads) == head
  return gates.reshape(-1, layers, heads)


def head_importance(
  model: Any,
  images: Float[Array, "B H W C"],
  labels: Int[Array, "B"],
  *,
  heads: int,
  kind: str = "loo",
  prune: str = "zero",
  chunk: int = 8,
) -> dict[str, Float[Array, "L N"]]:
  """Computes the importance of each head by METRICS: their mean over the images.

  One program computes `chunk` sets of gates at a time.

  Args:
    model: a vision host.
    images: of the set.
    labels: their classes.
    heads: N of each layer.
    kind: one of KINDS.
    prune: one of PRUNE.
    chunk: sets of gates that are computed together.
  """
  contract.check_known("prune", prune, PRUNE)
  layers = len(list(inspect.layers_of(model)))
  gates = jnp.asarray(pruned(kind, layers, heads))
  return _importance(model, images, labels, gates, prune, chunk)


def _importance(model, images, labels, gates, prune, chunk) -> dict[str, Any]:
  @jax.jit
  def run(model, images, labels, gates):
    before = outputs(model, images)

    def one(gate):
      after = outputs(model, images, gate_heads(gate, prune))
      return {n: x.mean() for n, x in changes(before, after, labels).items()}

    return jax.lax.map(one, gates, batch_size=chunk)

  found = run(model, images, labels, gates)
  return {name: x.reshape(gates.shape[1:]) for name, x in found.items()}


def proxy_importance(
  model: Any, images: Float[Array, "B H W C"], labels: Int[Array, "B"], *, heads: int
) -> Float[Array, "L N"]:
  """Computes E | sum O dL/dO |, the mean magnitude of the loss's slope in each gate.

  Paul Michel, Omer Levy, Graham Neubig. Are Sixteen Heads Really Better than One?
  arXiv:1905.10650, section 4.1.
  """
  layers = len(list(inspect.layers_of(model)))

  @jax.jit
  def run(model, images, labels):
    def loss(gates, image, label):
      logits = model.trace(image[None], edit=gate_heads(gates)).output
      return -jax.nn.log_softmax(logits)[0, label]

    slopes = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))
    return jnp.abs(slopes(jnp.ones((layers, heads)), images, labels)).mean(axis=0)

  return run(model, images, labels)


def cumulative(
  model: Any,
  images: Float[Array, "B H W C"],
  labels: Int[Array, "B"],
  order: Sequence[tuple[int, int]],
  *,
  heads: int,
  prune: str = "zero",
) -> Float[Array, "A"]:
  """Computes the accuracy after pruning none, the first, the first two, ... heads.

  Args:
    model: a vision host.
    images: of the set.
    labels: their classes.
    order: (layer, head), the first one pruned first.
    heads: N of each layer.
    prune: one of PRUNE.
  """
  layers = len(list(inspect.layers_of(model)))
  gates = np.ones((len(order) + 1, layers, heads), np.float32)
  for number, place in enumerate(order, start=1):
    gates[(slice(number, None), *place)] = 0

  @jax.jit
  def run(model, images, labels, gates):
    def one(gate):
      logits = model.trace(images, edit=gate_heads(gate, prune)).output
      return (logits.argmax(-1) == labels).mean()

    return jax.lax.map(one, gates)

  return run(model, images, labels, jnp.asarray(gates))

"""Routing Transformer: clusters of content reach what a window does not, as full does.

Claimed (arXiv:2003.05997, abstract and section 4): heads that see the tokens of their
k-means cluster, beside local heads, model sequences better than local attention alone
and as well as full attention, with T^1.5 instead of T^2 pairs.

Quality: in-context recall of the shared suite: 64 tokens, 8 keys that return with their
values at any distance, asked where the key was seen before. One block, 32 wide, 4
heads, a causal convolution of 3 before the mechanism (modern blocks have it; without
one small models do not learn recall in a few hundred steps). Two local heads of 8
tokens, two routed heads of 8 clusters of 8 tokens, queries and keys of their own,
selected from the past. Centroids are moving averages with the commitment loss, as
published, but with the decay 0.99 for 300 updates where the paper has 0.999 for many
thousands. They are not parameters: here they are handed in and out as running
statistics are. Shown beside: centroids that stay as they were drawn, which is hashing.

The sheet asked for over 0.95 with routing, at most 0.5 with local heads, 1 with full
attention, on tokens of a colour and a digit whose scales were set for k-means. Its
distance of 0.45 to local attention is halved to the margin 0.2, its loss of 0.05
against full attention is the other margin. (Local heads see some of the answers, since
keys return.)

Cost: multiplications and additions of `attend` in the traced program, for T^0.5
clusters of T^0.5 tokens; the bound 1.6 is from before the protocol.

  python -m experiments.claims routing_transformer

It takes about five processor minutes.
"""

import functools

import jax
import jax.numpy as jnp

from attnjax.nn import norms
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import routing_transformer as routing
from experiments import small
from experiments.claims import rows
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.training import cost

LENGTH, STEPS, DECAY = 64, 300, 0.99
RATES = 3e-3, 1e-2, 3e-2
HEADS = {"heads": 4}
OURS = HEADS | {"clusters": 8, "cluster_size": 8, "window": 8}
PROBLEM, TASK = small.of_task(
  "in_context_recall", train=8000, held_out=500, length=LENGTH, every_token=False
)


@jax.custom_vjp
def with_loss(y, loss):
  """Returns y; in the backward pass `loss` is part of the objective."""
  del loss
  return y


with_loss.defvjp(
  lambda y, loss: (y, None), lambda _, dy: (dy, jnp.ones((), jnp.float32))
)


class Routed(norms.BatchNorm):
  """A routing layer whose centroids are handed in and out as running statistics."""

  def __init__(self, dim, *, decay, rngs):
    self.layer = routing.Layer(dim, form="causal", rngs=rngs, **OURS)
    self.decay = decay

  def init_stats(self):
    """Returns the clusters before training, stacked where the layers are."""
    *stacked, _, _, _ = self.layer.query.kernel.shape
    if not stacked:
      return routing.Clusters.start(self.layer.start_means())
    each = [
      routing.Clusters.start(self.layer.start_means(i)) for i in range(stacked[0])
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

  def __call__(self, x, stats, *, train=False, **context):
    """Returns the layer's output, and the clusters after a batch of training."""
    if not train:
      return self.layer(x, means=stats.means, **context), stats
    y, loss, stats = self.layer.learn(x, stats, decay=self.decay, **context)
    return with_loss(y, loss), stats


def _routed(decay):
  def build(dim, *, layers, rngs):
    del layers
    return Routed(dim, decay=decay, rngs=rngs)

  build.form, build.module = "causal", routing
  return build


def _row(name, kind, mixer):
  build = small.language([mixer], vocab=TASK.vocab, dim=32, depth=1, conv=3)
  return rows.trained(name, kind, build, PROBLEM, small.Recipe(steps=STEPS))


ROWS = (
  _row("local and routed heads", "mechanism", _routed(DECAY)),
  _row("without them", "without", small.without(_routed(DECAY))),
  _row("full attention", "baseline", ("dot_product", HEADS)),
  _row("local heads", "rival", ("neighborhood", HEADS | {"window": 8})),
  _row("centroids as drawn", "rival", _routed(1.0)),
  rows.untrained(
    "local and routed heads, untrained",
    small.language([_routed(DECAY)], vocab=TASK.vocab, dim=32, depth=1, conv=3),
    PROBLEM,
  ),
)


def _flops(run, T, **arrays):
  shape = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
  return cost.flops(jax.make_jaxpr(run)(shape, shape, shape, *arrays.values()).jaxpr)


def _routes(count, size):
  """Returns a function of T: FLOPs of a routed head of `count(T)` clusters."""

  def measure(T):
    means = jax.ShapeDtypeStruct((1, count(T), 16), jnp.float32)
    options = {"cluster_size": size(T), "kind": "past", "causal": True, "impl": "xla"}
    return _flops(functools.partial(routing.attend, **options), T, means=means)

  return measure


def _root(T):
  return round(T**0.5)


def _full(T):
  run = functools.partial(dot_product.attend, causal=True, impl="reference")
  return _flops(run, T)


CLAIMS = (
  Quality(
    sentence="Local and routed heads recall more than local heads alone.",
    source="section 5, tables of Wikitext-103 and ImageNet-64",
    unit="of answers",
    better="more",
    rows=ROWS,
    against="local heads",
    margin=0.2,
    rates=RATES,
  ),
  Quality(
    sentence="Local and routed heads recall as much as full attention.",
    source="section 5, table of CIFAR-10",
    unit="of answers",
    better="more",
    rows=ROWS,
    against="full attention",
    margin=-0.05,
    rates=RATES,
  ),
  Cost(
    sentence="The work of T^0.5 clusters of T^0.5 tokens grows as T^1.5.",
    source="section 4.1",
    unit="FLOPs",
    rows=(
      Sized("routed head", "mechanism", _routes(_root, _root)),
      Sized("full attention", "rival", _full),
      Sized("8 clusters of T / 8", "broken", _routes(lambda T: 8, lambda T: T // 8)),
    ),
    sizes=(1024, 4096, 16384, 65536),
    exponent=1.6,
  ),
  NotTestable(
    sentence="Wikitext-103 is modelled to a perplexity of 15.8, ImageNet-64 to 3.43"
    " bits a dimension, PG-19 to 33.2.",
    source="section 5",
    reason="needs networks of 80M parameters and more, and weeks of training",
  ),
)

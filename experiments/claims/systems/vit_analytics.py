"""Attention of Vision Transformers: few heads matter, and an autoencoder sums them up.

Claimed (arXiv:2303.13731, abstract; the text was not read): pruning by several metrics
tells which heads are important, and an autoencoder summarises the patterns that heads
can learn.

The data set `relation` in patches of 4 x 4, as in `experiments.claims.tasks.relation`,
three blocks 24 wide of four heads, 400 steps of 32. Heads are ranked on 256 validation
images by the rise of the cross-entropy when one is pruned, and measured on 256 test
images: the accuracy that the four least heads cost when they are pruned together, and
the share of the whole rise that the three most have. Four, and three, random heads are
the mean of five draws; the first ones by number are what is left without importance.
The catalogue expected under 2 points of loss and a share over 60 %, where random heads
have 25: margins are 2 points and 35.

Offset maps of 48 test images and of nine of the twelve heads train an autoencoder of
four numbers, 1000 steps, and PCA of four; the maps of the other three heads are what is
reconstructed, by the share of their variance around the known maps' mean that is left.

  python -m experiments.claims vit_analytics

About 500 s of one core, by the time of a few steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.analysis import vit_analytics as analytics
from experiments import small
from experiments.claims.claim import NotTestable, Quality, Row, Score
from experiments.claims.tasks import relation

HEADS, DEPTH, IMAGES, MAPS, STEPS, LEARNED = 4, 3, 256, 48, 400, 1000
GRID = (4, 4)
BUILD = small.vision(
  [("dot_product", {"heads": HEADS})],
  channels=1,
  classes=2,
  patch=relation.PATCH,
  dim=24,
  depth=DEPTH,
)


@functools.cache
def model_of(run, steps):
  """Returns (the trained model of a rate and seed, its number of parameters)."""
  recipe = small.Recipe(steps=steps)
  found = small.train(BUILD, relation.problem(), recipe, [run])
  return jax.tree.map(lambda leaf: leaf[0], found.models), found.parameters


def images(run, split):
  """Returns the first images of a split, and their classes."""
  batch = relation.problem().examples(run[1], split)
  return jnp.asarray(batch["image"][:IMAGES]), jnp.asarray(batch["label"][:IMAGES])


@functools.cache
def rises(run, split):
  """Returns the rise of the loss when one head is pruned, (L, N)."""
  given = model_of(run, STEPS)[0], *images(run, split)
  return np.asarray(analytics.head_importance(*given, heads=HEADS, chunk=6)["loss"])


@functools.cache
def orders(run, how):
  """Returns lists of (layer, head), the least important first, to take the mean of."""
  if how == "random":
    rng = np.random.default_rng([run[1], 5])
    return [analytics.ranked(rng.random((DEPTH, HEADS))) for _ in range(5)]
  if how == "number":
    numbers = np.arange(DEPTH * HEADS, dtype=float)
    return [analytics.ranked(numbers.reshape(DEPTH, HEADS))]
  if how == "proxy":
    given = model_of(run, STEPS)[0], *images(run, "validation")
    found = np.asarray(analytics.proxy_importance(*given, heads=HEADS))
  else:
    found = rises(run, "validation")
  order = analytics.ranked(found)
  return [order[::-1] if how == "reversed" else order]


def cost(run, split, *, how):
  """Returns the accuracy that is lost by pruning the four heads that come first."""
  lost = []
  for order in orders(run, how):
    given = model_of(run, STEPS)[0], *images(run, split), order[:4]
    curve = analytics.cumulative(*given, heads=HEADS)
    lost.append(float(curve[0] - curve[-1]))
  return float(np.mean(lost))


def share(run, split, *, how):
  """Returns the share of the whole rise that the three heads that come last have."""
  found = np.maximum(rises(run, split), 0)
  parts = [sum(found[place] for place in order[-3:]) for order in orders(run, how)]
  return float(np.mean(parts) / max(found.sum(), 1e-12))


@functools.cache
def maps(run, split):
  """Returns scaled offset maps: of nine heads, and of the three others."""
  model, (pictures, _) = model_of(run, STEPS)[0], images(run, split)
  trace = jax.device_get(jax.jit(lambda m, x: m.trace(x))(model, pictures[:MAPS]))
  weights = analytics.attention_of(trace)
  found = [analytics.offset_map(x, grid=GRID, prefix=0) for x in weights]
  found = jnp.concatenate(found, axis=1).swapaxes(0, 1)  # (L N, MAPS, 7, 7)
  held = np.random.default_rng(run[1]).permutation(len(found)) < 3
  known, other = (found[w].reshape(-1, *found.shape[2:]) for w in (~held, held))
  scale = analytics.Scale.of(known)
  return scale.apply(known), scale.apply(other)


def left(run, split, *, how):
  """Returns the share of the other maps' variance that is left."""
  known, other = maps(run, split)
  mean = known.mean(axis=0)
  if how == "mean":
    got = jnp.broadcast_to(mean, other.shape)
  elif how == "pca":
    own, flat = (np.asarray(x).reshape(len(x), -1) for x in (known, other))
    got = jnp.asarray(analytics.pca(own, flat, 4)).reshape(other.shape)
  else:
    steps = LEARNED if how == "learned" else 0
    key = jax.random.key(run[1])
    got = analytics.train_autoencoder(known, size=4, steps=steps, key=key)(other)
  return float(jnp.square(other - got).sum() / jnp.square(other - mean).sum())


def row(name, kind, measure, **options):
  """Returns a row whose models are trained once for all rows."""

  def train(runs):
    return [
      Score(
        measure(run, "test", **options),
        measure(run, "validation", **options),
        model_of(run, STEPS)[1],
      )
      for run in runs
    ]

  return Row(name, kind, train)


CLAIMS = (
  Quality(
    sentence="The four least important of twelve heads cost less than random ones.",
    source="abstract; the measure is ours",
    unit="share of images",
    better="less",
    rows=(
      row("by pruning one", "mechanism", cost, how="loo"),
      row("by number", "without", cost, how="number"),
      row("random heads", "baseline", cost, how="random"),
      row("by the loss's slope", "rival", cost, how="proxy"),
      row("the most important", "broken", cost, how="reversed"),
    ),
    against="random heads",
    margin=0.02,
  ),
  Quality(
    sentence="A quarter of the heads has most of the importance.",
    source="abstract; the measure is ours",
    unit="share of the rise of the loss",
    better="more",
    rows=(
      row("by pruning one", "mechanism", share, how="loo"),
      row("by number", "without", share, how="number"),
      row("random heads", "baseline", share, how="random"),
      row("by the loss's slope", "rival", share, how="proxy"),
      row("the least important", "broken", share, how="reversed"),
    ),
    against="random heads",
    margin=0.35,
  ),
  Quality(
    sentence="An autoencoder of four numbers sums up heads better than PCA of four.",
    source="abstract; the measure is ours",
    unit="share of the variance",
    better="less",
    rows=(
      row("autoencoder", "mechanism", left, how="learned"),
      row("the mean map", "without", left, how="mean"),
      row("PCA", "baseline", left, how="pca"),
      row("untrained", "broken", left, how="drawn"),
    ),
    against="PCA",
    margin=0.0,
  ),
  NotTestable(
    sentence="Experts judge the findings on ViTs trained on ImageNet helpful.",
    source="abstract",
    reason="that is a study of people's feedback",
  ),
)

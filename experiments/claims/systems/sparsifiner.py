"""Sparsifiner: a quarter of the keys, predicted image by image, does as all keys do.

Claimed (arXiv:2303.13755, abstract): a predictor of low rank finds, for
each image and head, the few keys that matter; attention to them keeps the accuracy of
full attention, and fixed patterns of as many keys do not.

Quality: what a mark at least six tokens away says (`tasks.mark`): which key matters
differs from image to image. 64 tokens, 24 wide, 4 heads, one block, so that a query
must see the mark itself; 16 of 64 keys. The predictor has 10 reduced tokens, a sixth,
as published, and learns along with the network by the layer's own loss, which reaches
nothing else; the paper has a phase of its own for it, after which the network is tuned.
Random keys are the same in all images. The nearest keys never hold the mark: no row.
300 updates of 32 images.

Mass: the share of the softmax weights on the predicted keys, of that on the best ones,
in the trained network, by all queries. The sheet asks for 0.85. Before the protocol it
came out as 0.81 with 32 reduced tokens and 0.69 with 10; it is registered again with
the published sixth. In the row without prediction all keys are predicted alike, which
leaves the first 16.

The margins are the sheet's: within 0.01 of full attention, 0.05 above fixed keys, 0.15
below all mass.

  python -m experiments.claims sparsifiner

It takes about four processor minutes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax import contract
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import sparsifiner
from experiments import small
from experiments.claims import rows
from experiments.claims.claim import NotTestable, Quality, Row, Score
from experiments.claims.tasks import mark

HEADS, KEEP, STEPS = 4, 0.25, 300
NUMBER = int(KEEP * mark.TOKENS**2)
RATES = 3e-3, 1e-2, 3e-2
SIZES = {"dim": 24, "depth": 1}
OPTIONS = {"heads": HEADS, "grid": (mark.TOKENS,) * 2, "keep_ratio": KEEP}
OURS = "sparsifiner", OPTIONS
PROBLEM = mark.problem(apart=6)
RECIPE = small.Recipe(steps=STEPS)


class RandomKeys(dot_product.Layer):
  """Dot-product attention to a quarter of all keys, the same in all images."""

  def mix(self, heads, **options):
    """Returns `attend` of the heads with the random set as a mask."""
    del options
    kept = mark.random_keys(NUMBER)[None, None]
    return dot_product.attend(heads.q, heads.k, heads.v, mask=kept)


def random_keys(dim, *, layers, rngs):
  """Builds a layer of random keys."""
  del layers
  return RandomKeys(dim, form="image", heads=HEADS, rngs=rngs)


random_keys.form, random_keys.module = "image", contract.load("dot_product")


def _mass(choose, call, batch):
  """Returns the mass on chosen keys over that on the best ones."""
  return call(batch["image"], choose=choose)


class Measured(mark.Net):
  """A net that can also tell the mass of its block's weights on chosen keys."""

  def __call__(self, image, choose=None):
    """Returns the logits; with `choose`, the mass on keys it chooses of a guess."""
    if choose is None:
      return super().__call__(image)
    (block,) = self.blocks
    heads = block.mixer.project(block.norm(self.embed(image)))
    weights = sparsifiner.dense_weights(heads.q, heads.k)
    guesses = choose(block.mixer.scores(heads), weights), weights
    kept = [sparsifiner.chosen(guess, 0, KEEP) for guess in guesses]
    own, best = (jnp.where(one, weights, 0).sum() for one in kept)
    return own / best


def _build(key):
  layer = small.layer(OURS, ("image",))
  return Measured(layer, **SIZES, rngs=nnx.Rngs(key))


@functools.cache
def _trained(runs, steps):
  return small.train(_build, PROBLEM, small.Recipe(steps=steps), list(runs))


def _measured(name, kind, score, steps=STEPS):
  """Returns a row of the trained network, by any score."""
  problem = dataclasses.replace(PROBLEM, score=score)

  def train(runs):
    found = _trained(tuple(runs), steps)
    splits = [small.scores(found, problem, runs, s) for s in ("test", "validation")]
    return [Score(*each, found.parameters) for each in zip(*splits)]

  return Row(name, kind, train)


def _predicted(guess, weights):
  del weights
  return guess


def _best(guess, weights):
  del guess
  return weights


def _alike(guess, weights):
  del weights
  return jnp.zeros_like(guess)


def _random(guess, weights):
  del weights
  return jax.random.uniform(jax.random.key(5), guess.shape)


def _row(name, kind, mixer):
  return rows.trained(name, kind, mark.net(mixer, **SIZES), PROBLEM, RECIPE)


ROWS = (
  _measured("16 predicted keys", "mechanism", PROBLEM.score),
  _row("without them", "without", small.without(OURS, ("image",))),
  _row("all keys", "baseline", ("dot_product", {"heads": HEADS})),
  _row("16 random keys", "rival", random_keys),
  _measured("16 predicted keys, untrained", "broken", PROBLEM.score, steps=0),
)
_claim = functools.partial(Quality, better="more", rates=RATES)

CLAIMS = (
  _claim(
    sentence="A quarter of the keys, predicted, answers as well as all keys.",
    source="abstract",
    unit="of answers",
    rows=ROWS,
    against="all keys",
    margin=-0.01,
  ),
  _claim(
    sentence="Predicted keys answer better than as many random ones.",
    source="abstract",
    unit="of answers",
    rows=ROWS,
    against="16 random keys",
    margin=0.05,
  ),
  _claim(
    sentence="The predicted keys hold 0.85 of the mass that the best ones hold.",
    source="abstract; the number is not the paper's",
    unit="of the mass",
    rows=(
      _measured("predicted keys", "mechanism", functools.partial(_mass, _predicted)),
      _measured("the first keys", "without", functools.partial(_mass, _alike)),
      _measured("the best keys", "baseline", functools.partial(_mass, _best)),
      _measured("random keys", "broken", functools.partial(_mass, _random)),
    ),
    against="the best keys",
    margin=-0.15,
  ),
  NotTestable(
    sentence="48 to 69 per cent of the FLOPs of attention are saved on ImageNet within"
    " 0.4 points.",
    source="abstract",
    reason="needs ImageNet and a trained DeiT; and here the kept keys are a mask on"
    " dense tiles, so that nothing is saved",
  ),
)

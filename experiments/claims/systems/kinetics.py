"""Kinetics: block top-k decoding, and its price beside full attention's.

Claimed (arXiv:2506.05333, abstract): with sparse attention accuracy is more than 60
points better at low cost and 5 points better at high cost, on AIME and
LiveCodeBench, since block top-k keeps the accuracy of full attention at a cost per
token that hardly grows. The costs themselves, and where they move the best model, are
formulas: they are tests, not claims.

Here chains of lookups are written step by step, see `experiments.claims.tasks.chains`:
the first 4 tokens, 2 blocks of 4 and the last 4 to 7, 16 to 19 of 65 to 76; layer 0 is
dense, as in the authors' code. Without it as many of the last tokens are seen. The
rule misses with blocks that random queries choose.

Seconds: attention of one step, the pooled keys at hand, 64 blocks of 16 and 256 last
tokens, beside full attention; one sequence, 8 heads of 64, 2 of keys. The broken row
reads all blocks, gathered. The factor of two is ours.

  python -m experiments.claims kinetics

About 12 minutes of one core.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from attnjax.variants.decode import kinetics
from attnjax.variants.softmax import dot_product
from experiments.claims import timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.claims.tasks import chains

BLOCKS = kinetics.Policy(blocks=2, block=4, local=4, sink=4)


@dataclasses.dataclass(frozen=True)
class RandomBlocks(kinetics.Policy):
  """Block top-k whose queries are noise, another one in each step and row."""

  def choose(self, q, past, own, shared, index):
    """Returns the choice for a random query."""
    key = jax.random.fold_in(jax.random.key(0), past.tokens.length)
    return super().choose(jax.random.normal(key, q.shape), past, own, shared, index)


ROWS = (
  chains.row("block top-k", "mechanism", BLOCKS),
  chains.row(
    "the last tokens alone", "without", dataclasses.replace(BLOCKS, blocks=0, local=12)
  ),
  chains.row("full attention", "baseline", None),
  chains.row("random blocks", "broken", RandomBlocks(**dataclasses.asdict(BLOCKS))),
)

HEADS, GROUPS, SIZE = 8, 2, 64
PAPER = {"block": 16, "local": 256, "sink": 4}


def _arrays(places):
  q = jax.random.normal(jax.random.key(0), (1, HEADS, SIZE))
  k, v = jax.random.normal(jax.random.key(1), (2, 1, places, GROUPS, SIZE))
  return q, k, v


def _full(places):
  """Returns the CPU seconds of a step of full attention."""

  def step(q, k, v):
    return dot_product.attend(q[:, None], k, v, causal=True)

  return timing.seconds(step, *_arrays(places))


def _blocks(blocks, places):
  """Returns the CPU seconds of a step of block top-k, with pooled keys at hand."""
  q, k, v = _arrays(places)
  P = (places - PAPER["sink"]) // PAPER["block"]
  own = k[:, PAPER["sink"] :][:, : P * PAPER["block"]]
  pooled = own.reshape(1, P, PAPER["block"], GROUPS, SIZE).mean(axis=2)
  count = P if blocks is None else blocks
  lengths = jnp.full((1,), places, jnp.int32)

  def step(q, k, v, pooled):
    scores = kinetics.block_scores(q, pooled)
    chosen = kinetics.select_blocks(scores, lengths, blocks=count, **PAPER)
    return kinetics.attend_places(q, k, v, *chosen)

  return timing.seconds(step, q, k, v, pooled)


CLAIMS = (
  Quality(
    sentence="With the best blocks of each key head a model writes chains of lookups as"
    " well as with full attention.",
    source="abstract; the task is ours",
    unit="share of right symbols",
    better="more",
    rows=ROWS,
    against="full attention",
    margin=-0.05,
  ),
  Cost(
    sentence="At 32,768 tokens full attention takes at least twice the seconds of block"
    " top-k attention.",
    source="abstract; the bound is ours",
    unit="seconds",
    rows=(
      Sized("block top-k", "mechanism", functools.partial(_blocks, 64)),
      Sized("full attention", "rival", _full),
      Sized("all blocks", "broken", functools.partial(_blocks, None)),
    ),
    sizes=(4096, 8192, 16384, 32768),
    against="full attention",
    ratio=2.0,
  ),
  NotTestable(
    sentence="With sparse attention Qwen3 models of 0.6B to 32B parameters are over 60"
    " points more accurate on AIME at low cost, and over 5 at high cost.",
    source="abstract",
    reason="the models and their accelerators are not here",
  ),
)

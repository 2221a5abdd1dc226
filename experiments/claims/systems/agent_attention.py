"""Agent attention: nearly softmax attention's quality, in linear time.

Claimed (arXiv:2312.08874, abstract and section 4): few agents are enough for the
accuracy of softmax attention, where linear attention falls short; the agents' biases
and the convolution of the values help; long sequences are several times faster.

The task compares far blobs, as the catalogue first asked: a picture of 6 x 6 cells with
a channel of nearness holds 6 blobs of 4 colours; which colour has the nearest? The
nearness of all is shifted at random and the next one is close behind, so that a weight
must grow sharply with it. One block 32 wide with 9 agents, a token for each cell, 320
steps of 32. Linear attention is L2ViT's without its convolutions. No data set of the
suite asks for a comparison.

Margins: within 1.5 points of softmax attention and 2 above linear attention, as the
catalogue has it; for biases and convolution it has no number, and the margin is zero.
An earlier run of this claim, with one seed, lost a tenth of a point by biases and
convolution and was then asked about textures instead; it is asked again here, as it was
first.

Time: CPU seconds of one layer, 64 wide, on 256 to 4096 tokens: 5 times less than
softmax attention at 4096. The broken row has 1024 agents.

  python -m experiments.claims agent_attention

About 150 s of one core.
"""

import functools

import numpy as np

from experiments import data, small
from experiments.claims import costs, rows
from experiments.claims.claim import Cost, NotTestable, Quality
from experiments.small import problem as problems

SIDE, PATCH, BLOBS = 6, 2, 6
COLOURS = ((1.0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))
SHIFT, GAP, NOISE = 1.0, 0.1, 0.1
TRAIN, HELD_OUT = 8192, 1024
SLUG = "agent_attention"
AGENTS = {"heads": 4, "num_agents": 9, "grid": SIDE}
BARE = AGENTS | {"agent_bias": False, "kernel": 0}
DENSE = ("dot_product", {"heads": 4, "rope_theta": 0.0})
LINEAR = {"heads": 4, "den_min": 1.0, "position_kernel": 0, "local_kernel": 0}


@functools.cache
def examples(seed, split):
  """Draws images (B, 12, 12, 4), RGB and nearness, and the nearest blob's colour."""
  rng = np.random.default_rng([seed, data.SPLITS.index(split)])
  count = TRAIN if split == "train" else HELD_OUT
  colour = rng.integers(len(COLOURS), size=(count, BLOBS))
  gaps = GAP * rng.uniform(1, 2, (count, BLOBS))
  # The last one is the nearest.
  near = SHIFT * rng.random((count, 1)) + gaps.cumsum(axis=1)
  blobs = np.concatenate([np.array(COLOURS)[colour], near[..., None]], axis=-1)
  order = rng.random((count, SIDE * SIDE)).argsort(axis=-1)
  cells = np.zeros((count, SIDE * SIDE, 4))
  cells[np.arange(count)[:, None], order[:, :BLOBS]] = blobs
  image = cells.reshape(count, SIDE, SIDE, 4)
  image = image.repeat(PATCH, axis=1).repeat(PATCH, axis=2)
  image = image + NOISE * rng.standard_normal(image.shape)
  return {
    "image": image.astype(np.float32),
    "label": colour[:, -1].astype(np.int32),
  }


BLOBS_PROBLEM = small.Problem(examples, problems.class_loss, problems.class_score)


def _build(slug):
  sizes = {"channels": 4, "classes": len(COLOURS), "patch": PATCH, "depth": 1}
  return small.vision([slug], **sizes)


def _blobs(name, kind, slug):
  recipe = small.Recipe(steps=320)
  return rows.trained(name, kind, _build(slug), BLOBS_PROBLEM, recipe)


WHOLE = _blobs("agents", "mechanism", (SLUG, AGENTS))
SHARED = (
  WHOLE,
  _blobs("without it", "without", small.without((SLUG, AGENTS), ("image",))),
  _blobs("softmax attention", "baseline", DENSE),
  _blobs("linear attention", "rival", ("l2vit", LINEAR)),
  _blobs("agents without biases and convolution", "rival", (SLUG, BARE)),
  rows.untrained("untrained", _build((SLUG, AGENTS)), BLOBS_PROBLEM),
)


def _quality(sentence, source, against, margin):
  unit = "share of images"
  return Quality(sentence, source, unit, "more", SHARED, against, margin)


CLAIMS = (
  _quality(
    "Nine agents are as accurate as softmax attention.",
    "abstract and section 4; the task is ours",
    "softmax attention",
    -0.015,
  ),
  _quality(
    "Agent attention is more accurate than linear attention.",
    "abstract and section 4; the task is ours",
    "linear attention",
    0.02,
  ),
  _quality(
    "The agents' biases and the convolution of the values raise the accuracy.",
    "section 4, ablation; the task is ours",
    "agents without biases and convolution",
    0.0,
  ),
  Cost(
    sentence="Agents take a fifth of the time of softmax attention at 4096 tokens.",
    source="abstract",
    unit="seconds",
    rows=(
      costs.row("agents", "mechanism", (SLUG, {"heads": 4, "num_agents": 49}), 64),
      costs.row("softmax attention", "rival", DENSE, 64),
      costs.row("1024 agents", "broken", (SLUG, {"heads": 4, "num_agents": 1024}), 64),
    ),
    sizes=(256, 1024, 2304, 4096),
    against="softmax attention",
    ratio=5.0,
  ),
  NotTestable(
    sentence="In Stable Diffusion, agents speed up generation without training.",
    source="abstract",
    reason="needs Stable Diffusion's weights and a score of its pictures",
  ),
)

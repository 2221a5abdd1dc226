"""SOFT: a kernel without softmax can be factorised where softmax attention cannot.

Claimed (arXiv:2207.03341): with few landmarks SOFT is as good as softmax attention,
softmax attention factorised by the same number is not (Yunyang Xiong et al.
Nystromformer. arXiv:2102.03902); SOFT++'s normalisation keeps a model good at a
resolution it was not trained at; memory is linear in the tokens.

The task: two blobs in noise, of one of four colours each; are they the same? 8 x 8
tokens, 16 landmarks, two blocks, 32 wide. At twice the resolution the same scene is
sampled twice as densely, with noise of each pixel: 16 x 16 tokens, whose positions are
interpolated as the paper's are, and 64 landmarks. What softmax attention drops shows
what the pictures themselves cost. Memory may have a part that does not grow.
Factorised softmax attention solves this task too: it tells nothing of SOFT.

  python -m experiments.claims soft
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.core.inverse import newton_inverse
from attnjax.core.positions import sinusoids
from attnjax.models import vision
from attnjax.nn import projections
from attnjax.variants.linear import soft
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.vision import accuracy, mechanism, train

SIDE, PATCH, COLOURS, NOISE, STEPS = 16, 2, 4, 0.1, 800
LENGTHS = (1024, 16384)


def claims() -> Iterator[Bound]:
  short, long = LENGTHS
  growth = _memory(long) / _memory(short)
  yield at_most("memory for 16 times the tokens: times", growth, 1.1 * long / short)
  builds = {
    "softmax": mechanism("dot_product", heads=4, rope_theta=0.0),
    "soft": mechanism("soft", heads=4, kernel=0, **soft.PUBLISHED),
    "soft++": mechanism("soft", heads=4, kernel=0, normalise=True, **soft.PUBLISHED),
    "nystrom": _Nystrom,
  }
  options = {"channels": 3, "classes": 2, "patch": PATCH, "steps": STEPS, "host": _host}
  models = {n: train(build, draw, **options) for n, build in builds.items()}
  points = {n: 100 * accuracy(model, draw) for n, model in models.items()}
  lost = {n: points["softmax"] - points[n] for n in points}
  yield reported("points of accuracy of softmax attention", points["softmax"])
  yield at_most("points that SOFT loses", lost["soft"], 2)
  yield at_least(
    "points that factorised softmax loses beyond", lost["nystrom"] - lost["soft"], 0
  )
  finer = functools.partial(draw, zoom=2)
  drop = {
    n: points[n] - 100 * accuracy(models[n], finer)
    for n in ("softmax", "soft", "soft++")
  }
  yield reported("points that softmax drops at twice the resolution", drop["softmax"])
  yield at_most("points that SOFT++ drops at twice the resolution", drop["soft++"], 3)
  yield at_least("points that SOFT drops beyond", drop["soft"] - drop["soft++"], 0)


def draw(key: jax.Array, number: int, zoom: int = 1) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 16 zoom, 16 zoom, 3), and whether both blobs have one colour."""
  keys = jax.random.split(key, 5)
  same = jax.random.bernoulli(keys[0], 0.5, (number,))
  first = jax.random.randint(keys[1], (number,), 0, COLOURS)
  other = (first + jax.random.randint(keys[2], (number,), 1, COLOURS)) % COLOURS
  palette = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
  # The blobs' centres are in the left and in the right half.
  centre = jax.random.uniform(keys[3], (number, 2, 2), minval=2.0, maxval=SIDE / 2 - 2)
  centre = centre * jnp.array([2.0, 1.0]) + jnp.array([[0, 0], [0, SIDE / 2]])
  place = (jnp.arange(SIDE * zoom) + 0.5) / zoom
  near = jnp.square(place - centre[..., None])  # (B, blob, axis, place)
  blobs = jnp.exp(-(near[:, :, 0, :, None] + near[:, :, 1, None, :]) / 4)
  colours = palette[jnp.stack([first, jnp.where(same, first, other)], axis=1)]
  image = jnp.einsum("bkyx,bkc->byxc", blobs, colours)
  noise = jax.random.normal(keys[4], image.shape)
  return image + NOISE * noise, same.astype(jnp.int32)


def _memory(length: int) -> int:
  """Returns the temporary bytes of a value with its gradients."""

  def total(q, v, landmarks):
    return jnp.sin(soft.attend(q, v, landmarks)).sum()

  tokens = jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)
  landmarks = jax.ShapeDtypeStruct((1, 49, 2, 32), jnp.float32)
  run = jax.jit(jax.grad(total, (0, 1, 2))).lower(tokens, tokens, landmarks)
  analysis: Any = run.compile().memory_analysis()
  return analysis.temp_size_in_bytes


def _host(builds, **options):
  """Builds a classifier whose positions are those of training, interpolated."""
  model = vision.Model(builds, **options)
  model.stem = _Interpolated(model.stem)
  return model


class _Interpolated(nnx.Module):
  """Patches with the positions of the grid of the training, interpolated."""

  def __init__(self, patches):
    patches.positions = False
    self.patches = patches

  def __call__(self, images):
    x = self.patches(images)
    positions = sinusoids((SIDE // PATCH, SIDE // PATCH), x.shape[3])
    return x + jax.image.resize(positions, x.shape[1:], "linear").astype(x.dtype)


class _Nystrom(nnx.Module):
  """Softmax attention through the means of 2 x 2 tokens."""

  form = "image"

  def __init__(self, dim: int, *, layers: int, rngs: nnx.Rngs):
    del layers
    self.project = projections.QueryKeyValue(dim, 4, 4, dim // 4, bias=True, rngs=rngs)
    self.out = projections.output(4, dim // 4, dim, bias=True, rngs=rngs)

  def __call__(self, x, **context):
    del context
    B, H, W, D = x.shape
    q, k, v = (y.swapaxes(1, 2) for y in self.project.heads(x.reshape(B, H * W, D)))

    def means(y):
      y = y.reshape(*y.shape[:2], H // 2, 2, W // 2, 2, -1)
      return y.mean((3, 5)).reshape(*y.shape[:2], -1, y.shape[-1])

    def weights(a, b):
      return jax.nn.softmax(a @ b.mT * q.shape[-1] ** -0.5, axis=-1)

    few_q, few_k = means(q), means(k)
    middle = _pseudo_inverse(weights(few_q, few_k))
    out = weights(q, few_k) @ (middle @ (weights(few_q, k) @ v))
    return self.out(out.swapaxes(1, 2)).reshape(x.shape)


def _pseudo_inverse(matrix):
  """Computes the pseudo-inverse by normal equations: the matrix is not symmetric."""
  return (
    newton_inverse(matrix.mT @ matrix, iterations=20, gradient="autodiff") @ matrix.mT
  )

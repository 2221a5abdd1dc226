"""Rectified SpaAttn: what pooling tells about blocks left out corrects their absence.

Claimed (arXiv:2511.19835): block-sparse attention gives critical blocks the mass of
those that are left out; scaling it back and adding pooled blocks where pooling is worth
its error lessens the distance to full attention, without training, at the speed of
sparse attention.

Inputs are drawn, no model is trained: a film of 8 x 16 x 16 tokens of 24 random plane
waves, projected at random to queries, keys and values, 4 heads of 32, with white noise
of 0, 0.3 and 1; blocks of 4 x 4 x 4 tokens, mass 0.3. Errors are distances in L2,
relative to softmax attention. The gain test is conservative for such inputs: without it
("all") errors are smaller still. Time: 16,384 tokens along a Hilbert curve, one head of
64, blocks of 128; seconds of the processor.

  python -m experiments.claims rectified_sparse

It takes half a minute.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from attnjax.core.grids import partition
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import rectified_sparse
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.vision import jitted, seconds

GRID, SIDE, WAVES, HEADS, SIZE, MASS = (8, 16, 16), 4, 24, 4, 32, 0.3
NOISES = (0.0, 0.3, 1.0)
FREQUENCY = 0.3  # radians a token, the deviation on each axis
LONG = (16, 32, 32)


def claims() -> Iterator[Bound]:
  shares = []
  for noise in NOISES:
    error, share = _errors(noise)
    shares.append(share)
    plain, both = error["none"], error["both"]
    yield reported(f"error of block-sparse attention, noise {noise:g}", plain)
    if noise < 1:
      yield at_most("the same rectified, of the plain error", both / plain, 0.85)
      yield at_most("both corrections, of the factor alone", both / error["factor"], 1)
      alone = both / error["addition"]
      yield at_most("both corrections, of the addition alone", alone, 1)
    else:
      yield reported("the same rectified, of the plain error", both / plain)
    yield reported("all blocks rectified, of the plain error", error["all"] / plain)
    yield reported("share of blocks that are rectifiable", share)
  yield at_least("loss of that share from noise 0 to 1", shares[0] - shares[2], 0.05)
  dense, sparse = _times()
  yield at_least("times faster than softmax attention", dense / sparse, 1.5)


def _heads(grid, noise: float, heads: int, size: int):
  """Draws q, k and v, (1, T, N, H), with tokens in the order of rows."""
  keys = jax.random.split(jax.random.key(1), 6)
  places = jnp.stack(jnp.meshgrid(*map(jnp.arange, grid), indexing="ij"), axis=-1)
  places = places.reshape(-1, len(grid))
  frequency = FREQUENCY * jax.random.normal(keys[0], (heads, WAVES, len(grid)))
  phase = jax.random.uniform(keys[1], (heads, WAVES), maxval=2 * jnp.pi)
  angle = jnp.einsum("tg,nwg->tnw", places, frequency) + phase
  waves = jnp.sqrt(2) * jnp.cos(angle)

  def project(key):
    first, second = jax.random.split(key)
    matrix = jax.random.normal(first, (heads, WAVES, size)) / WAVES**0.5
    x = jnp.einsum("tnw,nwh->tnh", waves, matrix)
    return (x + noise * jax.random.normal(second, x.shape))[None]

  return [project(key) for key in keys[2:5]]


def _errors(noise: float) -> tuple[dict[str, float], float]:
  """Returns (the relative error of each form, the share of rectifiable blocks)."""
  order = partition.window_order(GRID, SIDE)
  heads = [x[:, order] for x in _heads(GRID, noise, HEADS, SIZE)]
  want = dot_product.attend(*heads)

  @functools.partial(jax.jit, static_argnames=("correction", "gain_test"))
  def run(q, k, v, correction, gain_test=True):
    out, plan = rectified_sparse.attend(
      q,
      k,
      v,
      block=SIDE**3,
      mass=MASS,
      correction=correction,
      gain_test=gain_test,
      return_plan=True,
    )
    return jnp.linalg.norm(out - want) / jnp.linalg.norm(want), plan.gain.mean()

  found = {name: run(*heads, name) for name in rectified_sparse.CORRECTIONS}
  errors = {name: float(error) for name, (error, _) in found.items()}
  errors["all"] = float(run(*heads, "both", False)[0])
  return errors, float(found["both"][1])


def _times() -> tuple[float, float]:
  """Returns the seconds of softmax attention and of the rectified one."""
  order = partition.hilbert_order(LONG)
  heads = [x[:, order] for x in _heads(LONG, 0.3, 1, 64)]
  neighbours = jnp.asarray(rectified_sparse.touching(order, LONG, 128))

  def sparse(q, k, v):
    return rectified_sparse.attend(q, k, v, mass=MASS, neighbours=neighbours)

  whole = jitted(dot_product.attend, *heads)
  return seconds(whole, 1), seconds(jitted(sparse, *heads), 1)

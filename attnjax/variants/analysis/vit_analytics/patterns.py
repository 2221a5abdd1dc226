"""Patterns of attention: an autoencoder of maps, PCA beside it, clusters."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

_WIDTHS = (8, 16, 32)
_SMALL = 1e-4


class PatternAutoencoder(nnx.Module):
  """Maps (n, Y, X) to codes (n, z) and back, by three convolutions of stride 2 each.

  Args:
    shape: (Y, X) of the maps; they are padded to multiples of 8.
    size: z.
    rngs: for the parameters.
  """

  def __init__(self, shape: tuple[int, int], size: int, *, rngs: nnx.Rngs):
    self.shape = shape
    self.side = tuple(-(-n // 8) for n in shape)
    inner = self.side[0] * self.side[1] * _WIDTHS[-1]
    how: dict[str, Any] = {"kernel_size": (3, 3), "strides": 2, "rngs": rngs}
    ends = list(zip((1, *_WIDTHS[:-1]), _WIDTHS))
    self.down = nnx.List([nnx.Conv(a, b, **how) for a, b in ends])
    self.code = nnx.Linear(inner, size, rngs=rngs)
    self.back = nnx.Linear(size, inner, rngs=rngs)
    self.up = nnx.List([nnx.ConvTranspose(b, a, **how) for a, b in ends[::-1]])

  def encode(self, x: Float[Array, "n Y X"]) -> Float[Array, "n z"]:
    """Returns the codes of maps."""
    widths = [(0, 8 * side - n) for side, n in zip(self.side, self.shape)]
    y = jnp.pad(x, ((0, 0), *widths))[..., None]
    for layer in self.down:
      y = jax.nn.gelu(layer(y))
    return self.code(y.reshape(len(y), -1))

  def decode(self, z: Float[Array, "n z"]) -> Float[Array, "n Y X"]:
    """Returns the maps of codes."""
    y = jax.nn.gelu(self.back(z)).reshape(len(z), *self.side, _WIDTHS[-1])
    for layer in self.up[:-1]:
      y = jax.nn.gelu(layer(y))
    y = self.up[-1](y)[..., 0]
    return y[:, : self.shape[0], : self.shape[1]]

  def __call__(self, x: Float[Array, "n Y X"]) -> Float[Array, "n Y X"]:
    """Returns the maps as the codes have them."""
    return self.decode(self.encode(x))


class Scale(NamedTuple):
  """The mean and the standard deviation of log(map + 1e-4), over all elements."""

  mean: Any
  deviation: Any

  @classmethod
  def of(cls, maps: Float[Array, "n Y X"]) -> "Scale":
    """Measures maps."""
    x = jnp.log(maps + _SMALL)
    return cls(x.mean(), jnp.maximum(x.std(), 1e-6))

  def apply(self, maps: Float[Array, "n Y X"]) -> Float[Array, "n Y X"]:
    """Returns the maps in units of the deviation."""
    return (jnp.log(maps + _SMALL) - self.mean) / self.deviation


def train_autoencoder(
  x: Float[Array, "n Y X"],
  *,
  size: int = 4,
  steps: int = 2000,
  rate: float = 1e-3,
  key: Array,
) -> PatternAutoencoder:
  """Trains an autoencoder on scaled maps, all of them at each step, by Adam.

  Args:
    x: of `Scale.apply`.
    size: z.
    steps: updates; 0 leaves it as it is drawn.
    rate: of learning.
    key: for the parameters.
  """
  _, Y, X = x.shape
  made = PatternAutoencoder((Y, X), size, rngs=nnx.Rngs(key))
  graph, state = nnx.split(made)
  chain = optax.adam(rate)

  @jax.jit
  def run(state, x):
    def loss(state):
      return jnp.square(nnx.merge(graph, state)(x) - x).mean()

    def step(carry, _):
      state, memory = carry
      change, memory = chain.update(jax.grad(loss)(state), memory, state)
      return (optax.apply_updates(state, change), memory), None

    return jax.lax.scan(step, (state, chain.init(state)), None, length=steps)[0][0]

  return nnx.merge(graph, run(state, x))


def error(x: Float[Array, "n Y X"], got: Float[Array, "n Y X"]) -> float:
  """Returns the part of the variance around the mean map that is not explained."""
  rest = jnp.square(x - x.mean(axis=0)).sum()
  return float(jnp.square(x - got).sum() / jnp.where(rest == 0, 1, rest))


def pca(
  known: Float[np.ndarray, "n D"], x: Float[np.ndarray, "m D"], size: int
) -> Float[np.ndarray, "m D"]:
  """Returns rows as the first `size` principal directions of known rows have them."""
  mean = known.mean(axis=0)
  _, _, vectors = np.linalg.svd(known - mean, full_matrices=False)
  own = vectors[:size]
  return mean + (x - mean) @ own.T @ own


def k_means(
  x: Float[np.ndarray, "n D"], number: int, *, seed: int = 0, steps: int = 100
) -> np.ndarray:
  """Returns the cluster of each row, of `number`, begun as k-means++ does.

  Raises:
    ValueError: for a number that is not in 1 to n.
  """
  if not 1 <= number <= len(x):
    raise ValueError(f"number = {number}; it must be 1 to {len(x)}, the rows")
  rng = np.random.default_rng(seed)
  centres = [x[rng.integers(len(x))]]
  for _ in range(number - 1):
    apart = np.min([np.square(x - c).sum(axis=1) for c in centres], axis=0)
    total = apart.sum()
    share = apart / total if total else np.full(len(x), 1 / len(x))
    centres.append(x[rng.choice(len(x), p=share)])
  own, old = np.zeros(len(x), np.int64), None
  for _ in range(steps):
    own = np.square(x[:, None] - np.stack(centres)).sum(axis=2).argmin(axis=1)
    if old is not None and (own == old).all():
      break
    old = own
    centres = [
      x[own == i].mean(axis=0) if (own == i).any() else c for i, c in enumerate(centres)
    ]
  return own


def silhouette(x: Float[np.ndarray, "n D"], clusters: np.ndarray) -> float:
  """Computes the mean silhouette of a clustering, -1 to 1; 0 of rows that are alone."""
  apart = np.linalg.norm(x[:, None] - x[None], axis=2)
  found = []
  for i, own in enumerate(clusters):
    same = clusters == own
    if same.sum() < 2:
      found.append(0.0)
      continue
    near = apart[i, same].sum() / (same.sum() - 1)
    rest = [apart[i, clusters == c].mean() for c in np.unique(clusters) if c != own]
    far = min(rest, default=math.inf)
    found.append((far - near) / max(near, far) if np.isfinite(far) else 0.0)
  return float(np.mean(found))


def clusters(
  x: Float[np.ndarray, "n D"], numbers: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
) -> np.ndarray:
  """Returns the k-means clustering, of these numbers, with the greatest silhouette."""
  some = [k_means(x, number) for number in numbers if number < len(x)]
  if not some:
    raise ValueError(f"{len(x)} rows are fewer than the clusters, {numbers}")
  return max(some, key=lambda own: silhouette(x, own))

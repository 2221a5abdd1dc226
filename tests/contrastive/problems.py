"""Problems of the contrastive loss, and its definition in NumPy's float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import attnjax


def _mask(Nq, Ni):
  return np.random.default_rng(5).random((Nq, Ni)) < 0.6


def _groups(Nq, Ni):
  return np.arange(Nq) // 3 - 1, np.arange(Ni)[::-1] // 3 - 1


# Nq, Ni, D, options.
PROBLEMS = {
  "one_pair": (1, 1, 3, {}),
  "odd": (7, 7, 5, {}),
  "one_direction": (7, 65, 4, {"symmetric": False}),
  "one_item": (7, 1, 4, {"labels": np.zeros(7, int)}),
  "groups": (65, 65, 8, {"groups": _groups(65, 65)}),
  "no_pair": (2, 3, 4, {"labels": np.array([-1, 3])}),
  "nothing_else": (7, 7, 4, {"mask": np.zeros((7, 7), bool)}),
  "all": (
    65,
    63,
    5,
    {
      "labels": np.arange(65) * 5 % 64 - 1,
      "mask": _mask(65, 63),
      "groups": _groups(65, 63),
    },
  ),
}


def arrays(name, dtype="float32"):
  """Returns (q, items, log_scale) of a problem."""
  Nq, Ni, D, _ = PROBLEMS[name]
  draw = np.random.default_rng(0).standard_normal
  q, items = (jnp.asarray(draw((n, D)), dtype) for n in (Nq, Ni))
  return q, items, jnp.float32(0.4)


def value_and_gradients(impl, options, loss=attnjax.contrastive_loss):
  """Returns the compiled function of arrays to (loss, its gradients)."""
  own = functools.partial(loss, impl=impl, **options)
  return jax.jit(
    jax.value_and_grad(lambda q, items, t: own(q, items, log_scale=t), (0, 1, 2))
  )


def expected(q, items, log_scale, labels=None, mask=None, groups=None, symmetric=True):
  """Returns (loss, its gradients) of the matrix, in NumPy's float64."""
  q, items, scale = (np.asarray(x, np.float64) for x in (q, items, np.exp(log_scale)))
  score, (Nq, Ni) = scale * q @ items.T, (len(q), len(items))
  labels = np.arange(Nq) if labels is None else labels
  pairs = [(i, j) for i, j in enumerate(labels) if 0 <= j < Ni]
  seen = np.ones((Nq, Ni), bool) if mask is None else mask.copy()
  if groups is not None:
    seen &= ~((groups[0][:, None] == groups[1]) & (groups[0] >= 0)[:, None])
  for pair in pairs:
    seen[pair] = True
  score = np.where(seen, score, -np.inf)
  loss, slope = 0.0, np.zeros((Nq, Ni))
  for i, j in pairs:
    lines = [(score[i], slope[i], j)]
    lines += [(score[:, j], slope[:, j], i)] if symmetric else []
    for line, into, own in lines:
      weight = np.exp(line - line.max())
      part = 1 / len(pairs) / len(lines)
      loss -= part * (line[own] - line.max() - np.log(weight.sum()))
      into += part * weight / weight.sum()
      into[own] -= part
  dlog = (slope * np.where(seen, score, 0)).sum()
  return loss, (scale * slope @ items, scale * slope.T @ q, dlog)

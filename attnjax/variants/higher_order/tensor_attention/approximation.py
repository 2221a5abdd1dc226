"""Polynomials near e^x, their errors, and the monomials of vectors."""

import itertools
import math
from collections import Counter

import jax.numpy as jnp
import numpy as np

_NODES = 8  # for each degree, at which a polynomial is fitted


def coefficients(degree: int, bound: float | None = None) -> np.ndarray:
  """Returns c (G + 1,) of a polynomial near e^x.

  Args:
    degree: G.
    bound: R; on |x| <= R the sum of squares of the relative error is least, at
      Chebyshev's nodes; Taylor's polynomial if None.

  Raises:
    ValueError: if the degree is below 0, or the bound not above 0.
  """
  if degree < 0:
    raise ValueError(f"degree = {degree}; it is at least 0")
  if bound is None:
    return np.array([1 / math.factorial(g) for g in range(degree + 1)])
  if bound <= 0:
    raise ValueError(f"bound = {bound}; it is above 0, or None")
  count = _NODES * (degree + 1)
  node = np.cos(np.pi * (np.arange(count) + 0.5) / count)
  fitted = np.polynomial.chebyshev.chebfit(
    node, np.exp(bound * node), degree, w=np.exp(-bound * node)
  )
  found = np.polynomial.chebyshev.cheb2poly(fitted)
  return np.pad(found, (0, degree + 1 - found.size)) / bound ** np.arange(degree + 1)


def relative_error(degree: int, bound: float, fitted: bool = True) -> float:
  """Returns the greatest |p(x) / e^x - 1| on |x| <= bound.

  Args:
    degree: of p.
    bound: R.
    fitted: whether p is the polynomial for this bound; else it is Taylor's.
  """
  x = np.linspace(-bound, bound, 4097)
  p = np.polynomial.Polynomial(coefficients(degree, bound if fitted else None))
  return float(np.abs(p(x) * np.exp(-x) - 1).max())


def error_bound(error: float, v1, v2) -> float:
  """Returns the most by which outputs may differ, 2 e / (1 - e) max |v1 v2|.

  Numerator and denominator are both within a share e of the exact ones.

  Args:
    error: e, the relative error of the polynomial.
    v1: values.
    v2: values.
  """
  if error >= 1:
    return math.inf
  most = jnp.abs(v1).max() * jnp.abs(v2).max()
  return 2 * error / (1 - error) * float(most)


def indices_of(H: int, degree: int) -> np.ndarray:
  """Returns all multi-indices of H exponents of degree up to G, by degree, (r, H)."""
  if degree < 0:
    raise ValueError(f"degree = {degree}; it is at least 0")
  found = []
  for g in range(degree + 1):
    for chosen in itertools.combinations_with_replacement(range(H), g):
      count = Counter(chosen)
      found.append([count[h] for h in range(H)])
  return np.array(found, np.int32).reshape(-1, H)


def multinomials(indices: np.ndarray) -> np.ndarray:
  """Returns |a|! / a! of multi-indices."""
  factorial = np.array(
    [math.factorial(n) for n in range(int(indices.sum(1).max()) + 1)]
  )
  return factorial[indices.sum(axis=1)] / factorial[indices].prod(axis=1)


def monomials(x, indices: np.ndarray):
  """Returns x^a of all multi-indices, (..., r), each from one of a degree less."""
  place = {tuple(a): n for n, a in enumerate(indices)}
  degrees = indices.sum(axis=1)
  found = jnp.ones((*x.shape[:-1], 1), x.dtype)
  for g in range(1, int(degrees.max()) + 1):
    own = indices[degrees == g]
    last = [int(np.flatnonzero(a)[0]) for a in own]
    parents = [
      place[tuple(a - np.eye(len(a), dtype=int)[h])] for a, h in zip(own, last)
    ]
    new = found[..., np.array(parents)] * x[..., np.array(last)]
    found = jnp.concatenate([found, new], axis=-1)
  return found

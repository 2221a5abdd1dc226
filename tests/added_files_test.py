"""A system, and a form with a system of its own, are added as files alone."""

from absl.testing import absltest

from attnjax import contract, variants
from attnjax.contract import forms
from tests import adding

_UNIFORM = '''
"""Uniform attention: every token takes the mean of what it sees."""

import jax
import jax.numpy as jnp
from flax import nnx
from attnjax import attention
from attnjax.contract import Case
from attnjax.contract import context as contexts
from attnjax.core import masks
from attnjax.core.scores import Scores
from attnjax.nn import projections
from attnjax.ops import self_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
FORMS = ("causal", "sequence", "image")
LAYER = {"dim": 16, "heads": 2}
GROWTH = 2.0
CASES = (
  Case("plain", {"v": (2, 9, 2, 4)}),
  Case("causal", {"v": (1, 33, 1, 4)}, {"causal": True}),
)


def attend(v, *, causal=False, impl="auto", keys=None, **seen):
  B, T, N, _ = v.shape
  q = jnp.zeros((B, T if keys is None else keys, N, 1), v.dtype)
  mask = masks.conjunction((B, N, q.shape[1], T), causal=causal, **seen)
  k = jnp.zeros((B, T, N, 1), v.dtype)
  return attention.attend(q, k, v, Scores(mask), impl=impl)[0]


def reference(v, *, causal=False):
  if not causal:
    return jnp.broadcast_to(v.mean(axis=1, keepdims=True), v.shape)
  return jnp.cumsum(v, axis=1) / (1 + jnp.arange(v.shape[1])[:, None, None])


class Layer(nnx.Module):
  def __init__(self, dim, *, form, heads: int = 2, rngs):
    self.value = nnx.LinearGeneral(dim, (heads, dim // heads), rngs=rngs)
    self.out = projections.output(heads, dim // heads, dim, rngs=rngs)
    self.form, self.heads, self.size = form, heads, dim // heads

  refuses = {"positions": "the mean of tokens is that of any order of them"}

  def project(self, x, **context):
    def values(x, positions):
      v = self.value(x)
      return v, v, v

    return self_attention.heads(
      x, context, values, form=self.form, refuses=self.refuses)

  def mix(self, heads):
    causal = self.form == "causal"
    return attend(heads.v, causal=causal, keys=heads.q.shape[1], **heads.seen)

  def merge(self, out, heads):
    return self.out(out).reshape(heads.tokens.x.shape)

  def __call__(self, x, **context):
    return contexts.run(self, x, context)

  def init_cache(self, batch, length, dtype=jnp.float32):
    return self_attention.empty_cache(
      self.form, batch, length, self.heads, self.size, dtype)

  def step(self, x, cache, **context):
    return self_attention.step(self, x, cache, context)
'''
_FORM = '''
"""The form "ratings": score(queries (Q, D), items (I, D)) -> (Q, I)."""

import numpy as np
from attnjax.contract.subject import close, require


def permutes(subject):
  case = subject.module.CASES[0]
  arrays = case.arrays()
  order = np.random.default_rng(0).permutation(len(arrays["items"]))
  score = subject.module.score
  whole = score(**arrays, impl="xla")
  require((whole != whole[:, order]).any(), "scores do not depend on items")
  close(score(arrays["queries"], arrays["items"][order], impl="xla"), whole[:, order])


CHECKS = (permutes,)
'''
_RATINGS = '''
"""Cosines of all pairs."""

import jax.numpy as jnp
from attnjax.contract import Case, check_known

IMPLEMENTATIONS = ("reference", "xla")
FORMS = ("ratings",)
CASES = (Case("pairs", {"queries": (3, 5), "items": (4, 5)}, function="score"),)


def score(queries, items, *, impl="auto"):
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return reference_score(queries, items)
  one, two = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (queries, items))
  return one @ two.T


def reference_score(queries, items):
  dot = (queries[:, None] * items).sum(-1)
  return dot / jnp.sqrt((queries[:, None] ** 2).sum(-1) * (items**2).sum(-1))
'''


_PACKAGES = {"variants": variants, "forms": forms}


class AddedFilesTest(absltest.TestCase):
  def test_a_system_of_every_form_of_layers(self):
    with adding.added({
      "variants/toys/__init__.py": "",
      "variants/toys/uniform.py": _UNIFORM,
    }, _PACKAGES):  # fmt: skip
      adding.keeps_its_contract(self, "uniform")

  def test_a_form_and_a_system_of_it(self):
    self.assertNotIn("ratings", contract.form_names())
    with adding.added({
      "forms/ratings.py": _FORM,
      "variants/more/__init__.py": "",
      "variants/more/cosines.py": _RATINGS,
    }, _PACKAGES):  # fmt: skip
      self.assertIn("ratings", contract.form_names())
      adding.keeps_its_contract(self, "cosines")
    self.assertNotIn("cosines", contract.systems())


if __name__ == "__main__":
  absltest.main()

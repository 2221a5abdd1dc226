"""The form "pairs": a scorer is added as a file, and what breaks the form is found."""

from typing import Any

import jax.numpy as jnp
from absl.testing import absltest, parameterized

from attnjax import contract
from attnjax.contract.forms import pairs
from attnjax.contract.subject import Subject
from tests import adding

_TOY = '''
"""Late interaction: the mean over a query's tokens of the greatest product."""

import jax
import jax.numpy as jnp
from flax import nnx
from attnjax.contract import Case
from attnjax.core import streams
from attnjax.core.tiles import tiled

IMPLEMENTATIONS = ("reference", "xla")
FORMS = ("pairs",)
QUERY, ITEM = ("T", "D"), ("S", "D")
SCORER = {"dims": {"queries": 5, "items": 4}}
CASES = (Case("plain", {"x": (2, 3), "y": (2, 3)}, function="dot"),)


def dot(x, y, *, impl="auto"):
  if impl not in ("auto", *IMPLEMENTATIONS):
    raise ValueError(f"impl {impl!r} is none of {IMPLEMENTATIONS}")
  return jnp.einsum("bd,bd->b", x, y)


def reference_dot(x, y):
  return (x * y).sum(axis=1)


class Scorer(nnx.Module):
  def __init__(self, dims, *, scale: float = 0.3, rngs):
    self.map = nnx.Linear(dims["queries"], dims["items"], rngs=rngs)
    self.scale = scale

  def __call__(
    self, queries, items, *, query_valid=None, item_valid=None, tile=0, key=None
  ):
    one, two = (
      jnp.ones(x.shape[:2], bool) if valid is None else valid
      for x, valid in ((queries, query_valid), (items, item_valid))
    )

    def scores(query, item):
      (x, one), (y, two) = query, item
      products = jnp.einsum("qtd,isd->qits", x, y)
      products = jnp.where(two[:, None], products, -jnp.inf)
      some = two.any(1)[:, None]
      products = jnp.where(some[..., None], products, 0)
      best = jnp.where(one[:, None], products.max(-1), 0)
      return self.scale * best.sum(-1) / jnp.maximum(one.sum(1), 1)[:, None]

    x = self.map(streams.cleared(queries, one))
    return tiled(scores, (x, one), (streams.cleared(items, two), two), tile)
'''


class PairsFormTest(parameterized.TestCase):
  def test_a_scorer_is_added(self):
    with adding.system(_TOY, "interaction") as slug:
      adding.keeps_its_contract(self, slug)
      self.assertEqual(contract.defaults(slug), {"scale": 0.3})
      build: Any = contract.constructor(slug, {"scale": 1.0}, ("pairs",))
      self.assertEqual(build.form, "pairs")
      made = build({"queries": 5, "items": 3}, rngs=0)
      scores = made(jnp.ones((2, 2, 5)), jnp.ones((4, 3, 3)))
      self.assertEqual(scores.shape, (2, 4))

  @parameterized.parameters(
    ("two[:, None], products", "True, products", "ignores_padding"),
    ("one[:, None], products", "True, products", "ignores_padding"),
    ("streams.cleared(items, two)", "items", "ignores_padding"),
    ("(some[..., None]", "(True", "ignores_padding"),
    ("jnp.maximum(one.sum(1), 1)", "one.sum(1)", "ignores_padding"),
    ("streams.cleared(queries, one)", "queries - queries.mean(0)", "scores_each_pair"),
    ("tiled(scores", "jnp.mean(queries) + tiled(scores", "scores_each_pair"),
    ('isd->qits", x, y)', 'isd->qits", x, y - y.mean(0))', "tiles_equal_the_whole"),
    ("self.scale * best", "0 * best", "scores_all_pairs"),
    ("qtd,isd->qits", "qtd,isd->iqts", "scores_all_pairs"),
  )
  def test_a_broken_scorer_is_found(self, right, wrong, check):
    self.assertIn(right, _TOY)
    (check,) = [one for one in pairs.CHECKS if one.__name__.startswith(check)]
    with adding.system(_TOY.replace(right, wrong), "interaction") as slug:
      subject = Subject(contract.load(slug), "pairs")
      with self.assertRaises((AssertionError, TypeError, ValueError)):
        check(subject)


if __name__ == "__main__":
  absltest.main()

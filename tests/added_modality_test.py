"""A kind of data is added as files: a host, a data set, an objective, a number."""

import contextlib
import io
import json
import tempfile
import textwrap
from pathlib import Path

from absl.testing import absltest

from attnjax import models
from experiments import configuration, data, errors, run
from experiments.data import sets
from experiments.training import measures, objectives

_HOST = '''
"""Scores of two rows of vectors: which of them is the longer one."""

import jax.numpy as jnp
from flax import nnx

FORMS = ("sequence",)
TAKES = "pairs"
SIZES = ("width",)


def inputs(batch):
  return (batch["left"], batch["right"]), {}


class Model(nnx.Module):
  def __init__(self, builds, *, width, dim: int = 8, rngs):
    self.embed = nnx.Linear(width, dim, rngs=rngs)
    self.mixer = builds[0](dim, layers=1, rngs=rngs)
    self.head = nnx.Linear(dim, 1, rngs=rngs)

  def __call__(self, left, right, *, key=None):
    one, two = (self._score(x) for x in (left, right))
    return one - two

  def _score(self, x):
    return self.head(self.mixer(self.embed(x)).mean(axis=1))[:, 0]
'''
_SET = '''
"""Pairs of rows (4, width) of vectors; "longer" is 1 where the left one is longer."""

import numpy as np

from experiments.data.task import Task


class _Source:
  def __init__(self, seed, width):
    self.seed, self.width = seed, width

  def __len__(self):
    return 16

  def __getitem__(self, index):
    draw = np.random.default_rng([self.seed, index])
    left, right = draw.standard_normal((2, 4, self.width)).astype(np.float32)
    longer = np.float32((left**2).sum() > (right**2).sum())
    return {"left": left, "right": right, "longer": longer}


def task(*, width: int = 3):
  return Task(
    "lengths", "pairs", 0, 0, (2, 4, width), "wrong_pairs",
    lambda split: _Source(len(split), width),
    objective="pairwise", sizes={"width": width}, unit="pairs")
'''
_OBJECTIVE = '''
"""The logistic loss of differences of scores."""

import jax
import jax.numpy as jnp


def totals(outputs, batch):
  sign = 2 * batch["longer"] - 1
  count = jnp.asarray(outputs.size, jnp.float32)
  wrong = jnp.sum(outputs * sign <= 0, dtype=jnp.float32)
  loss = -jax.nn.log_sigmoid(sign * outputs).sum()
  return {"loss": loss, "wrong": wrong, "count": count}
'''
_MEASURE = '''
"""The share of pairs in the wrong order."""

BETTER = min


def value(totals):
  return totals["wrong"] / totals["count"]
'''


@contextlib.contextmanager
def _added():
  """Within it the files above stand beside the project's own."""
  places = {
    "models/pairs_of_rows.py": (models, _HOST),
    "sets/lengths.py": (sets, _SET),
    "objectives/pairwise.py": (objectives, _OBJECTIVE),
    "measures/wrong_pairs.py": (measures, _MEASURE),
  }
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    for name, (package, text) in places.items():
      path = Path(folder, name)
      path.parent.mkdir()
      path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
      package.__path__.append(str(path.parent))
      stack.callback(package.__path__.remove, str(path.parent))
    yield Path(folder)


class AddedModalityTest(absltest.TestCase):
  def test_files_alone_make_a_run(self):
    with _added() as folder:
      config = configuration.default(
        "dot_product", host="pairs_of_rows", dataset="lengths"
      )
      self.assertNotIn("width", config.model)
      self.assertEqual(config.data.width, 3)
      config.steps, config.data.batch, config.log_every = 2, 4, 1
      config.eval_every = config.save_every = 1
      config.attention.heads = 2
      workdir = folder / "run"
      with contextlib.redirect_stdout(io.StringIO()):
        self.assertEqual(run.run(config, workdir), "finished")
      summary = json.loads((workdir / "summary.json").read_text())
      self.assertEqual(summary["metric"], "wrong_pairs")
      found = [
        line["wrong_pairs"]
        for line in map(json.loads, (workdir / "metrics.jsonl").open())
        if line["split"] == "validation"
      ]
      self.assertEqual(summary["best"]["wrong_pairs"], min(found))
      lines = (workdir / "metrics.jsonl").read_text()
      self.assertIn("pairs_per_second", lines)
      self.assertTrue((workdir / "report.html").exists())
    self.assertNotIn("lengths", data.names())

  def test_a_host_and_a_data_set_that_do_not_fit(self):
    with _added():
      for host, dataset, message in (
        ("language", "lengths", "takes tokens;.*'lengths' holds pairs"),
        ("pairs_of_rows", "digits", "takes pairs;.* holds images"),
      ):
        config = configuration.default("dot_product", host=host, dataset=dataset)
        with self.assertRaisesRegex(errors.UserError, message):
          run.assemble(config)

  def test_what_a_data_set_lacks_is_named(self):
    task = data.load("digits")
    self.assertEqual((task.size("classes"), task.size("channels")), (10, 1))
    for name in ("vocab", "width"):
      with self.assertRaisesRegex(ValueError, f"'digits' has no {name}"):
        task.size(name)
    with self.assertRaisesRegex(ValueError, "did you mean accuracy"):
      measures.load("acuracy")


if __name__ == "__main__":
  absltest.main()

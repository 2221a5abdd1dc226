"""Segment memory in the trainer: streams of batches, carried, saved, evaluated."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.nn.segment_memory import SegmentMemory
from configs import induction, lm, vit
from experiments import errors
from experiments.build import assemble
from experiments.data import pipeline
from experiments.data.text import Windows
from experiments.training import evaluation, loop, memory, optimizer, step
from experiments.training.checkpoints import flatten

BATCH, LENGTH, MEMORY = 4, 8, 24


class _Numbers:
  """Example i is the number i."""

  def __init__(self, length):
    self.length = length

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    number = np.full(3, range(self.length)[index], np.int32)
    return {"tokens": number, "labels": number}


class StreamsTest(parameterized.TestCase):
  @parameterized.parameters(0, 7)
  def test_rows_go_on_and_see_all(self, seed):
    found = pipeline.training(_Numbers(11), seed=seed, batch=3, consecutive=True)
    batches = [next(found) for _ in range(25)]
    numbers = np.stack([batch["tokens"][:, 0] for batch in batches])
    np.testing.assert_array_equal(numbers[1:], (numbers[:-1] + 1) % 11)
    np.testing.assert_array_equal(numbers[0] - numbers[0, 0], [0, 3, 6] - 11 * (
      numbers[0] < numbers[0, 0]
    ))  # fmt: skip
    begins = np.stack([batch["begins"] for batch in batches])
    np.testing.assert_array_equal(begins, numbers == 0)

  def test_seeds_begin_at_other_places(self):
    def first(seed):
      source = pipeline.Streams(_Numbers(1000), 4, seed)
      return int(source[0]["tokens"][0])

    self.assertLen({first(seed) for seed in range(5)}, 5)

  def test_processes_share_the_rows_and_a_state_resumes(self):
    given = {"seed": 1, "batch": 4, "consecutive": True}
    whole = pipeline.training(_Numbers(9), **given)
    rows = [
      pipeline.training(_Numbers(9), **given, process_index=i, process_count=2)
      for i in range(2)
    ]
    for _ in range(3):
      want = next(whole)["tokens"]
      for place, share in enumerate(rows):
        np.testing.assert_array_equal(next(share)["tokens"], want[place::2])
    again = pipeline.training(_Numbers(9), **given)
    again.set_state(whole.get_state())
    np.testing.assert_array_equal(next(again)["tokens"], next(whole)["tokens"])

  def test_an_evaluation_sees_each_example_once_in_order(self):
    found = list(pipeline.evaluation(_Numbers(10), batch=4, consecutive=True))
    labels = np.stack([batch["labels"][:, 0] for batch in found])
    np.testing.assert_array_equal(labels, [[0, 3, 6, 9], [1, 4, 7, -1], [2, 5, 8, -1]])
    begins = np.stack([batch["begins"] for batch in found])
    np.testing.assert_array_equal(np.argwhere(begins), [[0, 0]])
    second = pipeline.evaluation(
      _Numbers(10), batch=4, consecutive=True, process_index=1, process_count=2, limit=2
    )
    labels = [batch["labels"][:, 0] for batch in second]
    np.testing.assert_array_equal(labels, [[6, 9], [7, -1]])


class MemoryTest(absltest.TestCase):
  def test_rows_that_begin_forget(self):
    x = jnp.arange(12.0).reshape(1, 3, 2, 2) + 1
    held = (SegmentMemory(x, jnp.zeros((1, 3, 2), jnp.int32)),)
    (got,) = memory.begun(held, jnp.array([False, True, False]))
    np.testing.assert_array_equal(got.segment_ids[0], [[0, 0], [-1, -1], [0, 0]])
    np.testing.assert_array_equal(got.x[0, 1], 0)
    np.testing.assert_array_equal(got.x[0, ::2], x[0, ::2])
    self.assertTrue((memory.fresh(held)[0].segment_ids == -1).all())
    self.assertEqual(memory.fresh(()), ())

  def test_parts_are_those_of_the_rows(self):
    x = jnp.arange(2 * 4 * 3).reshape(2, 4, 3)
    cut = memory.parts({"x": x}, 2)
    np.testing.assert_array_equal(cut["x"], [x[:, :2], x[:, 2:]])
    np.testing.assert_array_equal(memory.whole(cut)["x"], x)


def _config():
  c = lm.get_config("rcmha")
  c.attention.update(heads=2, max_distance=40, conv_halo=True)
  c.model.update(dim=8, depth=2, mlp_ratio=1.0)
  c.data.update(batch=BATCH, length=LENGTH)
  c.memory = MEMORY
  c.steps, c.log_every, c.eval_every, c.save_every, c.eval_batches = 4, 1, 4, 2, 3
  return c


@functools.cache
def _assembled():
  return assemble(_config())


class StepTest(absltest.TestCase):
  def test_evaluation_of_segments_is_that_of_the_whole_row(self):
    a = _assembled()
    state = a.init()
    source = a.task.source("validation")
    assert isinstance(source, Windows)
    found = evaluation.evaluate(a, jax.jit(a.evaluate()), state, "validation")
    # Row r of three batches is one text of 24 bytes.
    rows = -(-len(source) // BATCH) * LENGTH * np.arange(BATCH)
    text = np.stack([source.bytes[r : r + 3 * LENGTH + 1] for r in rows]).astype(int)
    logits = state["model"](jnp.asarray(text[:, :-1]))
    log = jax.nn.log_softmax(logits, axis=-1)
    want = -np.take_along_axis(np.asarray(log), text[:, 1:, None], axis=-1).mean()
    np.testing.assert_allclose(found["loss"], want, rtol=1e-5)
    alone = -np.take_along_axis(
      np.asarray(jax.nn.log_softmax(state["model"](jnp.asarray(text[:, :LENGTH])))),
      text[:, 1 : LENGTH + 1, None],
      axis=-1,
    ).mean()
    self.assertGreater(abs(alone - want), 1e-4)

  def test_parts_are_the_whole_and_each_row_forgets_its_own(self):
    a, c = _assembled(), _config()
    batches = pipeline.training(
      a.task.source("train"), seed=0, batch=BATCH, consecutive=True
    )
    first, second = (dict(next(batches)) for _ in range(2))
    second["begins"] = np.array([False, True, False, False])
    chain, found = optimizer.make(c.optimizer, c.steps), []
    for accumulate in (1, 2):
      how = {"dtype": "float32", "accumulate": accumulate, "seed": 0}
      update = jax.jit(step.make_update(a.objective, chain, **how))
      state = a.init()
      for batch in (first, second):
        state, totals = update(state, batch)
      found.append((totals["loss"], state["memory"]))
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *found
    )
    ids = np.asarray(found[0][1][0].segment_ids)
    kept = np.where([[False], [True], [False], [False]], LENGTH, 2 * LENGTH)
    np.testing.assert_array_equal((ids == 0).sum(2), np.tile(kept[:, 0], (2, 1)))
    # The last inputs of the first layer are embeddings of the second batch.
    self.assertEqual(found[0][1][0].x.shape, (2, BATCH, MEMORY, 8))


class RunTest(absltest.TestCase):
  def test_goes_on_bit_equal(self):
    folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def train(name, until):
      trainer = loop.Trainer(_assembled(), folder / name, lambda text: None)

      class Stop:
        requested = property(lambda self: trainer.step >= until)

      trainer.run(Stop())  # type: ignore[arg-type]
      trainer.close()
      return trainer

    whole, _, again = train("whole", 9), train("cut", 2), train("cut", 9)
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)
    self.assertEqual(again.validation, whole.validation)
    names = [name for name in flatten(whole.state) if name.startswith("memory")]
    self.assertLen(names, 2)
    self.assertTrue((np.asarray(whole.state["memory"][0].segment_ids) == 0).all())


class RefusalsTest(absltest.TestCase):
  def test_examples_that_do_not_follow_each_other(self):
    for config in (induction.get_config("dot_product"), vit.get_config("dot_product")):
      config.memory = 8
      with self.assertRaisesRegex(errors.UserError, "do not follow"):
        assemble(config)
    config = _config()
    config.data.documents = True
    with self.assertRaisesRegex(errors.UserError, "a text without documents"):
      assemble(config)

  def test_numbers_and_models_without_a_memory(self):
    config = _config()
    config.memory = -1
    with self.assertRaisesRegex(errors.UserError, "memory = -1"):
      assemble(config)
    with self.assertRaisesRegex(ValueError, "has no memory"):
      memory.empty(object(), 2, 3, "float32")
    self.assertEqual(memory.empty(object(), 2, 0, "float32"), ())


if __name__ == "__main__":
  absltest.main()

"""Batches: shuffling, shares of processes, resuming, the end of an evaluation."""

import json
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from orbax.checkpoint import v1 as ocp

from experiments import data
from experiments.data import pipeline
from tests.data import load


class _Numbers:
  """Example i is the number i."""

  def __init__(self, length):
    self.length = length

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    number = np.full(3, range(self.length)[index], np.int32)
    return {"tokens": number, "labels": number}


def _take(batches, number):
  """The numbers in that many batches, (number, batch)."""
  return np.stack([next(batches)["tokens"][:, 0] for _ in range(number)])


class TrainingTest(parameterized.TestCase):
  @parameterized.parameters((20, 5), (21, 4))
  def test_each_epoch_is_another_order(self, length, batch):
    batches = pipeline.training(_Numbers(length), seed=3, batch=batch)
    stream = _take(batches, 4 * length // batch).ravel()[: 4 * (length - 1)]
    whole = len(stream) // length
    epochs = [tuple(stream[i * length : (i + 1) * length]) for i in range(whole)]
    for epoch in epochs:
      self.assertEqual(sorted(epoch), list(range(length)))
    self.assertLen({*epochs, tuple(range(length))}, whole + 1)

  def test_the_seed_decides(self):
    def order(seed):
      batches = pipeline.training(_Numbers(30), seed=seed, batch=6)
      return _take(batches, 10).ravel().tolist()

    self.assertEqual(order(1), order(1))
    self.assertNotEqual(order(1)[:30], order(2)[:30])
    # No epoch of one seed is an epoch of the next seed.
    self.assertNotEqual(order(1)[30:], order(2)[:30])

  @parameterized.parameters((24, 6, 2), (25, 6, 2), (24, 8, 4))
  def test_processes_share_each_batch(self, length, batch, count):
    whole = _take(pipeline.training(_Numbers(length), seed=0, batch=batch), 12)
    shares = [
      pipeline.training(
        _Numbers(length), seed=0, batch=batch, process_index=i, process_count=count
      )
      for i in range(count)
    ]
    parts = np.stack([_take(share, 12) for share in shares], axis=1)
    self.assertEqual(parts.shape, (12, count, batch // count))
    joined = parts.reshape(12, -1)
    np.testing.assert_array_equal(np.sort(joined), np.sort(whole))
    if length % batch == 0:
      epoch = joined[: length // batch].ravel()
      self.assertEqual(sorted(epoch), list(range(length)))

  @parameterized.parameters(0, 1, 7, 13)
  def test_resumes(self, steps):
    def batches():
      return pipeline.training(_Numbers(23), seed=5, batch=4)

    first = batches()
    if steps:
      _take(first, steps)
    state = json.loads(json.dumps(first.get_state()))
    want = _take(first, 9)
    resumed = batches()
    resumed.set_state(state)
    np.testing.assert_array_equal(_take(resumed, 9), want)
    first.set_state(state)  # also backwards
    np.testing.assert_array_equal(_take(first, 9), want)

  def test_resumes_from_a_checkpoint(self):
    source = load("kjv", length=32, documents=True).source("train")

    def batches():
      return pipeline.training(source, seed=5, batch=4)

    first = batches()
    for _ in range(6):
      next(first)
    with tempfile.TemporaryDirectory() as folder:
      with ocp.training.Checkpointer(folder) as checkpointer:
        checkpointer.save_checkpointables(6, {"data": first})
      want = [next(first) for _ in range(5)]
      resumed = batches()
      with ocp.training.Checkpointer(folder) as checkpointer:
        checkpointer.load_checkpointables(6, {"data": resumed})
      for batch in want:
        got = next(resumed)
        self.assertEqual(set(got), {"tokens", "labels", "segment_ids"})
        for name, value in batch.items():
          self.assertEqual((value.shape, value.dtype), ((4, 32), np.int32))
          np.testing.assert_array_equal(got[name], value)

  def test_images(self):
    source = load("digits").source("train")
    batch = next(pipeline.training(source, seed=0, batch=6))
    self.assertEqual(batch["image"].shape, (6, 8, 8, 1))
    self.assertEqual(batch["image"].dtype, np.float32)
    self.assertEqual((batch["label"].shape, batch["label"].dtype), ((6,), np.int32))

  @parameterized.parameters(
    (5, {"batch": 6, "process_count": 4}, "batch = 6 .* process_count = 4"),
    (5, {"batch": 0}, "batch = 0"),
    (5, {"batch": 4, "process_index": 2, "process_count": 2}, "process 2 of 2"),
    (0, {"batch": 4}, "no examples"),
  )
  def test_what_does_not_fit(self, length, options, message):
    with self.assertRaisesRegex(ValueError, message):
      pipeline.training(_Numbers(length), seed=0, **options)
    with self.assertRaisesRegex(ValueError, message):
      pipeline.evaluation(_Numbers(length), **options)
    with self.assertRaisesRegex(ValueError, "seed = -1"):
      pipeline.training(_Numbers(3), seed=-1, batch=1)
    with self.assertRaisesRegex(ValueError, "limit = -1"):
      pipeline.evaluation(_Numbers(3), batch=1, limit=-1)


class EvaluationTest(parameterized.TestCase):
  @parameterized.parameters((10, 4, 1), (10, 4, 2), (8, 4, 2), (1, 8, 4), (3, 3, 3))
  def test_one_pass_in_order(self, length, batch, count):
    passes = [
      pipeline.evaluation(
        _Numbers(length), batch=batch, process_index=i, process_count=count
      )
      for i in range(count)
    ]
    for _ in range(2):  # may be iterated again
      parts = [[b["labels"] for b in batches] for batches in passes]
      number = -(-length // batch)
      self.assertEqual({len(part) for part in parts}, {number})
      labels = np.array(parts)  # (count, number, batch / count, 3)
      self.assertEqual(labels.shape, (count, number, batch // count, 3))
      rows = labels.swapaxes(0, 1).reshape(number * batch, 3)
      self.assertEqual(rows[:length, 0].tolist(), list(range(length)))
      np.testing.assert_array_equal(rows[length:], -1)

  def test_limit(self):
    def number(limit):
      return len(list(pipeline.evaluation(_Numbers(10), batch=4, limit=limit)))

    self.assertEqual([number(limit) for limit in (0, 1, 2, 3, 9)], [3, 1, 2, 3, 3])

  def test_all_kinds_of_examples(self):
    for name, label in (("kjv", "labels"), ("digits", "label"), ("mqar", "labels")):
      task = load(name) if name != "mqar" else data.load(name, {"held_out": 50})
      source = task.source("test")
      *_, last = pipeline.evaluation(source, batch=len(source) + 3)
      self.assertLen(last[label], len(source) + 3)
      self.assertTrue((last[label][-3:] == -1).all())
      self.assertTrue((last[label][:-3] >= 0).any(), name)

  def test_maps_that_fill_a_batch_ask_nothing(self):
    for name, blank in (("weather", np.nan), ("drawn_shapes", -1)):
      source = data.load(name, {"held_out": 2}).source("test")
      (batch,) = pipeline.evaluation(source, batch=3)
      target = np.asarray(batch["target"], float)
      np.testing.assert_array_equal(target[2], np.full_like(target[2], blank))
      self.assertTrue((target[:2] >= 0).all(), name)


if __name__ == "__main__":
  absltest.main()

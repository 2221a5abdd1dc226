"""CoLLM: a language model reads an image and a text that changes it, to find another.

Chuong Huynh, Jinyu Yang, Ashish Tawari, Mubarak Shah, Son Tran, Raffay Hamid, Trishul
Chilimbi, Abhinav Shrivastava. CoLLM: A Large Language Model for Composed Image
Retrieval. CVPR 2025. arXiv:2503.19910. Official code: github.com/hmchuong/CoLLM, which
could not be run here; held to the paper's formulas.

Of B images and captions, v'[i] and v[i] being unit vectors of two views of image i,

  j(i)  = argmax_(j != i) v'[i] . v'[j]                       a neighbour in the batch
  r[i]  = (sin((1 - alpha) theta) v'[i] + sin(alpha theta) v'[j]) / sin theta
          with theta the angle of v'[i] and v'[j]                        the reference
  w[i]  = a template of the captions of j and i for 75 %, else the caption of i
  q[i]  = unit(Wq h),  h the last real token of a causal language model that reads
          instruction, g(r[i]), w[i], where g is linear - GELU - linear
  t[i]  = unit(Wt v[i]),      or v[i]
  loss  = (cross entropy of the rows + that of the columns) / 2 of exp(log_scale) q . t

In pre-training it is the mean over three kinds of queries for the same targets: r
alone, the caption alone, r and w; on real triplets it is that of the third kind.
`log_scale` begins at ln(1 / 0.07) and stays below ln 100: `attnjax.nn.temperature`.
Recalls and mAP@k are in `experiments.retrieval`, the host is `attnjax.models.composed`.

It has the form "pairs", not "cross": the language model is that of any causal
mechanism, and belongs to the host; what remains is a score of all queries and items,
each embedded alone. The Scorer takes the model's hidden states.

Invented here: the templates but for three examples of the paper; {some}, a part of the
caption; an angle by chords, exact near 0 and pi; equal captions, which are no
neighbours; pairs that `false_negatives` takes out; rows of tiles.

Cost: O(B^2 D) time for neighbours and O(B^2 E) for the loss, beside the language model;
memory O(B^2), with tiles O(B tile) for the loss.

Axes: B pairs of a batch, Q queries, I items, T tokens, L words of a caption, M of a
text, D width of the model, W of an image's vector, E of the common space.

Not here: the weights and the tokenizer of SFR-Embedding-2, its LoRA, CLIP and BLIP;
augmentation of pixels; the authors' list of templates; the data set MTCIR and the
benchmarks CIRR, Fashion-IQ and CIRCO; a queue of past batches for neighbours; a fused
kernel of the loss; causal mechanisms with batch norm in the host.
"""

from attnjax.variants.cross.composed_retrieval.cases import CASES
from attnjax.variants.cross.composed_retrieval.definition import (
  reference_info_nce,
  reference_nearest_in_batch,
  reference_pool_last,
  reference_slerp,
)
from attnjax.variants.cross.composed_retrieval.geometry import (
  IMPLEMENTATIONS,
  false_negatives,
  nearest_in_batch,
  random_in_batch,
  slerp,
)
from attnjax.variants.cross.composed_retrieval.loss import (
  KINDS,
  info_nce,
  pretraining_loss,
)
from attnjax.variants.cross.composed_retrieval.query import (
  Adapter,
  embed_query,
  embed_tokens,
  pool_last,
)
from attnjax.variants.cross.composed_retrieval.scorer import Scorer
from attnjax.variants.cross.composed_retrieval.text import (
  BARE_PROMPT,
  PROMPT,
  TEMPLATES,
  WORDS,
  Prompt,
  Templates,
  choose_templates,
  compose,
  encode_prompt,
  encode_templates,
  modify,
  some_words,
)
from attnjax.variants.cross.composed_retrieval.triplets import (
  NEIGHBOURS,
  Triplets,
  synthesize_triplets,
)

FORMS = ("pairs",)
QUERY, ITEM = ("T", "D"), ("D",)
SCORER = {"dims": {"queries": 6, "items": 5}, "width": 4}

__all__ = [
  "BARE_PROMPT",
  "CASES",
  "FORMS",
  "IMPLEMENTATIONS",
  "ITEM",
  "KINDS",
  "NEIGHBOURS",
  "PROMPT",
  "QUERY",
  "SCORER",
  "TEMPLATES",
  "WORDS",
  "Adapter",
  "Prompt",
  "Scorer",
  "Templates",
  "Triplets",
  "choose_templates",
  "compose",
  "embed_query",
  "embed_tokens",
  "encode_prompt",
  "encode_templates",
  "false_negatives",
  "info_nce",
  "modify",
  "nearest_in_batch",
  "pool_last",
  "pretraining_loss",
  "random_in_batch",
  "reference_info_nce",
  "reference_nearest_in_batch",
  "reference_pool_last",
  "reference_slerp",
  "slerp",
  "some_words",
  "synthesize_triplets",
]

"""Sentence attention: the vector of a sentence weighs the channels of feature maps.

Seyedalireza Khoshsirat, Chandra Kambhamettu. Sentence Attention Blocks for Answer
Grounding. ICCV 2023. arXiv:2309.11593. Official code:
github.com/khoshsirat/embedding-attention-blocks (commit 1d9268c).

Of an image there are feature maps x_0, fine, to x_L, coarse, of widths C_l; of a
question, its answer or both there is one vector t (E,). It is squeeze and excitation
whose squeeze is the sentence: no reduction but an expansion, and no mean of the map.

  g_l = softmax_c( W2 relu( LN( W1 t + b1 ) ) + b2 )     4 E numbers inside, C_l of g_l
  x_l <- g_l x_l                                         one gate for all pixels
  x_(l-1) <- relu( x_(l-1) + bilinear( BN( K x_l ) ) )   from coarse to fine; K: 1 x 1
  logits = bilinear( head( dropout( x_0 ) ) )            at the size of the image

Bilinear maps have half-pixel centres. Kinds of gate: "softmax"; "sigmoid", of the same
logits, as squeeze and excitation has it; "softmax_scaled", C_l times the softmax, which
is invented here. A softmax is about 1 / C_l: the batch norm hides that from the coarser
map of a merge, but nothing from the finer one, so that training begins slowly.

A gate in front of a product with K is folded into it, a kernel g K for each sentence,
which saves writing the gated map. This holds of the coarsest map alone: other gates
enter a sum with what is merged, which is not gated again.

Invented here, for the form "cross": text of several tokens, whose real ones are
averaged to t, as sentence encoders (MiniLM, the authors') pool them; none give t = 0.

Cost: O(E^2 + E C) a sentence, whatever the number of pixels, and a product with the
map, which is bound by reading it; the merge takes O(T C D) for T pixels of the coarser
map. Backward keeps the maps, the sentence and the weights.

Axes: B batch, H W pixels, T = H W, C channels of a map, D channels of the next finer
one, E width of the sentence, M = 4 E.

Not here: the pre-trained EfficientNet-B7 (its maps have 32, 48, 80, 224 and 640
channels at strides of 2 to 32) and the instance norm with running statistics that
standardises its images; the frozen sentence encoder; the RMI loss of the authors'
training, pixels have the cross entropy; their four data sets and weights; 2 E inside
the gate is `expansion` = 2, but the rest of their later paper (Embedding Attention
Blocks, CVPRW 2024) is missing; fused kernels, since XLA fuses the product.
"""

from attnjax.variants.cross.sentence_attention.cases import CASES
from attnjax.variants.cross.sentence_attention.definition import (
  reference,
  reference_channel_gate,
  reference_project,
)
from attnjax.variants.cross.sentence_attention.gates import (
  EPSILON,
  GATES,
  IMPLEMENTATIONS,
  attend,
  channel_gate,
  project,
)
from attnjax.variants.cross.sentence_attention.layer import (
  FORMS,
  STREAMS,
  Layer,
)
from attnjax.variants.cross.sentence_attention.network import (
  CHANNELS,
  GroundingNet,
)

__all__ = [
  "CASES",
  "CHANNELS",
  "EPSILON",
  "FORMS",
  "GATES",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "STREAMS",
  "GroundingNet",
  "Layer",
  "attend",
  "channel_gate",
  "project",
  "reference",
  "reference_channel_gate",
  "reference_project",
]
LAYER = {"dims": {"image": 6, "text": 5}, "expansion": 2}
GROWTH = 1.0

"""Networks: the score network, condition embeddings, encoder, decoder, prior, adapters."""

from ._conditions import ConditionEmbedding, drop_conditions
from ._decoder import ExpressionDecoder
from ._encoder import ExpressionEncoder
from ._feature_fill import FeatureFill
from ._low_rank import LowRankLinear, add_adapters, merge_adapters
from ._multimodal_encoder import MultimodalEncoder
from ._prior import MixturePrior
from ._score_network import ScoreNetwork
from ._sparse_linear import SparseLinear

__all__ = [
    "MultimodalEncoder",
    "ConditionEmbedding",
    "ExpressionDecoder",
    "ExpressionEncoder",
    "FeatureFill",
    "LowRankLinear",
    "MixturePrior",
    "ScoreNetwork",
    "SparseLinear",
    "add_adapters",
    "drop_conditions",
    "merge_adapters",
]

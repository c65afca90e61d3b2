"""Networks: the score network, condition embeddings, encoder, decoder, prior."""

from ._conditions import ConditionEmbedding, drop_conditions
from ._decoder import ExpressionDecoder
from ._encoder import ExpressionEncoder
from ._prior import MixturePrior
from ._score_network import ScoreNetwork

__all__ = [
    "ConditionEmbedding",
    "ExpressionDecoder",
    "ExpressionEncoder",
    "MixturePrior",
    "ScoreNetwork",
    "drop_conditions",
]

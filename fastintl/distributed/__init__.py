"""The ranks of a run: who they are, what they exchange, what they agree on, and how they stop together."""

from fastintl.distributed.collectives import data_parallel, gather, gather_embeddings, gather_views, mean_over_ranks
from fastintl.distributed.world import World, start, world_size

__all__ = [
    "World",
    "data_parallel",
    "gather",
    "gather_embeddings",
    "gather_views",
    "mean_over_ranks",
    "start",
    "world_size",
]

//! Training: the loop, optimisers and schedules, checkpoints, and the recipes of the shipped models.

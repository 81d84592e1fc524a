"""Training, shared by the stages: data streams, the Lightning trainer, checkpoints. Needs the extra ``train``."""
